from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfimprove.training import loop
from selfimprove.training.checkpoint import CheckpointStore
from selfimprove.training.conditions import MetricAtLeast
from selfimprove.training.detectors import Detector, Monitor
from selfimprove.training.finite import NonFiniteError
from selfimprove.training.metrics import read_rows
from selfimprove.training.stages import unroll
from tests.training import tiny

STEPS = 7  # Three, two of four by the condition, two.


@pytest.fixture(scope='module', autouse=True)
def _programs_are_compiled_once():
  """Runs of equal stages share them; `test_interrupted` has real processes."""
  with pytest.MonkeyPatch.context() as patch:
    build = tiny.shared_programs(loop.programs.build)
    patch.setattr(loop.programs, 'build', build)
    yield


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """A run that nobody interrupted."""
  workdir = tmp_path_factory.mktemp('straight')
  state, said = tiny.train(workdir, tiny.stages())
  return workdir, jax.device_get(state), said


def _rows(workdir):
  return read_rows(workdir / 'metrics.jsonl')


def _assert_same(workdir, state, straight):
  other, wanted, _ = straight
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), wanted)
  read = lambda folder: (folder / 'metrics.jsonl').read_bytes()  # noqa: E731
  assert read(workdir) == read(other)


def test_a_run_goes_through_its_stages_in_order(straight):
  workdir, state, _ = straight
  assert state.step == STEPS
  assert state.position == STEPS * 4
  stages = [row['stage'] for row in _rows(workdir) if 'loss/total' in row]
  assert stages == ['one'] * 3 + ['two'] * 2 + ['three'] * 2


def test_every_stage_ends_with_an_evaluation_and_a_word(straight):
  workdir, _, said = straight
  at = [row['step'] for row in _rows(workdir) if 'eval/acc_last' in row]
  assert at == [3, 5, 7]
  for name, step in (('one', 3), ('two', 5), ('three', 7)):
    assert f'Stage {name} ended at step {step}: eval/acc_last' in said


# Steps 3 and 5 are the last of a stage, 7 is the last of all.
@pytest.mark.parametrize(
  'stops',
  [
    (1, 4),
    pytest.param((2, 3), marks=pytest.mark.slow),
    (3, 5),
    pytest.param((6, 7), marks=pytest.mark.slow),
  ],
)
def test_an_interrupted_run_ends_bit_for_bit_as_a_straight_one(
  stops, straight, tmp_path
):
  for stop_after in stops:
    state, said = tiny.train(tmp_path, tiny.stages(), stop_after=stop_after)
    assert int(state.step) == stop_after
    assert f'Stopped by SIGTERM after step {stop_after}' in said
  state, said = tiny.train(tmp_path, tiny.stages())
  assert f'the checkpoint of step {stops[-1]}' in said
  _assert_same(tmp_path, state, straight)


def test_a_run_asked_to_stop_between_stages_goes_on_exactly(
  straight, tmp_path, monkeypatch
):
  # The signal comes while the second stage is set up.
  made = tiny.run(tmp_path, tiny.stages())
  build = loop.programs.build

  def build_and_stop(given):
    made.run.stop.requested = given.stage.name == 'two'
    return build(given)

  with monkeypatch.context() as patch:
    patch.setattr(loop.programs, 'build', build_and_stop)
    assert int(loop.train(made.run).step) == 3
  made.run.store.close()
  made.run.writer.close()
  _assert_same(tmp_path, tiny.train(tmp_path, tiny.stages())[0], straight)


def test_a_run_that_dies_without_a_word_repeats_the_lost_steps(
  straight, tmp_path
):
  # Checkpoints are of steps 2, 3, 4, ...; step 4 is cut off before its save.
  made = tiny.run(tmp_path, tiny.stages())
  batch = made.run.batch

  def dying(stage, position):
    if position == 4 * 4:
      raise KeyboardInterrupt
    return batch(stage, position)

  with pytest.raises(KeyboardInterrupt):
    loop.train(dataclasses.replace(made.run, batch=dying))
  made.run.store.close()
  made.run.writer.close()
  _assert_same(tmp_path, tiny.train(tmp_path, tiny.stages())[0], straight)


