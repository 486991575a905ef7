from __future__ import annotations

import collections

import pytest

from benchmarks import verifiers
from selfimprove.rewards.mathematics import MathAnswer


@pytest.mark.slow
@pytest.mark.parametrize('kind', verifiers.SHARES)
def test_some_made_up_answers_are_right_and_some_are_wrong(kind):
  judge = MathAnswer()
  calls = verifiers.of_kind(kind, 40, seed=0)
  verdicts = collections.Counter(judge(*call) for call in calls)
  assert verdicts[1.0] > verdicts[0.0] > 3


def test_no_two_calls_are_the_same_and_a_seed_gives_them_again():
  calls = verifiers.ordinary(500, seed=1)
  assert len({attempt for attempt, _ in calls}) == 500
  assert calls == verifiers.ordinary(500, seed=1)
  assert calls != verifiers.ordinary(500, seed=2)


@pytest.mark.slow
def test_ordinary_answers_are_judged_fast_enough():
  # The target is 500 on two idle cores; other processes may have most of them.
  found = verifiers.measure(workers=2, calls=200)
  assert found['verdicts_per_second']['ordinary'] >= 100
