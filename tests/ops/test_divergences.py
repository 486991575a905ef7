from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from selfimprove.ops import divergences
from selfimprove.ops.divergences import exact_kl, k1, k2, k3
from tests.ops import enumerable

POLICY = enumerable.table(0)
REFERENCE = enumerable.table(1)
REF_TOKENS = enumerable.token_logprobs(REFERENCE)
REF_SEQUENCES = enumerable.sequence_logprobs(REFERENCE)
KL = enumerable.sequence_kl(POLICY, REFERENCE)
KL_GRADIENT = jax.grad(enumerable.sequence_kl)(POLICY, REFERENCE)


def _on_tokens(estimator):
  """A loss of sequences: the estimates of their tokens, added up."""
  return lambda table: jnp.sum(
    estimator(enumerable.token_logprobs(table), REF_TOKENS), axis=1
  )


def _on_sequences(estimator):
  """A loss of sequences: the estimate from their whole log-probability."""
  return lambda table: estimator(
    enumerable.sequence_logprobs(table), REF_SEQUENCES
  )


def _exact_on_prefixes(table):
  """A loss of sequences: the exact divergences after their prefixes."""
  return jnp.sum(exact_kl(table, REFERENCE)[enumerable.PREFIXES], axis=1)


def _mean(loss):
  return jnp.sum(enumerable.probabilities(POLICY) * loss(POLICY))


def _mean_gradient(loss):
  return enumerable.expected_gradient(loss, at=POLICY, drawn_from=POLICY)


def _assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def _distance(actual, expected):
  return float(jnp.max(jnp.abs(actual - expected)))


# Values --------------------------------------------------------------------


def test_known_values():
  # Ratio π/π_ref = 2: k1 = log 2, k2 = (log 2)²/2, k3 = 1/2 − 1 + log 2.
  logprobs, ref_logprobs = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))
  two = math.log(2)
  _assert_close(k1(logprobs, ref_logprobs), [two])
  _assert_close(k2(logprobs, ref_logprobs), [two**2 / 2])
  _assert_close(k3(logprobs, ref_logprobs), [two - 0.5])
  # KL((¾, ¼) ‖ (½, ½)) = ¾ log 3/2 + ¼ log ½; the reverse would be .1438.
  exact = exact_kl(jnp.log(jnp.array([[0.75, 0.25]])), jnp.zeros((1, 2)))
  _assert_close(exact, [0.75 * math.log(1.5) + 0.25 * math.log(0.5)])


@pytest.mark.parametrize('level', [_on_tokens, _on_sequences])
@pytest.mark.parametrize('estimator', [k1, k3])
def test_k1_and_k3_estimate_the_divergence_without_bias(estimator, level):
  _assert_close(_mean(level(estimator)), KL)


@pytest.mark.parametrize('level', [_on_tokens, _on_sequences])
def test_k2_is_a_biased_estimate_of_the_divergence(level):
  assert abs(_mean(level(k2)) - KL) > 0.05 * KL


def test_exact_divergences_along_a_sample_add_up_to_that_of_sequences():
  _assert_close(_mean(_exact_on_prefixes), KL)


def test_only_k1_can_be_negative():
  logprobs = enumerable.token_logprobs(POLICY)
  assert jnp.min(k1(logprobs, REF_TOKENS)) < -0.1
  assert jnp.min(k2(logprobs, REF_TOKENS)) >= 0
  assert jnp.min(k3(logprobs, REF_TOKENS)) >= 0
  assert jnp.min(exact_kl(POLICY, REFERENCE)) >= 0


def test_k3_keeps_its_digits_near_the_reference():
  # exp(δ) − 1 − δ = δ²/2 + δ³/6; as it stands, float32 gives three times that.
  delta = jnp.array([1e-4])
  expected = 1e-8 / 2 + 1e-12 / 6
  np.testing.assert_allclose(k3(-delta, 0 * delta), [expected], rtol=1e-2)


# Losses at the reference ---------------------------------------------------


@pytest.mark.parametrize('estimator', [k1, k2, k3])
def test_estimates_vanish_at_the_reference(estimator):
  loss = _on_tokens(estimator)
  np.testing.assert_array_equal(loss(REFERENCE), jnp.zeros(27))


@pytest.mark.parametrize('estimator', [k2, k3])
def test_gradients_of_k2_and_k3_vanish_for_every_sample_at_the_reference(
  estimator,
):
  gradients = jax.jacobian(_on_tokens(estimator))(REFERENCE)
  np.testing.assert_array_equal(gradients, jnp.zeros_like(gradients))


