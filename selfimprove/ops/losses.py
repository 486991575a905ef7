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


def clipped(
  log_ratio: Float[Array, '*n'],
  advantages: Float[Array, '*n'],
  *,
  clip_low: float | Float[Array, ''],
  clip_high: float | Float[Array, ''],
) -> Float[Array, '*n']:
  """Policy-gradient losses whose incentive ends where a ratio leaves a region.

  ℓₜ = −min(ρₜ Aₜ, clip(ρₜ, 1 − ε_low, 1 + ε_high) Aₜ); A without gradient

  Args:
    log_ratio: log ρ, differentiable: of tokens (`clipped_surrogate`) or of
      sequences (`ratios.sequence_log_ratio`).
    advantages: credit of each token, of either sign.
    clip_low: ε_low in (0, 1].
    clip_high: ε_high, above 0.

  Returns:
    Per-token losses.

  Source: arXiv:1707.06347 equation 7; two bounds: arXiv:2503.14476 equation 8.
  Differs: no.

  >>> one = jnp.ones(1)
  >>> clipped(one, one, clip_low=0.5, clip_high=0.5).tolist()
  [-1.5]
  """
  advantages = jax.lax.stop_gradient(advantages)
  ratio = jnp.exp(log_ratio)
  bounded = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  return -jnp.minimum(ratio * advantages, bounded * advantages)


def clipped_surrogate(
  logprobs: Float[Array, '*n'],
  old_logprobs: Float[Array, '*n'],
  advantages: Float[Array, '*n'],
  *,
  clip_low: float | Float[Array, ''],
  clip_high: float | Float[Array, ''],
) -> Float[Array, '*n']:
  """Policy-gradient losses whose incentive ends at a trust region.

  `clipped` at ρₜ = π(yₜ) / π_old(yₜ); A and π_old without gradient

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
  log_ratio = logprobs - jax.lax.stop_gradient(old_logprobs)
  return clipped(log_ratio, advantages, clip_low=clip_low, clip_high=clip_high)


def dual_clipped(
  values: Float[Array, '*n'],
  advantages: Float[Array, '*n'],
  *,
  cap: float | Float[Array, ''],
) -> Float[Array, '*n']:
  """Losses whose punishment ends where it is too large: a second clip.

  min(ℓₜ, −c Aₜ) where Aₜ < 0, and ℓₜ elsewhere; A without gradient

  Args:
    values: per-token losses ℓ of a ratio, those of `clipped` for instance.
    advantages: credit of each token, of either sign.
    cap: c above 1, the largest ratio at which a token is punished; 3 is
      customary.

  Returns:
    Per-token losses, constant where the ratio of a punished token exceeds c.

  Source: arXiv:1912.09729 (dual-clip PPO).
  Differs: no.

  >>> dual_clipped(jnp.array([9.0]), jnp.array([-1.0]), cap=3.0).tolist()
  [3.0]
  """
  advantages = jax.lax.stop_gradient(advantages)
  capped = jnp.minimum(values, -cap * advantages)
  return jnp.where(advantages < 0, capped, values)


def cispo(
  logprobs: Float[Array, '*n'],
  old_logprobs: Float[Array, '*n'],
  advantages: Float[Array, '*n'],
  *,
  clip_low: float | Float[Array, ''],
  clip_high: float | Float[Array, ''],
) -> Float[Array, '*n']:
  """Policy-gradient losses with a bounded weight for each sample.

  ℓₜ = −sg(clip(ρₜ, 1 − ε_low, 1 + ε_high)) Aₜ log π(yₜ), sg without gradient

  The bound is on the weight, not on the incentive: no token loses its gradient.

  Args:
    logprobs: log π of the sampled tokens.
    old_logprobs: log π_old of the same, as the trainer computed them before the
      first update.
    advantages: credit of each token, of either sign.
    clip_low: ε_low, above 0; 1 or more leaves the weight without lower bound,
      as in the source.
    clip_high: ε_high, above 0.

  Returns:
    Per-token losses. Their gradient means something, their value does not.

  Source: arXiv:2506.13585 section 3.1 (CISPO).
  Differs: no.

  >>> one = jnp.ones(1)
  >>> cispo(one, 0 * one, one, clip_low=0.5, clip_high=0.5).tolist()
  [-1.5]
  """
  ratio = jnp.exp(jax.lax.stop_gradient(logprobs - old_logprobs))
  weight = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  return reinforce(logprobs, weight * advantages)


def importance_weighted(
  ratio: Float[Array, '*n'], advantages: Float[Array, '*n']
) -> Float[Array, '*n']:
  """Policy-gradient losses of samples from elsewhere, without a clip.

  ℓₜ = −ρₜ Aₜ, A without gradient

  Args:
    ratio: ρ, differentiable: exp of a log-ratio, or what
      `ratios.shaped_ratio` makes of it.
    advantages: credit of each token, of either sign.

  Returns:
    Per-token losses.

  Source: arXiv:1707.06347 equation 6; for samples of another context
    arXiv:2506.13923.
  Differs: no.

  >>> importance_weighted(jnp.array([2.0]), jnp.array([3.0])).tolist()
  [-6.0]
  """
  return -ratio * jax.lax.stop_gradient(advantages)


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
