from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from selfimprove.ops import advantages
from selfimprove.ops.negative_aware import (
  deviation_weight,
  failure_weight,
  negative_aware,
  uniform_weight,
)

# Three prompts of four samples: 1, 2 and 3 of them right.
RIGHT = jnp.array([1.0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1])
RATE = jnp.repeat(jnp.array([0.25, 0.5, 0.75]), 4)
RATIOS = jnp.array([0.5, 0.9, 1.0, 1.2, 1.6])


def _slopes(log_ratio, right, rate, **options):
  """Gradient of each loss in the log-probability of its token."""
  return jax.grad(lambda x: jnp.sum(negative_aware(x, right, rate, **options)))(
    log_ratio
  )


def _of_wrong(ratio, rate, **options):
  ratio = jnp.asarray(ratio)
  return _slopes(
    jnp.log(ratio), jnp.zeros_like(ratio), jnp.full_like(ratio, rate), **options
  )


# On-policy -----------------------------------------------------------------


@pytest.mark.parametrize('floor', [1.0, 0.5, 0.01])
def test_on_policy_gradients_are_those_of_centred_rewards(floor):
  actual = failure_weight(RATE) * _slopes(0 * RATE, RIGHT, RATE, floor=floor)
  centered = advantages.group_centered(RIGHT[:, None], group_size=4)[:, 0]
  np.testing.assert_allclose(actual, -centered, rtol=1e-6)


def test_on_policy_gradients_are_those_of_standard_scores_of_the_population():
  actual = deviation_weight(RATE) * _slopes(0 * RATE, RIGHT, RATE)
  scores = advantages.group_normalized(
    RIGHT[:, None], group_size=4, eps=0, ddof=0
  )[:, 0]
  np.testing.assert_allclose(actual, -scores, rtol=1e-6)


def test_a_floor_above_one_breaks_that_equality():
  actual = failure_weight(RATE) * _slopes(0 * RATE, RIGHT, RATE, floor=1.5)
  centered = advantages.group_centered(RIGHT[:, None], group_size=4)[:, 0]
  assert jnp.max(jnp.abs(actual + centered)) > 0.1


def test_on_policy_the_value_is_zero_and_the_gradients_cancel_per_prompt():
  values = negative_aware(0 * RATE, RIGHT, RATE)
  np.testing.assert_array_equal(values, jnp.zeros(12))
  slopes = _slopes(0 * RATE, RIGHT, RATE).reshape(3, 4)
  np.testing.assert_allclose(jnp.sum(slopes, axis=1), jnp.zeros(3), atol=1e-6)
  assert jnp.min(jnp.abs(slopes)) > 0.1


# Off-policy ----------------------------------------------------------------


def test_known_weights_of_wrong_answers():
  # At r̂ = .4 and w = .6: w r̂ R / ((1 − r̂) max(x, 1)), x = (1 − .4 R) / .6.
  actual = 0.6 * _of_wrong(RATIOS, 0.4)
  expected = [0.15, 0.3375, 0.4, 0.48, 0.64]
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_right_answers_weigh_one_however_stale():
  ones = jnp.ones(5)
  actual = _slopes(jnp.log(RATIOS), ones, 0.4 * ones)
  np.testing.assert_array_equal(actual, -ones)


def test_without_negatives_it_is_imitation_of_right_answers():
  log_ratio = jax.random.normal(jax.random.key(0), (12,))
  weight = uniform_weight(RATE)
  actual = weight * _slopes(log_ratio, RIGHT, RATE, neg_weight=0.0)
  np.testing.assert_array_equal(actual, -RIGHT)


def test_weights_of_wrong_answers_scale_with_neg_weight():
  np.testing.assert_allclose(
    _of_wrong(RATIOS, 0.4, neg_weight=0.5),
    0.5 * _of_wrong(RATIOS, 0.4),
    rtol=1e-6,
  )


def test_weights_of_wrong_answers_grow_with_the_ratio_and_fall_with_the_floor():
  ratio = jnp.linspace(0.1, 5.0, 50)
  weights = {
    floor: _of_wrong(ratio, 0.3, floor=floor) for floor in (0.1, 0.5, 1.0)
  }
  for weight in weights.values():
    assert jnp.all(jnp.diff(weight) > 0)
  assert jnp.all(weights[0.1] >= weights[0.5])
  assert jnp.all(weights[0.5] >= weights[1.0])
  assert weights[0.1][-1] > 5 * weights[1.0][-1]
  assert jnp.max(_of_wrong(RATIOS, 0.0)) < 0.05


def test_the_two_policies_mix_to_the_old_one():
  # r̂ R + (1 − r̂) x = 1, x the ratio of the implied policy: exp(−ℓ).
  wrong = negative_aware(
    jnp.log(RATIOS), 0 * RATIOS, jnp.full(5, 0.4), floor=1e-3
  )
  mixed = 0.4 * RATIOS + 0.6 * jnp.exp(-wrong)
  np.testing.assert_allclose(mixed, jnp.ones(5), rtol=1e-5)