def test_exact_divergence_and_its_gradient_vanish_at_the_reference():
  value, gradient = jax.value_and_grad(
    lambda table: jnp.sum(exact_kl(table, REFERENCE))
  )(REFERENCE)
  assert value == 0
  np.testing.assert_allclose(gradient, jnp.zeros_like(gradient), atol=1e-7)


def test_k1_as_a_loss_pushes_samples_also_at_the_reference():
  gradients = jax.jacobian(_on_tokens(k1))(REFERENCE)
  assert jnp.max(jnp.abs(gradients)) > 0.5


# Gradients away from the reference -----------------------------------------


@pytest.mark.parametrize('level', [_on_tokens, _on_sequences])
def test_k1_as_a_loss_is_noise_around_zero_wherever_the_reference_is(level):
  assert _distance(KL_GRADIENT, 0) > 0.05
  assert _distance(_mean_gradient(level(k1)), 0) < 1e-6


def test_k1_in_the_reward_gives_the_gradient_of_the_divergence():
  penalty = _on_sequences(k1)(POLICY)
  gradient = _mean_gradient(
    lambda table: penalty * enumerable.sequence_logprobs(table)
  )
  _assert_close(gradient, KL_GRADIENT)


def test_k2_of_sequences_gives_the_gradient_of_the_divergence():
  _assert_close(_mean_gradient(_on_sequences(k2)), KL_GRADIENT)


def test_k2_of_tokens_gives_the_gradient_of_the_exact_divergences():
  expected = _mean_gradient(_exact_on_prefixes)
  _assert_close(_mean_gradient(_on_tokens(k2)), expected)
  # Both leave out that π also chooses the prefixes.
  assert _distance(expected, KL_GRADIENT) > 0.01


def test_k3_of_sequences_gives_the_gradient_of_the_reverse_divergence():
  reverse = jax.grad(enumerable.sequence_kl, argnums=1)(REFERENCE, POLICY)
  _assert_close(_mean_gradient(_on_sequences(k3)), reverse)
  assert _distance(reverse, KL_GRADIENT) > 0.01


def test_k3_of_tokens_gives_the_gradient_of_the_reverse_exact_divergences():
  def reverse(table):
    return jnp.sum(exact_kl(REFERENCE, table)[enumerable.PREFIXES], axis=1)

  _assert_close(_mean_gradient(_on_tokens(k3)), _mean_gradient(reverse))


@pytest.mark.parametrize('name', ['k1', 'k2', 'k3'])
def test_gradients_of_estimators_agree_with_finite_differences(name):
  estimator = getattr(divergences, name)
  with jax.enable_x64(True):
    logprobs, ref_logprobs = jnp.log(jnp.array([[0.5, 0.2], [0.1, 0.7]]))
    check_grads(jax.jit(estimator), (logprobs, ref_logprobs), 1, ['rev'])


def test_gradient_of_the_exact_divergence_agrees_with_finite_differences():
  with jax.enable_x64(True):
    inputs = (POLICY.astype(jnp.float64), REFERENCE.astype(jnp.float64))
    check_grads(jax.jit(exact_kl), inputs, 1, ['rev'])


# Banned tokens and types ---------------------------------------------------


def test_a_token_that_both_ban_is_as_good_as_absent():
  def total(logits, ref_logits):
    return jnp.sum(exact_kl(logits, ref_logits))

  def ban(logits):
    return jnp.pad(logits, ((0, 0), (0, 1)), constant_values=-jnp.inf)

  expected, gradient = jax.value_and_grad(total)(POLICY, REFERENCE)
  value, banned = jax.value_and_grad(total)(ban(POLICY), ban(REFERENCE))
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(banned[:, :3], gradient, atol=1e-6)
  np.testing.assert_array_equal(banned[:, 3], jnp.zeros(len(banned)))


def test_drawing_what_the_reference_bans_is_infinitely_far():
  ref_logits = jnp.array([[0.0, -jnp.inf]])
  assert exact_kl(jnp.zeros((1, 2)), ref_logits).tolist() == [math.inf]


def test_bfloat16_logits_are_compared_in_float32():
  logits = POLICY.astype(jnp.bfloat16)
  ref_logits = REFERENCE.astype(jnp.bfloat16)
  exact = exact_kl(logits, ref_logits)
  assert exact.dtype == jnp.float32
  np.testing.assert_array_equal(
    exact,
    exact_kl(logits.astype(jnp.float32), ref_logits.astype(jnp.float32)),
  )
