"""Rewards of single tokens: fillers of `Algorithm.derived['dense_rewards']`."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.ops import divergences, masks
from selfimprove.types import Rollout


@types.record
class ReferencePenalty:
  """−β (log π_old − log π_ref) on each token: the divergence in the reward.

  Needs `old_logprobs` and `ref_logprobs`. In expectation it is the divergence
  of whole sequences, and its policy gradient is unbiased, which k1 as a loss is
  not.

  Source: arXiv 2203.02155, equation 2; arXiv 2402.14740.

  Attributes:
    weight: β at least 0.
  """

  weight: float | Array

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Mapping[str, Float[Array, 'b t']],
  ) -> Float[Array, 'b t']:
    """Returns the penalty of each token, 0 outside `loss_mask`."""
    del rewards
    penalty = divergences.k1(streams['old_logprobs'], streams['ref_logprobs'])
    return jnp.where(rollout.loss_mask, -self.weight * penalty, 0)


@types.record
class OverlongPenalty:
  """A penalty that grows over the last tokens before the length limit.

    −min(1, max(0, (|y| − (L − c)) / c)) on the last token of an attempt

  Source: arXiv 2503.14476 (DAPO), equation 13.
  Differs: an attempt without EOS is as long as its limit, and has −1.

  Attributes:
    limit: L, tokens that an attempt may have.
    buffer: c, tokens before it in which the penalty grows, above 0.
  """

  limit: float | Array
  buffer: float | Array

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Mapping[str, Float[Array, 'b t']],
  ) -> Float[Array, 'b t']:
    """Returns the penalties, 0 on all but last tokens."""
    del streams
    turns = rewards.shape[1]
    ones = rollout.loss_mask.astype(jnp.float32)
    turn = jnp.where(rollout.loss_mask, rollout.turn, -1)
    lengths = masks.turn_sums(ones, turn, turns=turns)
    over = (lengths - (self.limit - self.buffer)) / self.buffer
    return masks.at_ends(-jnp.clip(over, 0, 1), turn)
