"""Which samples are learned from, as a weight per sample."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from selfimprove import types
from selfimprove.types import Rollout


@types.record
class KeepAll:
  """Weight 1 for every sample."""

  def __call__(
    self, rollout: Rollout, rewards: Float[Array, 'b turns']
  ) -> Float[Array, 'b']:
    """Returns ones."""
    del rollout
    return jnp.ones(rewards.shape[0], jnp.float32)


@types.record
class KeepCorrect:
  """Weight 1 for samples that were rewarded in one attempt, 0 for others.

  Attributes:
    turn: the attempt that decides, from 0; -1 is the last.
    threshold: a reward above it counts as right.
  """

  turn: int = types.static(default=-1)
  threshold: float | Array = 0.5

  def __call__(
    self, rollout: Rollout, rewards: Float[Array, 'b turns']
  ) -> Float[Array, 'b']:
    """Returns the weights.

    Args:
      rollout: samples.
      rewards: verifier's reward of each attempt.

    Returns:
      1.0 or 0.0 per sample.

    Raises:
      ValueError: the rollout has no attempt `turn`.
    """
    del rollout
    turns = rewards.shape[1]
    if not -turns <= self.turn < turns:
      raise ValueError(
        f'turn is {self.turn} and there are {turns} attempts; count from 0, '
        'or use -1 for the last.'
      )
    return (rewards[:, self.turn] > self.threshold).astype(jnp.float32)


@types.record
class DropTiedGroups:
  """Weight 0 for groups in which every sample was rewarded alike, else 1.

  Such a group says nothing about which sample is better; dropping it keeps it
  out of the denominators too. A group counts as tied if it is tied in each
  attempt.

  Source: arXiv 2503.14476, section 3.2 (dynamic sampling).
  Differs: the batch is not refilled with other prompts.
  """

  def __call__(
    self, rollout: Rollout, rewards: Float[Array, 'b turns']
  ) -> Float[Array, 'b']:
    """Returns the weights.

    Args:
      rollout: samples, the rows of a group being neighbours.
      rewards: verifier's reward of each attempt.

    Returns:
      1.0 or 0.0 per sample, the same within a group.
    """
    groups = rewards.reshape(-1, rollout.group_size, rewards.shape[1])
    differs = (groups != groups[:, :1]).any(axis=(1, 2))
    return jnp.repeat(differs.astype(jnp.float32), rollout.group_size)


@types.record
class KeepBestAndWorst:
  """Weight 1 for the best and the worst sample of a group that is not tied.

  They are those of the highest and the lowest reward of the last attempt, of
  several the first.
  """

  def __call__(
    self, rollout: Rollout, rewards: Float[Array, 'b turns']
  ) -> Float[Array, 'b']:
    """Returns 1.0 or 0.0 per sample."""
    group = rollout.group_size
    best, worst = best_and_worst(rewards, group_size=group)
    rows = jnp.arange(group)[None, :]
    chosen = (rows == best[:, None]) | (rows == worst[:, None])
    chosen &= (best != worst)[:, None]
    return chosen.reshape(-1).astype(jnp.float32)


def best_and_worst(
  rewards: Float[Array, 'b turns'], *, group_size: int
) -> tuple[Int[Array, 'p'], Int[Array, 'p']]:
  """Places of the best and the worst sample within each group.

  Args:
    rewards: of each attempt; the last one decides.
    group_size: rows of a group, which are neighbours.

  Returns:
    Two indices from 0 per group, equal where the group is tied.
  """
  grouped = rewards[:, -1].reshape(-1, group_size)
  return jnp.argmax(grouped, axis=1), jnp.argmin(grouped, axis=1)


@types.record
class KeepCorrected:
  """Weight 1 for samples wrong at the first and right at the last attempt.

  Attributes:
    threshold: a reward above it counts as right.
  """

  threshold: float | Array = 0.5

  def __call__(
    self, rollout: Rollout, rewards: Float[Array, 'b turns']
  ) -> Float[Array, 'b']:
    """Returns 1.0 or 0.0 per sample."""
    del rollout
    right = rewards > self.threshold
    return (~right[:, 0] & right[:, -1]).astype(jnp.float32)
