"""Rollouts whose samples are cut short, so that groups fit into fewer rows."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np


def shortened(rollout):
  """Every other sample with the first token of each attempt alone.

  The others lose what stands in the last two slots, so that there is room for
  such a token.
  """
  turn = np.asarray(rollout.turn)
  first = np.zeros(turn.shape, bool)
  for start, _ in rollout.spans:
    first[:, start] = True
  keep = (turn < 0) | first | (np.arange(len(turn)) % 2 == 0)[:, None]
  keep[:, -2:] = first[:, -2:]
  real = (np.asarray(rollout.positions) >= 0) & keep
  return dataclasses.replace(
    rollout,
    positions=jnp.asarray(
      np.where(real, np.cumsum(real, axis=1) - 1, -1), jnp.int32
    ),
    loss_mask=rollout.loss_mask & real,
    turn=jnp.where(real, rollout.turn, -1),
    sampler_logprobs=jnp.where(real, rollout.sampler_logprobs, 0),
  )
