from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.rewards.patterns import PrefixMatch, SameSum
from tests.rewards.written import prompts, rollout

_EOS = 1
_ZERO = 3  # Id of the symbol of value 0; ten of them follow each other.
SYMBOLS = jnp.arange(_ZERO, _ZERO + 10, dtype=jnp.int32)


def _verdict(verifier, ids, answer, *, finished=True):
  sample = rollout([[ids, [_EOS]]], finished=[[finished, True]])
  return float(verifier(sample, prompts([answer]))[0, 0])


@pytest.mark.parametrize(
  ('ids', 'verdict'),
  [
    ([5, 6, _EOS], 1.0),
    ([5, 6, 9, _EOS], 1.0),
    ([5, 6, 0, 7], 1.0),  # A written pad id is noise like any other.
    ([5, 6], 1.0),
    ([5, _EOS], 0.0),  # A prefix of the answer is not begun with it.
    ([5], 0.0),
    ([6, 5, 6, _EOS], 0.0),  # The answer, but not at once.
    ([_EOS], 0.0),
  ],
)
@pytest.mark.parametrize('finished', [True, False])
def test_an_attempt_is_right_iff_it_begins_with_the_answer(
  ids, verdict, finished
):
  assert _verdict(PrefixMatch(), ids, [5, 6], finished=finished) == verdict


def test_no_attempt_begins_with_an_answer_that_is_not_there():
  assert _verdict(PrefixMatch(), [5, _EOS], []) == 0.0


def test_ten_of_a_hundred_pairs_have_the_sum():
  sums = SameSum(symbols=SYMBOLS)
  pairs = list(itertools.product(range(10), repeat=2))
  rows = [[[a + _ZERO, b + _ZERO, _EOS], [_EOS]] for a, b in pairs]
  answer = [7 + _ZERO, 8 + _ZERO]  # 15: the sum is 5.
  verdicts = sums(rollout(rows, group_size=100), prompts([answer]))
  expected = [float((a + b) % 10 == 5) for a, b in pairs]
  assert sum(expected) == 10
  np.testing.assert_array_equal(verdicts[:, 0], expected)


@pytest.mark.parametrize(
  'ids',
  [
    [8, _EOS],  # The sum, in one symbol: 5.
    [3, 3, 8, _EOS],  # In three.
    [3, 8],  # Without EOS behind them.
    [3, 2, _EOS],  # Something else than a symbol.
    [_EOS],
  ],
)
def test_the_sum_in_another_form_is_wrong(ids):
  sums, answer = SameSum(symbols=SYMBOLS), [_ZERO, _ZERO + 5]
  assert _verdict(sums, [3, 8, _EOS], answer) == 1.0
  ended = ids[-1] == _EOS
  assert _verdict(sums, ids, answer, finished=ended) == 0.0


@pytest.mark.parametrize('answer', [[], [_ZERO, 2]])
def test_a_reference_without_a_sum_makes_nothing_right(answer):
  sums = SameSum(symbols=SYMBOLS)
  assert _verdict(sums, [_ZERO, _ZERO, _EOS][-len(answer) - 1 :], answer) == 0.0


@pytest.mark.parametrize('verifier', [PrefixMatch(), SameSum(symbols=SYMBOLS)])
def test_each_attempt_is_judged_against_its_own_prompt(verifier):
  a, b = [5, 6, _EOS], [7, 9, _EOS]
  rows = [[a, b], [b, a], [b, b], [a, a]]
  sample = rollout(rows, group_size=2)
  problems = prompts([a[:2], b[:2]])
  expected = [[1, 0], [0, 1], [1, 1], [0, 0]]
  verdicts = jax.jit(lambda *xs: verifier(*xs))(sample, problems)
  np.testing.assert_array_equal(verdicts, expected)
  assert verdicts.dtype == jnp.float32
  with pytest.raises(ValueError, match='give the prompts it was made from'):
    verifier(sample, prompts([a[:2]]))