def test_a_finished_run_says_so_and_changes_nothing(straight):
  workdir, _, _ = straight
  before = (workdir / 'metrics.jsonl').read_bytes()
  state, said = tiny.train(workdir, tiny.stages())
  assert said == (
    'Resumed from the checkpoint of step 7.\n'
    'This run is already done, at step 7; nothing is left to train.\n'
  )
  _assert_same(workdir, state, straight)
  assert (workdir / 'metrics.jsonl').read_bytes() == before


@pytest.mark.slow
def test_two_rounds_alternate_the_stages(tmp_path):
  one, two, _ = tiny.stages()
  listed = [
    dataclasses.replace(one, steps=1),
    dataclasses.replace(two, steps=1, advance=None),
  ]
  state, _ = tiny.train(tmp_path, unroll(listed, 2))
  assert int(state.step) == 4
  rows = [row['stage'] for row in _rows(tmp_path) if 'loss/total' in row]
  assert rows == ['one_1', 'two_1', 'one_2', 'two_2']


@pytest.mark.slow
def test_the_reference_is_the_base_model_through_both_stages(tmp_path):
  first = tiny.train(tmp_path / 'a', tiny.stages()[:1], stop_after=1)[0]
  base = jax.device_get(first.ref_params)
  init = loop._fresh_state(tiny.run(tmp_path / 'b', tiny.stages()).run, None)
  jax.tree.map(np.testing.assert_array_equal, base, init.params)
  after = tiny.train(tmp_path / 'a', tiny.stages()[:2])[0]
  assert int(after.step) == 5
  jax.tree.map(np.testing.assert_array_equal, base, after.ref_params)
  moved = jax.tree.map(lambda a, b: np.any(a != b), base, after.params)
  assert all(jax.tree.leaves(moved))


def test_a_stage_may_measure_against_what_the_last_one_made(straight, tmp_path):
  _, wanted, _ = straight
  at_two = tiny.train(tmp_path, tiny.stages(), stop_after=5)[0]
  jax.tree.map(np.testing.assert_array_equal, at_two.params, wanted.ref_params)


@pytest.mark.slow
def test_a_number_that_is_none_stops_and_leaves_the_last_checkpoint(tmp_path):
  stage = tiny.stages()[0]
  # An infinite learning rate after two good updates: step 4 sees it.
  stage = dataclasses.replace(
    stage,
    steps=9,
    optimizer=optax.sgd(lambda done: jnp.where(done < 2, 1e-2, jnp.inf)),
  )
  with pytest.raises(NonFiniteError, match=r'Step 4: loss term `\w+` is not'):
    tiny.train(tmp_path, [stage])
  assert max(row['step'] for row in _rows(tmp_path)) == 3
  with CheckpointStore(tmp_path / 'checkpoints', keep_last=1) as store:
    assert store.latest_step() == 2
    read = store.read_extra(2)
  assert read['cursor'] == {'stage': 0, 'stage_step': 2, 'condition': {}}


def test_a_detector_whose_action_is_to_stop_stops(tmp_path):
  detector = Detector(
    name='too_long',
    metric='rollout/tokens',
    comparison='at_least',
    threshold=0.0,
    patience=3,
    action='stop',
    advice='this is a test',
  )
  with pytest.raises(loop.StoppedByDetectorError, match='Step 3: `rollout/'):
    tiny.train(tmp_path, tiny.stages(), monitor=Monitor([detector]))
  with CheckpointStore(tmp_path / 'checkpoints', keep_last=1) as store:
    assert store.latest_step() == 2


def test_a_warning_is_shown_and_the_run_goes_on(tmp_path):
  detector = Detector(
    name='too_long',
    metric='rollout/tokens',
    comparison='at_least',
    threshold=0.0,
    patience=2,
    action='warn',
    advice='this is a test',
  )
  state, said = tiny.train(
    tmp_path, tiny.stages()[:1], monitor=Monitor([detector])
  )
  assert int(state.step) == 3
  assert said.count('Warning: Step 2: `rollout/tokens`') == 1


def test_the_best_and_the_last_checkpoints_are_kept(tmp_path):
  scores = iter([0.1, 0.9, 0.2, 0.3])
  one = dataclasses.replace(tiny.stages()[0], steps=4)
  tiny.train(
    tmp_path,
    [one],
    evaluate=lambda params: {'eval/acc_last': next(scores)},
    schedule=loop.Schedule(evaluate_every=1, checkpoint_every=1),
  )
  kept = sorted(p.name for p in (tmp_path / 'checkpoints').iterdir())
  assert [name for name in kept if name.isdigit()] == ['2', '4']


