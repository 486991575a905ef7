"""From rewards of attempts to advantages of tokens: fillers of the credit slot.

A rule is two choices: a *horizon* (which rewards a turn answers for) and a
*baseline* (what they are compared with).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.algorithms.base import NO_STREAMS, Streams
from selfimprove.ops import advantages, masks
from selfimprove.types import Rollout


@runtime_checkable
class Baseline(Protocol):
  """What rewards are compared with."""

  def __call__(
    self, rewards: Float[Array, 'b turns'], group_size: int
  ) -> Float[Array, 'b turns']:
    """Returns the advantage of each attempt."""


@types.record
class NoBaseline:
  """Rewards as they are (`ops.advantages.none`)."""

  def __call__(
    self, rewards: Float[Array, 'b turns'], group_size: int
  ) -> Float[Array, 'b turns']:
    """Returns the rewards."""
    del group_size  # A reward is not compared with anything.
    return advantages.none(rewards)


@types.record
class BatchBaseline:
  """Rewards over the batch mean (`ops.advantages.batch_baseline`)."""

  def __call__(
    self, rewards: Float[Array, 'b turns'], group_size: int
  ) -> Float[Array, 'b turns']:
    """Returns advantages with mean 0 over the batch."""
    del group_size  # All prompts share one baseline.
    return advantages.batch_baseline(rewards)


@types.record
class GroupCentered:
  """Rewards over the group mean (`ops.advantages.group_centered`)."""

  def __call__(
    self, rewards: Float[Array, 'b turns'], group_size: int
  ) -> Float[Array, 'b turns']:
    """Returns advantages with mean 0 in each group."""
    return advantages.group_centered(rewards, group_size=group_size)


@types.record
class GroupNormalized:
  """Standard scores of the group (`ops.advantages.group_normalized`).

  Attributes:
    eps: added to the standard deviation, at least 0.
    ddof: 1 for the sample deviation, 0 for that of the population.
  """

  eps: float | Array = 1e-6
  ddof: int = types.static(default=1)

  def __call__(
    self, rewards: Float[Array, 'b turns'], group_size: int
  ) -> Float[Array, 'b turns']:
    """Returns advantages with mean 0 and deviation 1 in each group."""
    return advantages.group_normalized(
      rewards, group_size=group_size, eps=self.eps, ddof=self.ddof
    )


@types.record
class LeaveOneOut:
  """Rewards over the mean of the others (`ops.advantages.leave_one_out`)."""

  def __call__(
    self, rewards: Float[Array, 'b turns'], group_size: int
  ) -> Float[Array, 'b turns']:
    """Returns advantages with sum 0 in each group."""
    return advantages.leave_one_out(rewards, group_size=group_size)


@types.record
class TurnLocal:
  """Each turn answers for its own reward alone: the paper's γ = 0.

  Attributes:
    baseline: what the rewards of a turn are compared with.
  """

  baseline: Baseline

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Streams = NO_STREAMS,
  ) -> Float[Array, 'b t']:
    """Returns the advantage of each token, 0 outside `loss_mask`."""
    total = rewards_of_turns(rollout, rewards, streams)
    return _place(self.baseline(total, rollout.group_size), rollout)


@types.record
class RewardToGo:
  """Each turn answers for its own reward and for those of later turns.

  The baseline is of the discounted sums, again turn by turn.

  Attributes:
    baseline: what the returns of a turn are compared with.
    discount: γ in [0, 1]; 0 is `TurnLocal`.
  """

  baseline: Baseline
  discount: float | Array = 1.0

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Streams = NO_STREAMS,
  ) -> Float[Array, 'b t']:
    """Returns the advantage of each token, 0 outside `loss_mask`."""
    total = rewards_of_turns(rollout, rewards, streams)
    returns = advantages.reward_to_go(total, discount=self.discount)
    return _place(self.baseline(returns, rollout.group_size), rollout)


@types.record
class NoCredit:
  """Zeros: for algorithms whose terms read no advantages, such as imitation."""

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Streams = NO_STREAMS,
  ) -> Float[Array, 'b t']:
    """Returns 0 for each token."""
    del streams
    return jnp.zeros(rollout.tokens.shape, rewards.dtype)


def rewards_of_turns(
  rollout: Rollout, rewards: Float[Array, 'b turns'], streams: Streams
) -> Float[Array, 'b turns']:
  """Rewards of attempts, with those of their tokens added.

  Args:
    rollout: the samples.
    rewards: of each attempt.
    streams: of which `dense_rewards` are added, where there are any.

  Returns:
    One reward per attempt.
  """
  if 'dense_rewards' not in streams:
    return rewards
  turns = rewards.shape[1]
  return rewards + masks.turn_sums(
    streams['dense_rewards'], rollout.turn, turns=turns
  )


def _place(
  credited: Float[Array, 'b turns'], rollout: Rollout
) -> Float[Array, 'b t']:
  placed = masks.take_by_turn(credited, rollout.turn)
  return jnp.where(rollout.loss_mask, placed, 0)
