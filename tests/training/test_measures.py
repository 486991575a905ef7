from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.training import measures
from selfimprove.types import Rollout

# Prompt of one slot, attempts of three and of two slots with one slot between;
# two groups of two.
TURN = jnp.array(
  [
    [-1, 0, 0, -1, -1, 1, 1],
    [-1, 0, -1, -1, -1, 1, -1],
    [-1, 0, 0, 0, -1, 1, 1],
    [-1, 0, 0, -1, -1, 1, 1],
  ]
)
TOKENS = jnp.array(
  [
    [9, 5, 1, 0, 8, 5, 1],  # A copy.
    [9, 1, 0, 0, 8, 1, 0],  # A copy of an end alone.
    [9, 5, 6, 1, 8, 5, 6],  # A longer first attempt: no copy.
    [9, 5, 1, 0, 8, 6, 1],  # Another token.
  ]
)


def make(tokens=TOKENS, turn=TURN, spans=((1, 4), (5, 7))):
  rows = jnp.arange(tokens.shape[0])
  return Rollout(
    tokens=tokens,
    positions=jnp.where(turn >= 0, 0, -1),
    loss_mask=turn >= 0,
    turn=turn,
    sampler_logprobs=jnp.where(turn >= 0, -0.5, 0.0),
    temperature=jnp.ones(rows.shape),
    group_id=rows // 2,
    example_id=rows // 2,
    finished=jnp.array([[True, True]] * 2 + [[True, False], [False, False]])[
      :, : len(spans)
    ],
    off_context=jnp.zeros(rows.shape, bool),
    spans=spans,
    group_size=2,
    prompt_slots=1,
  )


def floats(metrics):
  return {name: float(value) for name, value in metrics.items()}


def test_rollout_measures_are_those_counted_by_hand():
  assert floats(measures.of_rollout(make())) == pytest.approx(
    {
      'rollout/length_t1': (2 + 1 + 3 + 2) / 4,
      'rollout/length_t2': (2 + 1 + 2 + 2) / 4,
      'rollout/truncated_t1': 1 / 4,
      'rollout/truncated_t2': 2 / 4,
      'rollout/truncated': 3 / 8,
      'rollout/tokens': 8 + 7,
      'rollout/copied': 2 / 4,
    }
  )


def test_a_single_attempt_copies_nothing():
  single = make(TOKENS[:, :4], TURN[:, :4], ((1, 4),))
  metrics = measures.of_rollout(single)
  assert 'rollout/copied' not in metrics
  assert 'rollout/length_t2' not in metrics
  assert float(metrics['rollout/tokens']) == 8


def test_copies_are_equal_tokens_of_equal_number():
  assert measures.copied(make()).tolist() == [True, True, False, False]


def test_copies_are_found_when_the_second_span_is_the_wider():
  swap = jnp.array([0, 5, 6, 4, 1, 2, 3])
  turn = jnp.where(TURN[:, swap] >= 0, 1 - TURN[:, swap], -1)
  swapped = make(TOKENS[:, swap], turn, ((1, 3), (4, 7)))
  assert measures.copied(swapped).tolist() == [True, True, False, False]


def test_what_stands_behind_the_end_does_not_hide_a_copy():
  filled = jnp.where(TURN >= 0, TOKENS, jnp.arange(7)[None, :] + 20)
  assert measures.copied(make(filled)).tolist() == [True, True, False, False]


def test_reward_measures_are_those_counted_by_hand():
  rewards = jnp.array([[1.0, 0], [0, 0], [1, 1], [1, 1]])
  # The first group is tied in the credited second attempt only.
  shaped = jnp.array([[1.0, -5], [0, -5], [2, 3], [2, 3]])
  weight = jnp.array([1.0, 0, 0.5, 2])
  metrics = measures.of_rewards(make(), rewards, shaped, weight)
  assert floats(metrics) == pytest.approx(
    {
      'reward/verifier_t1': 3 / 4,
      'reward/verifier_t2': 2 / 4,
      'reward/shaped_t1': 5 / 4,
      'reward/shaped_t2': -4 / 4,
      'rollout/tied_groups': 1 / 2,
      'rollout/kept': 3 / 4,
    }
  )


def test_groups_are_tied_within_and_not_across_prompts():
  shaped = jnp.array([[0.0], [0], [1], [1]])
  metrics = measures.of_rewards(make(), shaped, shaped, jnp.ones(4))
  assert float(metrics['rollout/tied_groups']) == 1
  mixed = shaped[jnp.array([0, 2, 1, 3])]
  metrics = measures.of_rewards(make(), mixed, mixed, jnp.ones(4))
  assert float(metrics['rollout/tied_groups']) == 0
  assert np.isfinite(float(metrics['reward/shaped_t1']))


def test_attempts_that_are_not_taught_are_compared_as_well():
  shown = dataclasses.replace(make(), loss_mask=TURN == 1)
  assert measures.copied(shown).tolist() == [True, True, False, False]
