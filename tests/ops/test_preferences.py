from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from selfimprove.ops import preferences
from tests.ops import enumerable

POLICY = enumerable.table(0)
REFERENCE = enumerable.table(1)
REWARDS = enumerable.rewards(0)
BETA = 0.7


# Bradley–Terry -------------------------------------------------------------


def test_known_losses_of_comparisons():
  # −log σ(1) = log(1 + 1/e); a margin of 1 leaves a difference of 0.
  chosen, rejected = jnp.array([3.0, 3.0]), jnp.array([2.0, 2.0])
  actual = preferences.bradley_terry(chosen, rejected, jnp.array([0.0, 1.0]))
  expected = [math.log(1 + math.exp(-1)), math.log(2)]
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_swapped_answers_have_the_complementary_chance():
  first, second = jax.random.normal(jax.random.key(0), (2, 20))
  chances = jnp.exp(-preferences.bradley_terry(first, second)) + jnp.exp(
    -preferences.bradley_terry(second, first)
  )
  np.testing.assert_allclose(chances, jnp.ones(20), rtol=1e-6)


def test_only_differences_of_scores_count():
  first, second = jax.random.normal(jax.random.key(1), (2, 20))
  np.testing.assert_allclose(
    preferences.bradley_terry(first + 5, second + 5),
    preferences.bradley_terry(first, second),
    rtol=1e-4,
  )


def test_comparisons_of_hopeless_scores_stay_finite():
  loss, gradient = jax.value_and_grad(preferences.bradley_terry)(
    jnp.float32(-1e4), jnp.float32(1e4)
  )
  assert (float(loss), float(gradient)) == (2e4, -1)


# DPO -----------------------------------------------------------------------


def _log_ratios(table):
  return enumerable.sequence_logprobs(table) - enumerable.sequence_logprobs(
    REFERENCE
  )


def test_the_gradient_of_dpo_is_that_of_its_definition():
  chosen, rejected = np.array([4, 20, 11]), np.array([7, 3, 12])

  def loss(table):
    ratio = _log_ratios(table)
    return jnp.sum(preferences.dpo(ratio[chosen], ratio[rejected], beta=BETA))

  def definition(table):
    ratio = enumerable.probabilities(table) / enumerable.probabilities(
      REFERENCE
    )
    odds = (ratio[chosen] / ratio[rejected]) ** BETA
    return -jnp.sum(jnp.log(odds / (1 + odds)))

  for actual, expected in zip(
    jax.value_and_grad(loss)(POLICY), jax.value_and_grad(definition)(POLICY)
  ):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
  # And the paper's: −β σ(r⁻ − r⁺) (∇ log π(y⁺) − ∇ log π(y⁻)).
  ratio = _log_ratios(POLICY)
  weight = jax.nn.sigmoid(BETA * (ratio[rejected] - ratio[chosen]))
  by_sequence = jax.jacobian(enumerable.sequence_logprobs)(POLICY)
  step = by_sequence[chosen] - by_sequence[rejected]
  expected = -BETA * jnp.sum(weight[:, None, None] * step, axis=0)
  np.testing.assert_allclose(
    jax.grad(loss)(POLICY), expected, rtol=1e-4, atol=1e-6
  )


def _tilted_table():
  """Logits of the policy in proportion to π_ref exp(r / β)."""
  weight = enumerable.probabilities(REFERENCE) * jnp.exp(REWARDS / BETA)
  table = np.zeros((enumerable.PREFIX_COUNT, 3))
  for position in range(enumerable.LENGTH):
    np.add.at(
      table,
      (
        enumerable.PREFIXES[:, position],
        enumerable.SEQUENCES[:, position],
      ),
      np.asarray(weight),
    )
  return jnp.log(jnp.asarray(table, jnp.float32))


def test_dpo_rests_at_the_optimum_of_the_regularised_reward():
  # All pairs of the 27, each preferred as Bradley and Terry say.
  pair = jax.random.uniform(jax.random.key(2), (27, 27))
  prefer = jax.nn.sigmoid(REWARDS[:, None] - REWARDS[None, :])

  def loss(table):
    ratio = _log_ratios(table)
    chosen = jnp.broadcast_to(ratio[:, None], (27, 27))
    rejected = jnp.broadcast_to(ratio[None, :], (27, 27))
    return jnp.sum(
      (pair + pair.T) * prefer * preferences.dpo(chosen, rejected, beta=BETA)
    )

  assert jnp.max(jnp.abs(jax.grad(loss)(POLICY))) > 0.1
  rest = jax.grad(loss)(_tilted_table())
  np.testing.assert_allclose(rest, jnp.zeros_like(rest), atol=1e-4)


