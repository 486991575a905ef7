from __future__ import annotations

import numpy as np
import pytest

from selfimprove.evaluation.scaling import by_budget

# Two problems, four samples of two attempts; `r` is the right answer.
ANSWERS = [
  [['a', 'r'], ['a', 'b'], ['r', 'r'], ['r', 'r']],
  [['r', 'c'], ['r', 'c'], ['b', 'r'], ['b', 'b']],
]
CORRECT = np.array([[[x == 'r' for x in s] for s in p] for p in ANSWERS])


def test_a_budget_is_spent_on_first_or_on_last_attempts():
  found = {name: m.value for name, m in by_budget(ANSWERS, CORRECT).items()}
  assert found == {
    # First attempts: a, a | r, r.
    'parallel@2': 0.5,
    # The last attempt of one sample: r | c.
    'sequential@2': 0.5,
    # a a r r: the first to reach two votes wins, a | r r b b: r.
    'parallel@4': 0.5,
    # Last attempts of two samples: r b, a tie that the first wins | c c.
    'sequential@4': 0.5,
  }


def test_corrections_can_be_worth_more_than_more_attempts():
  answers = [[['a', 'r'], ['b', 'r'], ['a', 'r'], ['b', 'r']]]
  correct = np.array([[[False, True]] * 4])
  found = by_budget(answers, correct)
  assert found['parallel@4'].value == 0
  assert found['sequential@4'].value == 1


def test_single_attempts_cannot_be_compared():
  with pytest.raises(ValueError, match='one attempt; give some with two'):
    by_budget([[['a']]], np.ones((1, 1, 1)))
