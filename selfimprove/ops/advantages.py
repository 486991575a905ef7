"""Advantages: how much better a sample did than its baseline.

Each turn has its own baseline. The rows of a group are neighbours.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def none(rewards: Float[Array, 'b turns']) -> Float[Array, 'b turns']:
  """The rewards themselves: no baseline.

  Aᵢ = rᵢ

  Args:
    rewards: one reward per sample and turn.

  Returns:
    The rewards.

  Source: REINFORCE (Williams, 1992) with baseline 0.
  Differs: no.

  >>> none(jnp.array([[1.0], [0.0]])).tolist()
  [[1.0], [0.0]]
  """
  return rewards


def batch_baseline(rewards: Float[Array, 'b turns']) -> Float[Array, 'b turns']:
  """Rewards relative to the mean of the batch.

  Aᵢ = rᵢ − (1/b) Σⱼ rⱼ

  The mean contains the sample's own reward, which shrinks the expected gradient
  by (b − 1)/b.

  Args:
    rewards: one reward per sample and turn.

  Returns:
    Advantages with mean 0 over the batch; exactly 0 if all rewards are equal.

  Source: REINFORCE (Williams, 1992) with the batch mean as baseline.
  Differs: no.

  >>> batch_baseline(jnp.array([[1.0], [0.0]])).tolist()
  [[0.5], [-0.5]]
  """
  return group_centered(rewards, group_size=rewards.shape[0])


def group_centered(
  rewards: Float[Array, 'b turns'], *, group_size: int
) -> Float[Array, 'b turns']:
  """Rewards relative to the mean of their group.

  Aᵢ = rᵢ − (1/g) Σⱼ rⱼ, j in the group of i

  It is (g − 1)/g times `leave_one_out`.

  Args:
    rewards: one reward per sample and turn; rows of a group are neighbours.
    group_size: samples per prompt, at least 1 (then all advantages are 0).

  Returns:
    Advantages with mean 0 in each group; exactly 0 in tied groups.

  Raises:
    ValueError: if the rows are not a whole number of groups.

  Source: arXiv:2503.20783 (Dr. GRPO) section 3.2.
  Differs: no.

  >>> group_centered(jnp.array([[1.0], [0.0]]), group_size=2).tolist()
  [[0.5], [-0.5]]
  """
  gains = _gains(rewards, group_size)
  return (gains - jnp.mean(gains, axis=1, keepdims=True)).reshape(rewards.shape)


def group_normalized(
  rewards: Float[Array, 'b turns'],
  *,
  group_size: int,
  eps: float | Float[Array, ''] = 1e-6,
  ddof: int = 1,
) -> Float[Array, 'b turns']:
  """Rewards relative to the mean of their group, in its standard deviations.

  Aᵢ = (rᵢ − mean) / (σ + ε),  σ² = Σⱼ (rⱼ − mean)² / (g − ddof)

  Args:
    rewards: one reward per sample and turn; rows of a group are neighbours.
    group_size: samples per prompt, more than `ddof`.
    eps: added to the standard deviation, at least 0.
    ddof: 1 for the sample deviation, 0 for that of the population; the second
      gives advantages larger by the factor √(g/(g − 1)).

  Returns:
    Advantages with mean 0 in each group; exactly 0 in tied groups.

  Raises:
    ValueError: if the rows are not a whole number of groups, or a group has no
      more than `ddof` samples.

  Source: arXiv:2402.03300 section 4.1.2, which leaves `ddof` open; 1 is what
    released trainers use.
  Differs: tied groups give 0 also with ε = 0.

  >>> group_normalized(jnp.array([[1.0], [1.0]]), group_size=2).tolist()
  [[0.0], [0.0]]
  """
  if group_size <= ddof:
    raise ValueError(
      f'group_size is {group_size} and ddof {ddof}: a standard deviation '
      f'needs more than {ddof} samples; sample more per prompt or use '
      '`none` or `batch_baseline`.'
    )
  centered = group_centered(rewards, group_size=group_size)
  return centered / group_spread(
    rewards, group_size=group_size, eps=eps, ddof=ddof
  )


def group_spread(
  rewards: Float[Array, 'b turns'],
  *,
  group_size: int,
  eps: float | Float[Array, ''] = 1e-6,
  ddof: int = 1,
) -> Float[Array, 'b turns']:
  """Standard deviations of the rewards of a group, to divide by.

  σ + ε, and 1 in tied groups;  σ² = Σⱼ (rⱼ − mean)² / (g − ddof)

  Args:
    rewards: one reward per sample and turn; rows of a group are neighbours.
    group_size: samples per prompt, at least 1.
    eps: added to the standard deviation, at least 0.
    ddof: 1 for the sample deviation, 0 for that of the population.

  Returns:
    The same positive number for all samples of a group; 1 if the group has no
    more than `ddof` samples.

  Raises:
    ValueError: if the rows are not a whole number of groups.

  Source: arXiv:2402.03300 section 4.1.2, which leaves `ddof` open.
  Differs: 1 in tied groups.

  >>> group_spread(jnp.array([[3.0], [3.0]]), group_size=2).tolist()
  [[1.0], [1.0]]
  """
  if group_size <= ddof:
    return jnp.ones_like(rewards)
  gains = _gains(rewards, group_size)
  deviation = jnp.std(gains, axis=1, keepdims=True, ddof=ddof)
  spread = jnp.where(deviation > 0, deviation + eps, 1)
  return jnp.broadcast_to(spread, gains.shape).reshape(rewards.shape)


def leave_one_out(
  rewards: Float[Array, 'b turns'], *, group_size: int
) -> Float[Array, 'b turns']:
  """Rewards relative to the mean of the others of their group.

  Aᵢ = rᵢ − 1/(g − 1) Σ_{j≠i} rⱼ = (g rᵢ − Σⱼ rⱼ) / (g − 1)

  The baseline does not depend on the sample, so the gradient is unbiased.

  Args:
    rewards: one reward per sample and turn; rows of a group are neighbours.
    group_size: samples per prompt, at least 2.

  Returns:
    Advantages with sum 0 in each group; exactly 0 in tied groups.

  Raises:
    ValueError: if the rows are not a whole number of groups, or a group has a
      single sample.

  Source: arXiv:2402.14740 (RLOO).
  Differs: no.

  >>> leave_one_out(jnp.array([[1.0], [0.0]]), group_size=2).tolist()
  [[1.0], [-1.0]]
  """
  if group_size < 2:
    raise ValueError(
      f'group_size is {group_size}: leave-one-out compares a sample with the '
      'others of its prompt and needs at least 2; sample more per prompt or '
      'use `none` or `batch_baseline`.'
    )
  gains = _gains(rewards, group_size)
  excess = group_size * gains - jnp.sum(gains, axis=1, keepdims=True)
  return (excess / (group_size - 1)).reshape(rewards.shape)


def reward_to_go(
  rewards: Float[Array, 'b turns'],
  *,
  discount: float | Float[Array, ''],
) -> Float[Array, 'b turns']:
  """Returns: discounted sums of the rewards from each turn on.

  Gᵢ = Σ_{j ≥ i} γ^{j−i} rⱼ

  Args:
    rewards: one reward per sample and turn.
    discount: γ in [0, 1]; 0 leaves each turn its own reward.

  Returns:
    One return per sample and turn.

  Source: arXiv:2409.12917 appendix A.2, which takes γ = 0.
  Differs: no.

  >>> reward_to_go(jnp.array([[1.0, 2.0]]), discount=0.5).tolist()
  [[2.0, 2.0]]
  """
  later = jnp.zeros_like(rewards[:, 0])
  returns = []
  for turn in reversed(range(rewards.shape[1])):
    later = rewards[:, turn] + discount * later
    returns.append(later)
  return jnp.stack(returns[::-1], axis=1)


def _gains(
  rewards: Float[Array, 'b turns'], group_size: int
) -> Float[Array, 'p g turns']:
  """Returns rewards over that of the first sample of their group.

  Baselines do not see the difference, rounding does: tied rewards, whatever
  their value, become exact zeros.
  """
  rows, turns = rewards.shape
  if group_size < 1 or rows % group_size:
    raise ValueError(
      f'{rows} rows do not make groups of {group_size}: every prompt has '
      '`group_size` neighbouring rows; make the number of rows a multiple.'
    )
  grouped = rewards.reshape(rows // group_size, group_size, turns)
  return grouped - grouped[:, :1]
