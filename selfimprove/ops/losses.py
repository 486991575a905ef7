"""Losses of tokens, to be minimised; `aggregate` makes means of them.

Advantages and the log-probabilities of the sampling policy are data: gradients
stop at them here, whatever the caller passes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def reinforce(
  logprobs: Float[Array, '*n'], advantages: Float[Array, '*n']
) -> Float[Array, '*n']:
  """Policy-gradient losses: weighted negative log-likelihoods.

  ℓₜ = −Aₜ log π(yₜ), A without gradient

  Args:
    logprobs: log π of the sampled tokens.
    advantages: credit of each token, of either sign.

  Returns:
    Per-token losses. Their gradient means something, their value does not.

  Source: arXiv:2409.12917 equation 2 (REINFORCE, Williams 1992).
  Differs: no.

  >>> reinforce(jnp.array([-1.0]), jnp.array([2.0])).tolist()
  [2.0]
  """
  return -jax.lax.stop_gradient(advantages) * logprobs


def clipped_surrogate(
  logprobs: Float[Array, '*n'],
  old_logprobs: Float[Array, '*n'],
  advantages: Float[Array, '*n'],
  *,
  clip_low: float | Float[Array, ''],
  clip_high: float | Float[Array, ''],
) -> Float[Array, '*n']:
  """Policy-gradient losses whose incentive ends at a trust region.

  ℓₜ = −min(ρₜ Aₜ, clip(ρₜ, 1 − ε_low, 1 + ε_high) Aₜ),
  ρₜ = π(yₜ) / π_old(yₜ); A and π_old without gradient

  Args:
    logprobs: log π of the sampled tokens.
    old_logprobs: log π_old of the same, as the trainer computed them before the
      first update.
    advantages: credit of each token, of either sign.
    clip_low: ε_low in (0, 1].
    clip_high: ε_high, above 0.

  Returns:
    Per-token losses; at ρ = 1 their gradient is that of `reinforce`.

  Source: arXiv:1707.06347 equation 7; two bounds: arXiv:2503.14476 equation 8.
  Differs: no.

  >>> one = jnp.ones(1)
  >>> clipped_surrogate(one, 0 * one, one, clip_low=0.5, clip_high=0.5).tolist()
  [-1.5]
  """
  advantages = jax.lax.stop_gradient(advantages)
  ratio = jnp.exp(logprobs - jax.lax.stop_gradient(old_logprobs))
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  return -jnp.minimum(ratio * advantages, clipped * advantages)


def likelihood(logprobs: Float[Array, '*n']) -> Float[Array, '*n']:
  """Negative log-likelihoods of the tokens: imitation.

  ℓₜ = −log π(yₜ)

  Args:
    logprobs: log π of the tokens to imitate.

  Returns:
    Per-token losses, at least 0.

  Source: the definition of maximum likelihood.
  Differs: no.

  >>> likelihood(jnp.array([-1.0])).tolist()
  [1.0]
  """
  return -logprobs