# Implicit rewards ----------------------------------------------------------


def _implicit(table):
  return preferences.implicit_reward(
    enumerable.token_logprobs(table),
    enumerable.token_logprobs(REFERENCE),
    beta=BETA,
  )


def test_implicit_rewards_telescope_to_that_of_the_answer():
  whole = BETA * jnp.log(
    enumerable.probabilities(POLICY) / enumerable.probabilities(REFERENCE)
  )
  np.testing.assert_allclose(
    jnp.sum(_implicit(POLICY), axis=1), whole, rtol=1e-4, atol=1e-5
  )


def test_sums_of_implicit_rewards_are_soft_values_of_their_prefixes():
  # β log E_ref[exp(r(y)/β) | prefix], r the reward of the whole answer.
  rewards = jnp.sum(_implicit(POLICY), axis=1)
  chances = enumerable.probabilities(REFERENCE)
  sums = jnp.cumsum(_implicit(POLICY), axis=1)
  for size in (1, 2):
    prefixes = enumerable.SEQUENCES[:, :size]
    for row in range(27):
      through = np.all(prefixes == prefixes[row], axis=1)
      weight = jnp.where(through, chances, 0)
      mean = jnp.sum(weight * jnp.exp(rewards / BETA)) / jnp.sum(weight)
      soft_value = BETA * jnp.log(mean)
      np.testing.assert_allclose(sums[row, size - 1], soft_value, atol=1e-5)


def test_a_tilted_reference_has_the_reward_it_was_tilted_by():
  # Up to one constant: the normaliser.
  found = jnp.sum(_implicit(_tilted_table()), axis=1) - REWARDS
  np.testing.assert_allclose(found, jnp.full(27, found[0]), atol=1e-5)


def test_the_reference_gets_no_gradient():
  gradients = jax.grad(
    lambda ours, reference: preferences.implicit_reward(
      ours, reference, beta=BETA
    ),
    (0, 1),
  )(-1.0, -2.0)
  np.testing.assert_allclose(gradients, (BETA, 0), rtol=1e-6)


# Verdicts ------------------------------------------------------------------


def test_verdict_losses_are_those_of_the_definition():
  logits = jnp.array([-3.0, -0.5, 0.0, 2.0])
  for label in (0.0, 0.3, 1.0):
    chance = jax.nn.sigmoid(logits)
    expected = -label * jnp.log(chance) - (1 - label) * jnp.log(1 - chance)
    actual = preferences.binary_cross_entropy(logits, jnp.full(4, label))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_gradients_of_verdicts_are_errors_also_far_out():
  # σ(z) − y.
  logits = jnp.array([-200.0, 200.0, -200.0, 200.0, 0.4])
  labels = jnp.array([0.0, 0.0, 1.0, 1.0, 0.3])

  def total(logits, labels):
    return jnp.sum(preferences.binary_cross_entropy(logits, labels))

  gradient, of_labels = jax.grad(total, (0, 1))(logits, labels)
  expected = jax.nn.sigmoid(logits) - labels
  np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(of_labels, jnp.zeros(5))


def test_a_comparison_is_the_verdict_that_the_first_is_better():
  first, second = jax.random.normal(jax.random.key(4), (2, 20))
  np.testing.assert_allclose(
    preferences.bradley_terry(first, second),
    preferences.binary_cross_entropy(first - second, jnp.ones(20)),
    rtol=1e-6,
  )


@pytest.mark.parametrize('margin', [0.0, 0.5])
def test_gradients_agree_with_finite_differences(margin):
  with jax.enable_x64(True):
    first, second = jnp.array([[1.0, -2, 0.3], [0.5, 1, 0.2]])

    @jax.jit
    def every(first, second):
      return (
        preferences.bradley_terry(first, second, margin),
        preferences.dpo(first, second, beta=BETA),
        preferences.binary_cross_entropy(first, jnp.array([0.0, 0.3, 1])),
        preferences.implicit_reward(first, jnp.zeros(3), beta=BETA),
      )

    check_grads(every, (first, second), 1, ['rev'])
