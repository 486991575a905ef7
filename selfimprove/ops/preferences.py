"""Losses of comparisons and verdicts: what reward models are trained with.

A log-ratio of two policies is a reward too (`implicit_reward`), so the same
losses train a policy on pairs (`dpo`) and a reward model that is a policy.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float


def bradley_terry(
  chosen: Float[Array, '*n'],
  rejected: Float[Array, '*n'],
  margin: float | Float[Array, '*n'] = 0.0,
) -> Float[Array, '*n']:
  """Negative log-likelihoods of preferences between two scored answers.

  ℓ = −log σ(s⁺ − s⁻ − m)

  Args:
    chosen: s⁺, score of the preferred answer.
    rejected: s⁻, score of the other.
    margin: m, how much better the preferred one is known to be; 0 if unknown.

  Returns:
    Losses of pairs, at least 0; log 2 at equal scores without margin.

  Source: arXiv:2203.02155 equation 1; margin: arXiv:2307.09288 equation 2.
  Differs: no.

  >>> equal = jax.numpy.zeros(1)
  >>> round(float(bradley_terry(equal, equal)[0]), 4)
  0.6931
  """
  return -jax.nn.log_sigmoid(chosen - rejected - margin)


def dpo(
  chosen_log_ratio: Float[Array, '*n'],
  rejected_log_ratio: Float[Array, '*n'],
  *,
  beta: float | Float[Array, ''],
) -> Float[Array, '*n']:
  """Preference losses in which the policy is its own reward model.

  ℓ = −log σ(β log π(y⁺)/π_ref(y⁺) − β log π(y⁻)/π_ref(y⁻))

  Args:
    chosen_log_ratio: log π/π_ref of the preferred answer, summed over its
      tokens.
    rejected_log_ratio: that of the other.
    beta: β above 0, weight of the divergence from the reference that the
      optimal policy pays.

  Returns:
    Losses of pairs, at least 0; log 2 at π = π_ref.

  Source: arXiv:2305.18290 equation 7.
  Differs: no.

  >>> equal = jax.numpy.zeros(1)
  >>> round(float(dpo(equal, equal, beta=0.1)[0]), 4)
  0.6931
  """
  return bradley_terry(beta * chosen_log_ratio, beta * rejected_log_ratio)


def implicit_reward(
  logprobs: Float[Array, '*n'],
  ref_logprobs: Float[Array, '*n'],
  *,
  beta: float | Float[Array, ''],
) -> Float[Array, '*n']:
  """Rewards of single tokens from a reward model that is a policy.

  rₜ = β (log π_φ(yₜ) − log π_ref(yₜ)), π_ref without gradient

  Their sum over an answer is its whole reward, whatever the tokens: trained on
  whole answers (`binary_cross_entropy` of the sum, or `dpo`), π_φ credits
  steps that nobody labelled.

  Args:
    logprobs: log π_φ of the tokens.
    ref_logprobs: log π_ref of the same.
    beta: β above 0.

  Returns:
    Per-token rewards of either sign, 0 at π_φ = π_ref.

  Source: arXiv:2502.01456 (PRIME) section 2; arXiv:2412.01981 proposition 3.1.
  Differs: no.

  >>> one = jax.numpy.ones(1)
  >>> implicit_reward(-one, -3 * one, beta=0.5).tolist()
  [1.0]
  """
  return beta * (logprobs - jax.lax.stop_gradient(ref_logprobs))


def binary_cross_entropy(
  logits: Float[Array, '*n'], labels: Float[Array, '*n']
) -> Float[Array, '*n']:
  """Negative log-likelihoods of verdicts.

  ℓ = −y log σ(z) − (1 − y) log σ(−z)

  Args:
    logits: z, log-odds that the answer or step is right.
    labels: y in [0, 1]: 1 for right, 0 for wrong; data, without gradient.

  Returns:
    Losses, at least 0; finite for every finite z.

  Source: the definition; of steps arXiv:2305.20050 section 2, of implicit
    rewards arXiv:2502.01456 equation 5.
  Differs: no.

  >>> undecided = jax.numpy.zeros(1)
  >>> round(float(binary_cross_entropy(undecided, undecided)[0]), 4)
  0.6931
  """
  labels = jax.lax.stop_gradient(labels)
  right = jax.nn.log_sigmoid(logits)
  return -labels * right - (1 - labels) * jax.nn.log_sigmoid(-logits)
