from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from selfimprove.rewards import dense
from tests.algorithms.rollouts import of_turns

# Attempts of two, three and four tokens, and a second attempt behind the first.
TURN = jnp.asarray(
  [
    [-1, 0, 0, -1, -1, -1],
    [-1, 0, 0, 0, -1, -1],
    [-1, 0, 0, 0, 0, -1],
    [-1, 0, -1, 1, 1, 1],
  ]
)


def _rollout():
  return of_turns(TURN, ((1, 5), (3, 6)), 1)


def test_the_penalty_for_length_grows_over_the_buffer_and_ends_at_one():
  # (|y| − (4 − 2)) / 2, of each attempt by itself, on its last token.
  rule = dense.OverlongPenalty(limit=4, buffer=2)
  actual = rule(_rollout(), jnp.zeros((4, 2)), {})
  expected = np.zeros(TURN.shape)
  expected[1, 3], expected[2, 4], expected[3, 5] = -0.5, -1, -0.5
  np.testing.assert_array_equal(actual, expected)
  longer = dense.OverlongPenalty(limit=2, buffer=1)
  assert float(jnp.min(longer(_rollout(), jnp.zeros((4, 2)), {}))) == -1


def test_the_penalty_for_divergence_is_the_log_ratio_of_trained_tokens():
  rollout = _rollout()
  rollout = dataclasses.replace(
    rollout, loss_mask=rollout.loss_mask.at[3, 1].set(False)
  )
  rule = dense.ReferencePenalty(weight=0.5)
  old, reference = jnp.full(TURN.shape, -1.0), jnp.full(TURN.shape, -3.0)
  streams = {'old_logprobs': old, 'ref_logprobs': reference}
  actual = rule(rollout, jnp.zeros((4, 2)), streams)
  np.testing.assert_array_equal(actual, jnp.where(rollout.loss_mask, -1.0, 0))
