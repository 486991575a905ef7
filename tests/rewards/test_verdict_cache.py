from __future__ import annotations

import pytest

from selfimprove.rewards.pool import Failure, VerifierPool
from selfimprove.rewards.verdict_cache import (
  CachedPool,
  Outcome,
  counted,
  timed,
)
from tests.rewards import misbehaving


def _pool(verifier=misbehaving.length, *, size=100, workers=1, **settings):
  defaults = {'timeout_seconds': 20.0, 'memory_bytes': None}
  pool = VerifierPool(verifier, workers=workers, **{**defaults, **settings})
  return CachedPool(pool, size=size)


def _run(pool, calls, *, stop=False):
  return pool.run(calls, stop_at_failure=stop)


def _verdicts(outcomes):
  return [outcome.verdict for outcome in outcomes]


def _cached(outcomes):
  return [outcome.cached for outcome in outcomes]


def test_equal_calls_are_made_once_within_and_across_runs():
  pool = _pool()
  calls = [('a', {}), ('bb', {}), ('a', {})]
  first, second = _run(pool, calls), _run(pool, calls)
  assert _verdicts(first) == _verdicts(second) == [1.0, 2.0, 1.0]
  assert _cached(first) == [False, False, True]
  assert _cached(second) == [True, True, True]
  assert pool.pool.counts['calls'] == 2


def test_another_attempt_or_another_row_is_another_call():
  pool = _pool()
  rows = [{}, {'answer': '1'}, {'answer': 1}, {'answer': '1', 'x': None}]
  calls = [(text, row) for text in ('a', 'b', '') for row in rows]
  assert _cached(_run(pool, calls)) == [False] * len(calls)


def test_the_order_of_the_fields_of_a_row_does_not_matter():
  pool = _pool()
  calls = [('a', {'x': 1, 'y': 2}), ('a', {'y': 2, 'x': 1})]
  assert _cached(_run(pool, calls)) == [False, True]


@pytest.mark.parametrize('workers', [1, 3])
def test_a_remembered_verdict_equals_a_fresh_one(workers):
  pool = _pool(misbehaving.slow_then_length, workers=workers)
  plain = _pool(misbehaving.slow_then_length, size=0)
  calls = [('x' * (i % 5), {'row': i % 2}) for i in range(20)]
  wanted = _verdicts(_run(plain, calls))
  assert _verdicts(_run(pool, calls)) == wanted
  assert _verdicts(_run(pool, calls[::-1])) == wanted[::-1]


def test_what_was_longest_unused_goes_first():
  pool = _pool(size=2)
  for text in ('a', 'b', 'a', 'c'):
    _run(pool, [(text, {})])
  # Of a, b and c only b has gone.
  assert _cached(_run(pool, [('a', {})])) == [True]
  assert _cached(_run(pool, [('c', {})])) == [True]
  assert _cached(_run(pool, [('b', {})])) == [False]


def test_more_equal_calls_than_there_is_room_for_are_all_answered():
  pool = _pool(size=1)
  calls = [('a' * (i % 4), {}) for i in range(12)]
  assert _verdicts(_run(pool, calls)) == [float(i % 4) for i in range(12)]
  assert _verdicts(_run(pool, calls)) == [float(i % 4) for i in range(12)]


def test_a_failure_is_shared_within_a_run_and_not_remembered():
  pool = _pool(misbehaving.act)
  calls = [('raise', {}), ('raise', {}), ('right', {})]
  for _ in range(2):
    outcomes = _run(pool, calls)
    assert isinstance(outcomes[0].verdict, Failure)
    assert outcomes[1].verdict is outcomes[0].verdict
    assert outcomes[2].verdict == 1.0
    assert pool.pool.counts['failures'] == 1


def test_no_call_follows_a_failure_that_stops():
  pool = _pool(misbehaving.act)
  calls = [('right', {}), ('raise', {}), ('nan', {}), ('right', {})]
  outcomes = _run(pool, calls, stop=True)
  assert outcomes[0].verdict == outcomes[3].verdict == 1.0
  assert isinstance(outcomes[1].verdict, Failure)
  assert outcomes[2].verdict is None


def test_without_room_every_call_is_made():
  pool = _pool(size=0)
  assert _cached(_run(pool, [('a', {}), ('a', {})])) == [False, False]
  assert pool.pool.counts['calls'] == 2


def test_a_negative_size_is_refused():
  with pytest.raises(ValueError, match='cache_size is -1'):
    _pool(size=-1)


def test_seconds_are_those_of_the_call():
  pool = _pool(misbehaving.slow_then_length)
  slow, fast = _run(pool, [('x', {}), ('xx', {})])
  assert 0.02 <= slow.seconds < 1.0
  assert 0 <= fast.seconds < slow.seconds


def test_the_seconds_of_a_killed_call_are_its_time():
  pool = _pool(misbehaving.act, timeout_seconds=0.5)
  (outcome,) = _run(pool, [('loop', {})])
  assert outcome.seconds == 0.5


def test_outcomes_are_counted_and_timed():
  def outcome(verdict, *, cached=False, seconds=0.0):
    return Outcome(verdict=verdict, cached=cached, seconds=seconds)

  outcomes = [
    outcome(1.0, seconds=2.0),
    outcome(1.0, cached=True),
    outcome(Failure(reason='x', timed_out=True), seconds=3.0),
    outcome(Failure(reason='x'), seconds=1.0),
    outcome(None),
  ]
  assert counted(outcomes) == {'calls': 4, 'failures': 2, 'timeouts': 1}
  assert timed(outcomes) == {'cached': 1, 'seconds': 6, 'seconds_max': 3}
  assert timed([]) == {'cached': 0, 'seconds': 0, 'seconds_max': 0}
