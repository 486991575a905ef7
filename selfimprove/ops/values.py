"""Losses of a critic, per token.

`values[t]` is the value of the state *before* token t is written.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def squared_value(
  values: Float[Array, '*n'], returns: Float[Array, '*n']
) -> Float[Array, '*n']:
  """Squared errors of predicted returns.

  ℓₜ = (Vₜ − Gₜ)² / 2, G without gradient

  Args:
    values: V, differentiable.
    returns: G, what the values should have been.

  Returns:
    Per-token losses, at least 0.

  Source: arXiv:1707.06347 equation 9.
  Differs: the factor ½.

  >>> squared_value(jnp.array([3.0]), jnp.array([1.0])).tolist()
  [2.0]
  """
  return 0.5 * jnp.square(values - jax.lax.stop_gradient(returns))


def clipped_value(
  values: Float[Array, '*n'],
  old_values: Float[Array, '*n'],
  returns: Float[Array, '*n'],
  *,
  clip: float | Float[Array, ''],
) -> Float[Array, '*n']:
  """Squared errors that stop rewarding values far from those of the rollout.

  ℓₜ = max((Vₜ − Gₜ)², (clip(Vₜ, V_old − ε, V_old + ε) − Gₜ)²) / 2,
  V_old and G without gradient

  Args:
    values: V, differentiable.
    old_values: V_old, before the first update on these samples.
    returns: G, what the values should have been.
    clip: ε above 0, in units of reward.

  Returns:
    Per-token losses, at least those of `squared_value`; constant where V has
    moved towards G by more than ε.

  Source: arXiv:2005.12729 section 3, which describes PPO's first release.
  Differs: the factor ½, which that release has.

  >>> v = jnp.array([3.0])
  >>> clipped_value(v, 0 * v, 2 * v, clip=1.0).tolist()
  [12.5]
  """
  old_values = jax.lax.stop_gradient(old_values)
  bounded = jnp.clip(values, old_values - clip, old_values + clip)
  return jnp.maximum(
    squared_value(values, returns), squared_value(bounded, returns)
  )