@pytest.mark.slow
def test_the_end_of_a_stage_competes_for_the_best_checkpoint(tmp_path):
  scores = iter([0.9, 0.1])
  stages = [
    dataclasses.replace(stage, steps=2, advance=None)
    for stage in tiny.stages()[:2]
  ]
  tiny.train(
    tmp_path,
    stages,
    evaluate=lambda params: {'eval/acc_last': next(scores)},
    schedule=loop.Schedule(keep_stage_ends=False),
  )
  with CheckpointStore(tmp_path / 'checkpoints', keep_last=1) as store:
    assert store.steps() == [2, 4]


def test_the_end_of_each_stage_is_kept_whatever_comes_later(straight):
  workdir, _, _ = straight
  with CheckpointStore(workdir / 'checkpoints', keep_last=1) as store:
    assert store.steps() == [3, 5, 7]


def _evaluated(tmp_path, scores, **changes):
  """A stage of at most nine steps, evaluated at each."""
  found = iter(scores)
  stage = dataclasses.replace(
    tiny.stages()[0], steps=9, advance=changes.pop('advance', None)
  )
  return tiny.train(
    tmp_path,
    [stage],
    evaluate=lambda params: {'eval/acc_last': next(found)},
    schedule=changes.pop('schedule', loop.Schedule(evaluate_every=1)),
    **changes,
  )


def test_conditions_see_evaluations_and_none_is_made_twice(tmp_path):
  advance = MetricAtLeast(metric='eval/acc_last', threshold=0.5, patience=2)
  state, said = _evaluated(tmp_path, [0.6, 0.1, 0.6, 0.7], advance=advance)
  assert int(state.step) == 4
  assert 'Stage one ended at step 4: eval/acc_last 0.700' in said
  at = [row['step'] for row in _rows(tmp_path) if 'eval/acc_last' in row]
  assert at == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_condition_on_an_evaluation_goes_on_where_it_was(tmp_path):
  advance = MetricAtLeast(metric='eval/acc_last', threshold=0.5, patience=3)
  _evaluated(tmp_path, [0.6, 0.6], advance=advance, stop_after=2)
  state, _ = _evaluated(tmp_path, [0.6], advance=advance)
  assert int(state.step) == 3


def test_detectors_see_evaluations(tmp_path):
  detector = Detector(
    name='worse',
    metric='eval/acc_last',
    comparison='at_most',
    threshold=0.1,
    patience=2,
    action='stop',
    advice='this is a test',
  )
  with pytest.raises(loop.StoppedByDetectorError, match='Step 3: `eval/acc_'):
    _evaluated(tmp_path, [0.6, 0.0, 0.0], monitor=Monitor([detector]))


def test_a_condition_that_no_evaluation_reaches_is_refused(tmp_path):
  advance = MetricAtLeast(metric='eval/acc_last', threshold=0.5)
  with pytest.raises(ValueError, match="'one' advances by 'eval/acc_last'"):
    _evaluated(tmp_path, [], advance=advance, schedule=loop.Schedule())


def test_names_of_metrics_that_do_not_come_are_said_once(tmp_path):
  stop = {'comparison': 'at_least', 'threshold': 9.0, 'patience': 1}
  stop |= {'action': 'stop', 'advice': 'this is a test'}
  detectors = [
    Detector(name='a', metric='eval/acc_lats', **stop),
    Detector(name='b', metric='loss/ghost', optional=True, **stop),
    Detector(name='c', metric='eval/acc_last', **stop),
  ]
  _, said = _evaluated(
    tmp_path,
    [0.1] * 9,
    schedule=loop.Schedule(evaluate_every=1, best_metric='eval/acc_lost'),
    advance=MetricAtLeast(metric='rollout/token', threshold=1.0),
    monitor=Monitor(detectors),
  )
  warnings = [line for line in said.splitlines() if 'Warning' in line]
  assert [line.split("'")[1::2] for line in warnings] == [
    ['eval/acc_lats', 'eval/acc_last'],
    ['eval/acc_lost', 'eval/acc_last'],
    ['rollout/token', 'rollout/tokens'],
  ]
