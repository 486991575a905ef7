"""Undivided means of per-token values, that add up over any cut of a batch.

Each function is another answer to "what is one vote": a token, a sequence, a
sequence whose tokens share its vote, or a fixed length. The total weighs rows
by `weight`; the count only asks whether a row's weight is positive.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from selfimprove.types import Estimate


def token_mean(
  values: Float[Array, 'b t'],
  mask: Bool[Array, 'b t'],
  weight: Float[Array, 'b'],
) -> Estimate:
  """Mean over all tokens: long rows weigh more.

  Σᵢ wᵢ Σₜ mᵢₜ xᵢₜ / Σᵢ 1{wᵢ > 0} Σₜ mᵢₜ

  Args:
    values: per-token values; where `mask` is False or the row is dropped they
      are ignored, also if they are not finite.
    mask: True on the tokens that count.
    weight: sample weights, at least 0; 0 drops the row.

  Returns:
    Weighted sum of the values; number of tokens in kept rows.

  Source: arXiv:2503.14476 equation 8 (DAPO).
  Differs: no at weights 0 and 1.

  >>> ones = jnp.ones((1, 2))
  >>> float(token_mean(ones, ones > 0, ones[:, 0]).count)
  2.0
  """
  sums, tokens, kept = _row_sums(values, mask, weight)
  return Estimate(total=jnp.sum(sums), count=jnp.sum(tokens * kept))


def sequence_mean(
  values: Float[Array, 'b t'],
  mask: Bool[Array, 'b t'],
  weight: Float[Array, 'b'],
) -> Estimate:
  """Mean over rows of the sum over their tokens.

  Σᵢ wᵢ Σₜ mᵢₜ xᵢₜ / Σᵢ 1{wᵢ > 0}

  Args:
    values: per-token values; where `mask` is False or the row is dropped they
      are ignored, also if they are not finite.
    mask: True on the tokens that count.
    weight: sample weights, at least 0; 0 drops the row.

  Returns:
    Weighted sum of the values; number of kept rows, those without a token in
    `mask` included.

  Source: arXiv:2409.12917 equation 2: log-probability and divergence of a
    sequence are sums over its tokens.
  Differs: no at weights 0 and 1.

  >>> ones = jnp.ones((1, 2))
  >>> float(sequence_mean(ones, ones > 0, ones[:, 0]).total)
  2.0
  """
  sums, _, kept = _row_sums(values, mask, weight)
  return Estimate(total=jnp.sum(sums), count=jnp.sum(kept))


def sequence_mean_token_mean(
  values: Float[Array, 'b t'],
  mask: Bool[Array, 'b t'],
  weight: Float[Array, 'b'],
) -> Estimate:
  """Mean over rows of the mean over their tokens: long rows are diluted.

  Σᵢ wᵢ (Σₜ mᵢₜ xᵢₜ / Σₜ mᵢₜ) / Σᵢ 1{wᵢ > 0}

  Args:
    values: per-token values; where `mask` is False or the row is dropped they
      are ignored, also if they are not finite.
    mask: True on the tokens that count.
    weight: sample weights, at least 0; 0 drops the row.

  Returns:
    Weighted sum of the rows' means (0 for a row without tokens); number of kept
    rows.

  Source: arXiv:2402.03300 equation 3 (GRPO).
  Differs: no at weights 0 and 1.

  >>> ones = jnp.ones((1, 2))
  >>> float(sequence_mean_token_mean(ones, ones > 0, ones[:, 0]).total)
  1.0
  """
  sums, tokens, kept = _row_sums(values, mask, weight)
  means = sums / jnp.maximum(tokens, 1)
  return Estimate(total=jnp.sum(means), count=jnp.sum(kept))


def constant_norm(
  values: Float[Array, 'b t'],
  mask: Bool[Array, 'b t'],
  weight: Float[Array, 'b'],
  *,
  length: float | Float[Array, ''],
) -> Estimate:
  """Mean over rows of the sum over their tokens, in units of a fixed length.

  Σᵢ wᵢ (Σₜ mᵢₜ xᵢₜ / L) / Σᵢ 1{wᵢ > 0}

  Args:
    values: per-token values; where `mask` is False or the row is dropped they
      are ignored, also if they are not finite.
    mask: True on the tokens that count.
    weight: sample weights, at least 0; 0 drops the row.
    length: L in tokens, above 0; the length limit of an attempt is customary.

  Returns:
    Weighted sum of the values over L; number of kept rows.

  Source: arXiv:2503.20783 (Dr. GRPO) section 3.2 and its listing 1.
  Differs: no at weights 0 and 1.

  >>> ones = jnp.ones((1, 2))
  >>> float(constant_norm(ones, ones > 0, ones[:, 0], length=4.0).total)
  0.5
  """
  whole = sequence_mean(values, mask, weight)
  return Estimate(total=whole.total / length, count=whole.count)


def _row_sums(
  values: Float[Array, 'b t'],
  mask: Bool[Array, 'b t'],
  weight: Float[Array, 'b'],
) -> tuple[Float[Array, 'b'], Float[Array, 'b'], Float[Array, 'b']]:
  """Returns weighted sums, numbers of tokens, and 1 for every kept row."""
  dtype = jnp.promote_types(values.dtype, jnp.float32)
  kept = weight > 0
  # Selected, not multiplied: 0 · NaN is NaN, and so is its gradient.
  chosen = jnp.where(mask & kept[:, None], values.astype(dtype), 0)
  sums = jnp.where(kept, weight, 0).astype(dtype) * jnp.sum(chosen, axis=1)
  return sums, jnp.sum(mask, axis=1, dtype=dtype), kept.astype(dtype)
