"""The samples of a group as a tree of prefixes, and credit for its branches.

Samples of one prompt that begin alike pass through the same nodes. The value of
a node is the mean reward of the samples through it, and a token at which the
tree branches is credited with the step that it makes in value.

A column that neither of two rows wrote (prompt, instruction, gaps) does not
tell them apart; one that a single of them wrote does: a sample that ended is a
branch of its own. An end that no token announces has no token to credit: its
step lies in a column that the row did not write.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from selfimprove.ops import advantages


def prefix_values(
  tokens: Int[Array, 'g t'],
  mask: Bool[Array, 'g t'],
  rewards: Float[Array, 'g'],
) -> tuple[Float[Array, 'g t'], Float[Array, 'g t']]:
  """Values of the prefixes before and after each column, in one group.

  V(s) = mean of rⱼ over the samples j of the group that begin with s

  A scan over columns carries which rows have been the same so far: O(g²)
  memory and O(g² t) work.

  Args:
    tokens: ids; ignored where `mask` is False.
    mask: True on the tokens that the policy wrote.
    rewards: one reward per sample.

  Returns:
    Values before and after each column. Before the first they are the mean of
    the group, after the last the reward of the sample (or the mean of those of
    identical samples).

  Source: arXiv:2509.18314 section 3 (TEMPO).
  Differs: no.

  >>> tokens = jnp.array([[7, 1], [7, 2]])
  >>> before, after = prefix_values(tokens, tokens > 0, jnp.array([1.0, 0.0]))
  >>> before.tolist(), after.tolist()
  ([[0.5, 0.5], [0.5, 0.5]], [[0.5, 1.0], [0.5, 0.0]])
  """
  # Over the first sample's reward: ties, whatever their value, are exact.
  gains = rewards - rewards[0]
  before, after = _relative_values(tokens, mask, gains)
  return rewards[0] + before, rewards[0] + after


def temporal_differences(
  tokens: Int[Array, 'g t'],
  mask: Bool[Array, 'g t'],
  rewards: Float[Array, 'g'],
) -> Float[Array, 'g t']:
  """Steps in value that the tokens of one group make.

  δₜ = V(s_{t+1}) − V(sₜ)

  Along a sample they add up to its reward over the mean of the group; over the
  children of a node, weighted by their samples, to 0.

  Args:
    tokens: ids; ignored where `mask` is False.
    mask: True on the tokens that the policy wrote.
    rewards: one reward per sample.

  Returns:
    Differences; exactly 0 where the tree does not branch, in tied groups and
    outside `mask`.

  Source: arXiv:2509.18314 section 3 (TEMPO).
  Differs: no.

  >>> tokens = jnp.array([[7, 1], [7, 2]])
  >>> temporal_differences(tokens, tokens > 0, jnp.array([1.0, 0.0])).tolist()
  [[0.0, 0.5], [0.0, -0.5]]
  """
  before, after = _relative_values(tokens, mask, rewards - rewards[0])
  return jnp.where(mask, after - before, 0)


def tree_centered(
  tokens: Int[Array, 'b t'],
  mask: Bool[Array, 'b t'],
  rewards: Float[Array, 'b'],
  *,
  group_size: int,
) -> Float[Array, 'b t']:
  """Rewards over the group's mean, plus the steps of the branches.

  Aᵢₜ = (rᵢ − r̄) + (V(s_{t+1}) − V(sₜ))

  At a node the samples through it get, together, the gradient of REINFORCE
  with the group's mean as baseline plus that with the mean of the node: twice
  the gradient where prefixes are shared, once where a sample is alone.

  Args:
    tokens: ids; ignored where `mask` is False.
    mask: True on the tokens that the policy wrote.
    rewards: one reward per sample; rows of a group are neighbours.
    group_size: samples per prompt, at least 1 (then all advantages are 0).

  Returns:
    Advantages of tokens, 0 outside `mask`; exactly 0 in tied groups, and
    `advantages.group_centered` where a group does not branch.

  Raises:
    ValueError: if the rows are not a whole number of groups.

  Source: arXiv:2509.18314 section 3, released code without normalisation.
  Differs: an ended sample is a branch of its own; the code compares padding.

  >>> tokens = jnp.array([[7, 1], [7, 2]])
  >>> r = jnp.array([1.0, 0.0])
  >>> tree_centered(tokens, tokens > 0, r, group_size=2).tolist()
  [[0.5, 1.0], [-0.5, -1.0]]
  """
  centered = advantages.group_centered(rewards[:, None], group_size=group_size)

  def grouped(x: Array) -> Array:
    return x.reshape(-1, group_size, *x.shape[1:])

  steps = jax.vmap(temporal_differences)(
    grouped(tokens), grouped(mask), grouped(rewards)
  )
  return jnp.where(mask, centered + steps.reshape(tokens.shape), 0)


def tree_normalized(
  tokens: Int[Array, 'b t'],
  mask: Bool[Array, 'b t'],
  rewards: Float[Array, 'b'],
  *,
  group_size: int,
  eps: float | Float[Array, ''] = 1e-6,
) -> Float[Array, 'b t']:
  """`tree_centered` in standard deviations of the group's rewards.

  Aᵢₜ = [(rᵢ − r̄) + (V(s_{t+1}) − V(sₜ))] / (σ + ε), σ that of the sample

  Args:
    tokens: ids; ignored where `mask` is False.
    mask: True on the tokens that the policy wrote.
    rewards: one reward per sample; rows of a group are neighbours.
    group_size: samples per prompt, at least 1 (then all advantages are 0).
    eps: added to the standard deviation, at least 0.

  Returns:
    Advantages of tokens, 0 outside `mask`; exactly 0 in tied groups, and
    `advantages.group_normalized` where a group does not branch.

  Raises:
    ValueError: if the rows are not a whole number of groups.

  Source: arXiv:2509.18314 section 3 and released code.
  Differs: as `tree_centered`; a group of one gives 0, not NaN.

  >>> tokens = jnp.array([[7, 1]])
  >>> tree_normalized(tokens, tokens > 0, jnp.ones(1), group_size=1).tolist()
  [[0.0, 0.0]]
  """
  spread = advantages.group_spread(
    rewards[:, None], group_size=group_size, eps=eps
  )
  # Both summands are linear in the rewards.
  scaled = rewards / spread[:, 0]
  return tree_centered(tokens, mask, scaled, group_size=group_size)


def _relative_values(
  tokens: Int[Array, 'g t'],
  mask: Bool[Array, 'g t'],
  gains: Float[Array, 'g'],
) -> tuple[Float[Array, 'g t'], Float[Array, 'g t']]:
  """Returns means of `gains` over the rows that are the same up to a column."""

  def value(same: Bool[Array, 'g g']) -> Float[Array, 'g']:
    # Not a matrix product: accelerators round its inputs.
    total = jnp.sum(jnp.where(same, gains[None, :], 0), axis=1)
    return total / jnp.sum(same, axis=1, dtype=total.dtype)

  def step(
    same: Bool[Array, 'g g'], column: tuple[Int[Array, 'g'], Bool[Array, 'g']]
  ) -> tuple[Bool[Array, 'g g'], Float[Array, 'g']]:
    token, wrote = column
    equal = token[:, None] == token[None, :]
    neither = ~wrote[:, None] & ~wrote[None, :]
    both = wrote[:, None] & wrote[None, :]
    same &= neither | (both & equal)
    return same, value(same)

  rows = tokens.shape[0]
  start = jnp.ones((rows, rows), bool)
  _, after = jax.lax.scan(step, start, (tokens.T, mask.T))
  root = value(start)
  before = jnp.concatenate([root[None, :], after[:-1]])
  return before.T, after.T
