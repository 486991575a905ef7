"""Pairs of a wrong and a right answer to one problem, as a conversation."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from selfimprove import types
from selfimprove.rollout.assemble import assemble, write
from selfimprove.rollout.decode import insertion
from selfimprove.types import Params, Policy, Prompts, Rollout


@types.record
class MismatchedPairs:
  """Own attempts at a problem, put together as if one corrected the other.

  Each row begins with an attempt of its own and goes on, behind the
  instruction, with a right attempt of the same group, where there is one; only
  the second turn is to be learned. Rows that began right, or whose group has no
  right attempt, repeat their own (see `labels.KeepCorrected`).

  Source: Pair-SFT of arXiv 2409.12917, section 4 (after arXiv 2211.00053).
  Differs: pairs are made anew at every step, by whoever samples.

  Attributes:
    rollout: of single attempts.
    reward: in graph; says which of them are right.
    instruction: ids between the turns.
    closing: see `revise.Revise`.
    threshold: a reward above it is right.
  """

  rollout: Any
  reward: Any
  instruction: Int[Array, 'i']
  closing: Int[Array, 'c'] | None = None
  threshold: float | Array = 0.5

  @property
  def group_size(self) -> int:
    """Rows per prompt."""
    return self.rollout.group_size

  def __call__(
    self, policy: Policy, params: Params, prompts: Prompts, key: jax.Array
  ) -> Rollout:
    """Returns a rollout with two turns; see `algorithms.base.RolloutFn`."""
    sampled = self.rollout(policy, params, prompts, key)
    right = self.reward(sampled, prompts)[:, 0] > self.threshold
    partner = _partners(right, sampled.group_size)
    start, end = sampled.spans[0]
    tokens, mask = sampled.tokens[:, start:end], sampled.turn[:, start:end] == 0
    begin = jnp.sum(prompts.mask, axis=1, dtype=jnp.int32)
    begin = jnp.repeat(begin, sampled.group_size)
    ended = sampled.finished[:, 0]
    first = dataclasses.replace(write(tokens, mask, begin), finished=ended)
    between = insertion(first, begin, self.instruction, self.closing)
    after = between.positions[:, -1] + 1
    second = write(tokens[partner], mask[partner], after)
    second = dataclasses.replace(second, finished=ended[partner])
    made = assemble(
      prompts, [first, between, second], group_size=sampled.group_size
    )
    return dataclasses.replace(made, loss_mask=made.turn == 1)


def _partners(right: Bool[Array, 'b'], group_size: int) -> Int[Array, 'b']:
  """Row of the right attempt that goes with each row, else the row itself.

  The right attempts of a group are dealt out in turn.
  """
  grouped = right.reshape(-1, group_size)
  # Right rows first, in their order.
  order = jnp.argsort(~grouped, axis=1, stable=True)
  count = jnp.sum(grouped, axis=1, keepdims=True, dtype=jnp.int32)
  turn = jnp.arange(group_size, dtype=jnp.int32)[None, :]
  chosen = jnp.take_along_axis(order, turn % jnp.maximum(count, 1), axis=1)
  own = jnp.broadcast_to(turn, chosen.shape)
  chosen = jnp.where(grouped | (count == 0), own, chosen)
  first = jnp.arange(grouped.shape[0], dtype=jnp.int32)[:, None] * group_size
  return (first + chosen).reshape(-1)
