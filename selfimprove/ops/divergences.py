"""How far a policy is from its reference, per token.

Three estimators from the log-probabilities of the sampled tokens alone, and the
exact divergence of the whole next-token distributions. As *values* on samples
of π, k1 and k3 are unbiased for KL(π ‖ π_ref) and k2 is not. As *losses* they
are to be judged by their gradients, and the order is another one: see each.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def k1(
  logprobs: Float[Array, '*n'], ref_logprobs: Float[Array, '*n']
) -> Float[Array, '*n']:
  """Log-ratio estimator of KL(π ‖ π_ref): for rewards and metrics, NOT a loss.

  k1 = log π − log π_ref

  Its gradient is ∇ log π: the reference is not in it, and its expectation is 0.
  As a loss it is pure noise that anchors nothing. Subtracted from the reward
  (without gradient) it gives the unbiased gradient of KL(π ‖ π_ref).

  Args:
    logprobs: log π of sampled tokens, or of sequences.
    ref_logprobs: log π_ref of the same.

  Returns:
    Estimates of either sign.

  Source: J. Schulman, Approximating KL Divergence, 2020.
  Differs: no.

  >>> k1(jnp.array([-1.0]), jnp.array([-3.0])).tolist()
  [2.0]
  """
  return logprobs - ref_logprobs


def k2(
  logprobs: Float[Array, '*n'], ref_logprobs: Float[Array, '*n']
) -> Float[Array, '*n']:
  """Half squared log-ratio; as a loss, unbiased for ∇KL(π ‖ π_ref).

  k2 = (log π − log π_ref)² / 2

  Its value is biased, its gradient (log π − log π_ref) ∇ log π is not, as long
  as the samples come from π: on whole sequences for the divergence of
  sequences, on tokens for that of each next token, the prefixes held fixed.

  Args:
    logprobs: log π of sampled tokens, or of sequences.
    ref_logprobs: log π_ref of the same.

  Returns:
    Estimates, at least 0; value and gradient are 0 at π = π_ref.

  Source: J. Schulman, Approximating KL Divergence, 2020.
  Differs: no.

  >>> k2(jnp.array([-1.0]), jnp.array([-3.0])).tolist()
  [2.0]
  """
  return 0.5 * jnp.square(logprobs - ref_logprobs)


def k3(
  logprobs: Float[Array, '*n'], ref_logprobs: Float[Array, '*n']
) -> Float[Array, '*n']:
  """Positive estimator; as a loss, unbiased for ∇KL(π_ref ‖ π), the reverse.

  k3 = exp(δ) − 1 − δ,  δ = log π_ref − log π

  Its value is unbiased for KL(π ‖ π_ref) on samples of π, and of lower variance
  than k1 near the reference; its gradient (1 − π_ref/π) ∇ log π is that of the
  other divergence. The two agree to second order at π = π_ref.

  Args:
    logprobs: log π of sampled tokens, or of sequences.
    ref_logprobs: log π_ref of the same.

  Returns:
    Estimates, at least 0; value and gradient are 0 at π = π_ref.

  Source: J. Schulman, Approximating KL Divergence, 2020; arXiv:2402.03300
    equation 4.
  Differs: no; `expm1` keeps the digits that exp(δ) − 1 loses at small δ.

  >>> k3(jnp.array([-1.0]), jnp.array([-1.0])).tolist()
  [0.0]
  """
  log_ratio = ref_logprobs - logprobs
  return jnp.expm1(log_ratio) - log_ratio


def exact_kl(
  logits: Float[Array, 'n v'], ref_logits: Float[Array, 'n v']
) -> Float[Array, 'n']:
  """Divergences of the next-token distributions over the whole vocabulary.

  KL(π ‖ π_ref) = Σ_v π(v) (log π(v) − log π_ref(v))

  Summed over the tokens of a sample of π it is, in expectation, the divergence
  of the sequences; its gradient holds the prefixes fixed.

  Args:
    logits: unnormalised log π of any float type; -inf bans a token.
    ref_logits: unnormalised log π_ref.

  Returns:
    Divergence of each row in nats, at least 0 up to rounding, at least in
    float32; inf where π can draw what π_ref bans. Tokens that π bans add 0.

  Source: arXiv:2409.12917 equation 2, one position of it.
  Differs: no.

  >>> exact_kl(jnp.zeros((1, 2)), jnp.zeros((1, 2))).tolist()
  [0.0]
  """
  dtype = jnp.promote_types(logits.dtype, jnp.float32)
  logprobs = jax.nn.log_softmax(logits.astype(dtype), axis=1)
  ref_logprobs = jax.nn.log_softmax(ref_logits.astype(dtype), axis=1)
  probs = jnp.exp(logprobs)
  # Both may be −inf where π is 0; the select must come before the product.
  log_ratio = jnp.where(probs > 0, logprobs - ref_logprobs, 0)
  return jnp.sum(probs * log_ratio, axis=1)
