from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove import types
from selfimprove.rewards.labels import KeepCorrected
from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.mismatched import MismatchedPairs, _partners
from selfimprove.rollout.single import Single
from selfimprove.training.score import score
from tests.training import tiny

GROUP, INSTRUCTION = 4, [6, 5]


@types.record
class FirstIsEven:
  """1.0 where the first token of an attempt is an even number."""

  def __call__(self, rollout, prompts):
    firsts = [rollout.tokens[:, first] for first, _ in rollout.spans]
    return (jnp.stack(firsts, axis=1) % 2 == 0).astype(jnp.float32)


def _made():
  params, prompts = tiny.POLICY.init(jax.random.key(0)), tiny.prompts(6)
  inner = Single(
    eos_ids=jnp.asarray([tiny.EOS]),
    sampling=Sampling(),
    group_size=GROUP,
    max_new_tokens=4,
  )
  outer = MismatchedPairs(
    rollout=inner, reward=FirstIsEven(), instruction=jnp.asarray(INSTRUCTION)
  )
  single, pairs = (
    tiny.sampled(how, params, prompts, jax.random.key(1))
    for how in (inner, outer)
  )
  return params, prompts, single, pairs


def test_right_attempts_are_dealt_out_to_wrong_ones():
  right = jnp.asarray([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
  partners = _partners(right.reshape(-1), GROUP)
  # Wrong rows 0 and 2 get the first right row, by their own number.
  assert partners.tolist() == [1, 1, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def _written(rollout, turn):
  ids = np.asarray(rollout.tokens)
  mask = np.asarray(rollout.turn) == turn
  return [row[m].tolist() for row, m in zip(ids, mask)]


def test_a_wrong_attempt_is_followed_by_a_right_one_of_its_group():
  _, prompts, single, pairs = _made()
  verdicts = np.asarray(FirstIsEven()(pairs, prompts))
  keep = np.asarray(KeepCorrected()(pairs, jnp.asarray(verdicts)))
  assert 0 < keep.sum() < len(keep)
  attempts = _written(single, 0)
  assert _written(pairs, 0) == attempts
  for row, second in enumerate(_written(pairs, 1)):
    group = range(row - row % GROUP, row - row % GROUP + GROUP)
    assert second in [attempts[i] for i in group]
    solvable = any(attempts[i][0] % 2 == 0 for i in group)
    was_right = attempts[row][0] % 2 == 0
    assert bool(keep[row]) == (solvable and not was_right)


@pytest.mark.slow
def test_only_the_correction_is_learned_and_positions_count_on():
  params, _, _, pairs = _made()
  np.testing.assert_array_equal(pairs.loss_mask, pairs.turn == 1)
  for positions in np.asarray(pairs.positions):
    real = positions[positions >= 0]
    assert real.tolist() == list(range(len(real)))
  assert bool(jnp.all(jnp.isfinite(score(tiny.POLICY, params, pairs).logprobs)))