def test_gradients_agree_with_finite_differences_above_the_floor():
  with jax.enable_x64(True):
    log_ratio = jnp.log(jnp.asarray(RATIOS, jnp.float64))
    rate = jnp.full(5, 0.4)

    def loss(log_ratio):
      right = jnp.array([1.0, 0, 0, 0, 1])
      return negative_aware(log_ratio, right, rate, floor=0.1)

    check_grads(jax.jit(loss), (log_ratio,), 1, ['rev'])


def test_below_the_floor_the_value_stands_and_the_slope_stays():
  ratio = jnp.array([1.5, 2.0])
  wrong = negative_aware(jnp.log(ratio), 0 * ratio, jnp.full(2, 0.5))
  np.testing.assert_allclose(wrong, jnp.zeros(2), atol=1e-7)
  # r̂ R / (1 − r̂) = R at r̂ = ½.
  np.testing.assert_allclose(_of_wrong(ratio, 0.5), ratio, rtol=1e-6)


# Edges ---------------------------------------------------------------------


@pytest.mark.parametrize('floor', [1.0, 0.01])
@pytest.mark.parametrize('rate', [0.0, 0.02, 0.5, 0.98, 1.0])
def test_nothing_is_infinite_at_any_rate_and_ratio(rate, floor):
  log_ratio = jnp.tile(jnp.array([-50.0, 0.0, 1.0, 10.0, 300.0]), 2)
  right = jnp.repeat(jnp.array([0.0, 1.0]), 5)
  rates = jnp.full(10, rate)
  values = negative_aware(log_ratio, right, rates, floor=floor)
  assert jnp.all(jnp.isfinite(values))
  assert jnp.all(jnp.isfinite(_slopes(log_ratio, right, rates, floor=floor)))
  for weight_fn in (uniform_weight, failure_weight, deviation_weight):
    assert jnp.all(jnp.isfinite(weight_fn(rates)))
    slope = jax.grad(lambda x, fn=weight_fn: jnp.sum(fn(x)))(rates)
    assert jnp.all(jnp.isfinite(slope))


def test_ratios_far_above_are_clamped_and_feel_nothing():
  log_ratio = jnp.array([9.0, 11.0, 9.0, 11.0])
  right = jnp.array([1.0, 1.0, 0.0, 0.0])
  slopes = _slopes(log_ratio, right, jnp.full(4, 0.5))
  assert (slopes == 0).tolist() == [False, True, False, True]


def test_no_gradient_reaches_data():
  gradients = jax.grad(
    lambda right, rate: jnp.sum(negative_aware(0.3 * RATE, right, rate)), (0, 1)
  )(RIGHT, RATE)
  jax.tree.map(
    lambda x: np.testing.assert_array_equal(x, jnp.zeros(12)), gradients
  )


# Fixed points --------------------------------------------------------------

OLD = np.array([0.3, 0.2, 0.4, 0.1])


def _descend(chances, floor):
  """Policy at rest, where answer a of π_old is right with chance p(a)."""
  old, chances = jnp.asarray(OLD), jnp.asarray(chances)
  rate = jnp.full(4, jnp.sum(old * chances))

  def loss(logits):
    log_ratio = jax.nn.log_softmax(logits) - jnp.log(old)
    right, wrong = (
      negative_aware(log_ratio, jnp.full(4, r), rate, floor=floor)
      for r in (1.0, 0.0)
    )
    return jnp.sum(old * (chances * right + (1 - chances) * wrong))

  def step(_, logits):
    return logits - 0.3 * jax.grad(loss)(logits)

  start = jnp.log(old)
  return jax.nn.softmax(jax.lax.fori_loop(0, 4000, step, start))


@pytest.mark.parametrize('floor', [1.0, 0.1])
def test_it_comes_to_rest_at_the_right_part_of_the_old_policy(floor):
  with jax.enable_x64(True):
    actual = _descend([1.0, 1.0, 0.0, 0.0], floor)
  np.testing.assert_allclose(actual, [0.6, 0.4, 0, 0], atol=2e-3)


def test_a_high_floor_over_sharpens_under_a_noisy_verifier():
  # π_old p / r̂: r̂ = .3 · .8 + .2 · .5 + .4 · .3 + .1 · .4 = .5.
  chances = [0.8, 0.5, 0.3, 0.4]
  exact = OLD * chances / 0.5
  with jax.enable_x64(True):
    low, high = (np.asarray(_descend(chances, floor)) for floor in (0.1, 1.0))
  np.testing.assert_allclose(low, exact, atol=1e-3)
  assert high[0] > exact[0] + 0.05
