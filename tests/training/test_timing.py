from __future__ import annotations

import pytest

from selfimprove.training.timing import PhaseTimers


class _Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return _Clock()


def _step(timers, clock, seconds, *, tokens=0, variant='', idle=0.0):
  for name, duration in seconds.items():
    with timers.phase(name, variant=variant):
      clock.now += duration
  clock.now += idle
  return timers.end_step(tokens=tokens)


def test_the_first_call_of_a_phase_is_reported_as_compilation(clock):
  timers = PhaseTimers(clock=clock)
  assert _step(timers, clock, {'rollout': 9.0}, tokens=100) == {
    'time/compile_rollout': 9.0,
    'time/total': 9.0,
  }
  assert _step(timers, clock, {'rollout': 2.0}, tokens=100, idle=2.0) == {
    'time/rollout': 2.0,
    'time/total': 4.0,
    'speed/tokens_per_second': 25.0,
  }


def test_a_new_variant_compiles_again(clock):
  timers = PhaseTimers(clock=clock)
  for variant in ('I', 'I', 'II', 'I'):
    row = _step(timers, clock, {'update': 1.0}, variant=variant)
    compiled = 'time/compile_update' in row
    assert compiled == (variant == 'II' or 'time/update' not in row)


def test_a_phase_used_twice_in_a_step_adds_up(clock):
  timers = PhaseTimers(clock=clock)
  _step(timers, clock, {'score': 1.0})
  with timers.phase('score'):
    clock.now += 1.0
  row = _step(timers, clock, {'score': 2.0})
  assert row['time/score'] == 3.0


def test_a_phase_that_fails_is_still_timed(clock):
  timers = PhaseTimers(clock=clock)

  def fails():
    with timers.phase('update'):
      clock.now += 3.0
      raise RuntimeError('step')

  with pytest.raises(RuntimeError, match='step'):
    fails()
  assert timers.end_step()['time/compile_update'] == 3.0


def test_a_phase_named_step_is_kept_apart_from_the_total(clock):
  timers = PhaseTimers(clock=clock)
  _step(timers, clock, {'step': 9.0})
  _step(timers, clock, {'data': 1.0})
  row = _step(timers, clock, {'data': 1.0, 'step': 2.0}, idle=3.0)
  assert (row['time/step'], row['time/total']) == (2.0, 6.0)
  with pytest.raises(ValueError, match="cannot be named 'total'"):
    _step(timers, clock, {'total': 1.0})


def test_what_others_measured_is_summed_but_for_maxima(clock):
  timers = PhaseTimers(clock=clock)
  timers.note({'verifier/seconds': 2.0, 'verifier/seconds_max': 2.0})
  timers.note({'verifier/seconds': 1.0, 'verifier/seconds_max': 1.0})
  row = timers.end_step()
  assert row['verifier/seconds'] == 3.0
  assert row['verifier/seconds_max'] == 2.0
  assert 'verifier/seconds' not in timers.end_step()
