"""Negative-aware fine-tuning: likelihood of right and of wrong answers.

The policy being trained is π⁺, the part of π_old that answers rightly. The part
that answers wrongly is then implied: π⁻ = (π_old − r̂ π⁺) / (1 − r̂), r̂ the
success rate of π_old on the prompt. Wrong answers are imitated by π⁻.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LOWEST_RATE = 0.02
HIGHEST_RATE = 0.98


def negative_aware(
  log_ratio: Float[Array, '*n'],
  right: Float[Array, '*n'],
  success_rate: Float[Array, '*n'],
  *,
  floor: float | Float[Array, ''] = 1.0,
  neg_weight: float | Float[Array, ''] = 1.0,
  highest_log_ratio: float | Float[Array, ''] = 10.0,
) -> Float[Array, '*n']:
  """Likelihood losses of right answers under π⁺ and of wrong ones under π⁻.

  ℓₜ = −[r log Rₜ + ν (1 − r) log max(xₜ, ε)],  Rₜ = π(yₜ) / π_old(yₜ),
  xₜ = (1 − r̂ Rₜ) / (1 − r̂); the slope of the second logarithm is
  ∇xₜ / max(xₜ, ε) also where the floor holds (straight through)

  At R = 1 and ε ≤ 1 the gradient weighs −∇ log π by 1 (right) and
  −ν r̂ / (1 − r̂) (wrong): times `failure_weight` these are centred rewards,
  times `deviation_weight` standard scores (of the population). The value there
  is 0: it says nothing.

  Args:
    log_ratio: log R, differentiable through the numerator alone.
    right: r, 1 on tokens of right answers and 0 on those of wrong ones.
    success_rate: r̂, mean of r over the samples of the prompt; clamped to
      [0.02, 0.98], so that 0 and 1 are harmless (their groups are to be
      dropped).
    floor: ε above 0; the source recommends 1 and finds small values unstable.
    neg_weight: ν at least 0; 0 leaves the imitation of right answers.
    highest_log_ratio: above it log R is clamped and has no gradient.

  Returns:
    Per-token losses, not yet weighted by prompt.

  Source: arXiv:2505.18116 equation 10; clamps and ν: its released code.
  Differs: no.

  >>> none = jnp.zeros(1)
  >>> float(negative_aware(none, none, none + 0.5)[0]) == 0
  True
  """
  right, rate = map(jax.lax.stop_gradient, (right, success_rate))
  rate = jnp.clip(rate, LOWEST_RATE, HIGHEST_RATE)
  log_ratio = jnp.minimum(log_ratio, highest_log_ratio)
  implied = (1 - rate * jnp.exp(log_ratio)) / (1 - rate)
  fixed = jax.lax.stop_gradient(implied)
  floored = jnp.maximum(fixed, floor)
  # Not floored + (implied − fixed) inside the logarithm: far below the floor,
  # rounding of the difference could leave something negative.
  negative = jnp.log(floored) + (implied - fixed) / floored
  return -(right * log_ratio + neg_weight * (1 - right) * negative)


def uniform_weight(success_rate: Float[Array, '*n']) -> Float[Array, '*n']:
  """Weights that are the same for every prompt.

  w = 1

  Args:
    success_rate: r̂ in [0, 1].

  Returns:
    Ones.

  Source: arXiv:2505.18116 equation 10; with `neg_weight` 0 its rejection
    fine-tuning.
  Differs: no.

  >>> uniform_weight(jnp.array([0.25])).tolist()
  [1.0]
  """
  return jnp.ones_like(success_rate)


def failure_weight(success_rate: Float[Array, '*n']) -> Float[Array, '*n']:
  """Weights that make on-policy gradients those of centred rewards.

  w = 1 − r̂

  Args:
    success_rate: r̂ in [0, 1].

  Returns:
    Weights, larger for harder prompts.

  Source: arXiv:2505.18116 section 4 (as in Dr. GRPO).
  Differs: no.

  >>> failure_weight(jnp.array([0.25])).tolist()
  [0.75]
  """
  return 1 - success_rate


def deviation_weight(success_rate: Float[Array, '*n']) -> Float[Array, '*n']:
  """Weights that make on-policy gradients those of standard scores.

  w = √((1 − r̂) / r̂), the deviation being that of the population

  Args:
    success_rate: r̂ in [0, 1]; clamped to [0.02, 0.98].

  Returns:
    Weights, larger for harder prompts; at most 7.

  Source: arXiv:2505.18116 section 4 and released code (as in GRPO).
  Differs: no.

  >>> deviation_weight(jnp.array([0.2])).tolist()
  [2.0]
  """
  rate = jnp.clip(success_rate, LOWEST_RATE, HIGHEST_RATE)
  return jnp.sqrt((1 - rate) / rate)
