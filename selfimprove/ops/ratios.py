"""Ratios of the policy to the distribution that sampled.

A ratio of tokens corrects each choice given its prefix; a ratio of sequences
corrects the prefixes too, at more variance; both can be shaped or bounded.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from selfimprove.ops import masks


def sequence_log_ratio(
  logprobs: Float[Array, 'b t'],
  old_logprobs: Float[Array, 'b t'],
  turn: Int[Array, 'b t'],
  *,
  turns: int,
) -> Float[Array, 'b t']:
  """Length-normalised log-ratios of whole attempts, on each of their tokens.

  log sₜ = sg((1/|y|) Σ_{u ∈ y} (log π(y_u) − log π_old(y_u)))
           + log π(yₜ) − sg(log π(yₜ)),  y the attempt that wrote token t

  All tokens of an attempt have the value of its mean, so that a clip keeps or
  drops the attempt as a whole, and each its own gradient. With one advantage
  per attempt, the mean over its tokens of −s A has the gradient of the mean
  log-ratio's exponential; with advantages of tokens it is the token variant.

  Args:
    logprobs: log π of the sampled tokens.
    old_logprobs: log π_old of the same; data, without gradient.
    turn: attempt that wrote the token, from 0 and below `turns`; -1 on tokens
      that no attempt wrote, whose log-probabilities are ignored.
    turns: number of attempts, at least 1.

  Returns:
    Per-token log-ratios, 0 on tokens that no attempt wrote.

  Source: arXiv:2507.18071 (GSPO) sections 4.1 and 4.3.
  Differs: no; a sequence is one attempt of a row.

  >>> turn = jnp.array([[0, 0, -1]])
  >>> old = jnp.array([[-1.0, -3.0, 0.0]])
  >>> sequence_log_ratio(0 * old, old, turn, turns=1).tolist()
  [[2.0, 2.0, 0.0]]
  """
  written = turn >= 0
  logprobs = jnp.where(written, logprobs, 0)
  fixed = jax.lax.stop_gradient(logprobs)
  old = jax.lax.stop_gradient(jnp.where(written, old_logprobs, 0))
  sums = masks.turn_sums(fixed - old, turn, turns=turns)
  tokens = masks.turn_sums(written.astype(sums.dtype), turn, turns=turns)
  placed = masks.take_by_turn(sums / jnp.maximum(tokens, 1), turn)
  return placed + (logprobs - fixed)


def shaped_ratio(
  log_ratio: Float[Array, '*n'], half: float | Float[Array, '']
) -> Float[Array, '*n']:
  """Ratios squeezed below 1, so that no sample outweighs the others.

  f(ρ) = ρ / (ρ + γ) = σ(log ρ − log γ), γ without gradient

  The weight that is left on ∇ log π is γρ / (ρ + γ)²: at most ¼, at ρ = γ;
  about ρ/γ below and γ/ρ above.

  Args:
    log_ratio: log ρ, differentiable.
    half: γ above 0, the ratio that becomes ½.

  Returns:
    Shaped ratios in [0, 1].

  Source: the released code of arXiv:2506.13923 (Guide); arXiv:2504.14945
    section 3.
  Differs: takes log ρ, so that a ratio may overflow.

  >>> shaped_ratio(jnp.zeros(1), 1.0).tolist()
  [0.5]
  """
  half = jax.lax.stop_gradient(jnp.asarray(half, log_ratio.dtype))
  return jax.nn.sigmoid(log_ratio - jnp.log(half))


def masked_quantile(
  values: Float[Array, '*n'],
  mask: Bool[Array, '*n'],
  level: float | Float[Array, ''],
) -> Float[Array, '']:
  """Quantile of the chosen values, without gradient.

  The value at place q (n − 1) of the n chosen ones in order, from 0; between
  two places the line between them.

  Args:
    values: values; where `mask` is False they are ignored, whatever they are.
    mask: True on the values that count.
    level: q in [0, 1].

  Returns:
    The quantile; 0 if nothing is chosen.

  Source: the definition, in its linear variant.
  Differs: no.

  >>> x = jnp.array([5.0, 1.0, 3.0])
  >>> float(masked_quantile(x, x < 4, 0.5))
  2.0
  """
  chosen = jnp.where(mask, jax.lax.stop_gradient(values), jnp.inf).ravel()
  ordered = jnp.sort(chosen)
  count = jnp.sum(mask, dtype=jnp.int32)
  place = level * jnp.maximum(count - 1, 0).astype(values.dtype)
  below = jnp.floor(place).astype(jnp.int32)
  above = jnp.minimum(below + 1, jnp.maximum(count - 1, 0))
  low, high = ordered[below], ordered[above]
  # Equal ends also where both are infinite: their difference would be NaN.
  step = jnp.where(high > low, (place - below) * (high - low), 0)
  return jnp.where(count > 0, low + step, 0)
