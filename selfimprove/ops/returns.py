"""Advantages from a critic: sums of errors of its predictions along a row.

`values[t]` is the value of the state *before* token t is written. Time counts
the tokens of `mask` alone: whatever lies between two attempts takes none, and
the state after the last token of one is the state before the first of the next,
so that discounts go through turns.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def gae(
  rewards: Float[Array, 'b t'],
  values: Float[Array, 'b t'],
  mask: Bool[Array, 'b t'],
  *,
  discount: float | Float[Array, ''],
  gae_lambda: float | Float[Array, ''],
) -> Float[Array, 'b t']:
  """Generalised advantage estimates: decaying sums of temporal differences.

  δₜ = rₜ + γ V(s_{t'}) − V(sₜ),  Aₜ = δₜ + γ λ A_{t'},
  t' the next token in `mask`; after the last one V and A are 0

  λ = 1 gives discounted returns less values, λ = 0 the single difference.
  What a critic is to predict are the advantages plus the values.

  Args:
    rewards: reward of each token, given when it is written.
    values: V of the state before each token.
    mask: True on the tokens that the policy wrote; elsewhere rewards and values
      are ignored, whatever they are.
    discount: γ in [0, 1], per token.
    gae_lambda: λ in [0, 1].

  Returns:
    Advantages, 0 outside `mask`.

  Source: arXiv:1506.02438 equation 16, of a finished episode.
  Differs: no.

  >>> r, v = jnp.array([[0.0, 1.0]]), jnp.array([[0.5, 0.25]])
  >>> gae(r, v, r >= 0, discount=1.0, gae_lambda=1.0).tolist()
  [[0.5, 0.75]]
  """
  decay = discount * gae_lambda

  def step(
    later: tuple[Float[Array, 'b'], Float[Array, 'b']],
    column: tuple[Float[Array, 'b'], Float[Array, 'b'], Bool[Array, 'b']],
  ) -> tuple[tuple[Float[Array, 'b'], Float[Array, 'b']], Float[Array, 'b']]:
    advantage, next_value = later
    reward, value, own = column
    error = reward + discount * next_value - value
    here = (error + decay * advantage, value)
    kept = jax.tree.map(lambda new, old: jnp.where(own, new, old), here, later)
    return kept, jnp.where(own, here[0], 0)

  dtype = jnp.result_type(rewards, values)
  none = jnp.zeros(mask.shape[:1], dtype)
  columns = (rewards.T.astype(dtype), values.T.astype(dtype), mask.T)
  _, advantages = jax.lax.scan(step, (none, none), columns, reverse=True)
  return advantages.T


def whiten(
  advantages: Float[Array, '*n'],
  mask: Bool[Array, '*n'],
  *,
  eps: float | Float[Array, ''] = 1e-8,
) -> Float[Array, '*n']:
  """Advantages with mean 0 and deviation 1 over the tokens of the batch.

  (Aₜ − mean) / (σ + ε), σ that of the population

  Args:
    advantages: credit of each token.
    mask: True on the tokens that count; elsewhere advantages are ignored,
      whatever they are.
    eps: added to the standard deviation, at least 0.

  Returns:
    Advantages, 0 outside `mask`; exactly 0 if all are equal.

  Source: arXiv:2005.12729 section 3, which describes PPO's first release.
  Differs: over the whole batch, not each minibatch; ties give exact zeros.

  >>> x = jnp.array([3.0, 5.0, 9.0])
  >>> whiten(x, x < 9).tolist()
  [-1.0, 1.0, 0.0]
  """
  count = jnp.maximum(jnp.sum(mask, dtype=advantages.dtype), 1)
  # Over the smallest: ties, whatever their value, are exact.
  lowest = jnp.min(jnp.where(mask, advantages, jnp.inf))
  gains = jnp.where(mask, advantages - lowest, 0)
  centered = jnp.where(mask, gains - jnp.sum(gains) / count, 0)
  deviation = jnp.sqrt(jnp.sum(jnp.square(centered)) / count)
  return centered / jnp.where(deviation > 0, deviation + eps, 1)
