from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from selfimprove.ops import losses
from tests.ops import enumerable

POLICY = enumerable.table(0)
OTHER = enumerable.table(1)


def _assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


# Clipped surrogate ---------------------------------------------------------


@pytest.mark.parametrize(
  ('ratio', 'advantage', 'loss', 'slope'),
  [
    # Inside the region: −ρA, and the slope in log π is −ρA too.
    (1.1, 2.0, -2.2, -2.2),
    (0.9, -2.0, 1.8, 1.8),
    # Beyond it in the rewarded direction: constant. Bounds 1 − .2 and 1 + .3.
    (1.5, 2.0, -2.6, 0),
    (0.5, -2.0, 1.6, 0),
    # Beyond it in the punished direction: the way back stays open.
    (0.5, 2.0, -1.0, -1.0),
    (1.5, -2.0, 3.0, 3.0),
    (1.5, 0.0, 0, 0),
  ],
)
def test_the_incentive_ends_at_the_edge_of_the_region(
  ratio, advantage, loss, slope
):
  def surrogate(logprob):
    return losses.clipped_surrogate(
      logprob,
      jnp.float32(-1),
      jnp.float32(advantage),
      clip_low=0.2,
      clip_high=0.3,
    )

  value, gradient = jax.value_and_grad(surrogate)(jnp.log(ratio) - 1)
  np.testing.assert_allclose(value, loss, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-7)


def test_the_surrogate_is_the_clipped_loss_of_its_ratio():
  logprobs, old, credit = jax.random.normal(jax.random.key(3), (3, 20))
  np.testing.assert_array_equal(
    losses.clipped_surrogate(logprobs, old, credit, clip_low=0.1, clip_high=1),
    losses.clipped(logprobs - old, credit, clip_low=0.1, clip_high=1),
  )


# Dual clip -----------------------------------------------------------------


@pytest.mark.parametrize(
  ('ratio', 'advantage', 'loss', 'slope'),
  [
    # Punished and above 3: the loss stays at 3|A| and has no slope.
    (5.0, -2.0, 6.0, 0),
    # Punished below it, and rewarded anywhere: what it was.
    (2.0, -2.0, 4.0, 4.0),
    (5.0, 2.0, -2.4, 0),
    (0.5, 2.0, -1.0, -1.0),
  ],
)
def test_the_second_clip_bounds_punishment_alone(ratio, advantage, loss, slope):
  def dual(log_ratio):
    credit = jnp.float32(advantage)
    values = losses.clipped(log_ratio, credit, clip_low=0.2, clip_high=0.2)
    return losses.dual_clipped(values, credit, cap=3.0)

  value, gradient = jax.value_and_grad(dual)(jnp.log(jnp.float32(ratio)))
  np.testing.assert_allclose(value, loss, rtol=1e-5)
  np.testing.assert_allclose(gradient, slope, rtol=1e-5)


def test_no_gradient_reaches_the_advantage_where_the_second_clip_holds():
  def dual(credit):
    values = jnp.float32(10)  # A ratio of 5, punished with 2.
    return losses.dual_clipped(values, credit, cap=3.0)

  value, gradient = jax.value_and_grad(dual)(jnp.float32(-2))
  assert (float(value), float(gradient)) == (6, 0)


# CISPO ---------------------------------------------------------------------


@pytest.mark.parametrize(
  ('ratio', 'advantage', 'slope'),
  [
    # −clip(ρ)A, and nowhere 0: at 1.5 and 0.5 PPO has one sign without slope.
    (1.1, 2.0, -2.2),
    (1.5, 2.0, -2.6),
    (1.5, -2.0, 2.6),
    (0.5, 2.0, -1.6),
    (0.5, -2.0, 1.6),
  ],
)
def test_cispo_bounds_the_weight_and_keeps_every_gradient(
  ratio, advantage, slope
):
  def loss(logprob):
    old, credit = jnp.float32(-1), jnp.float32(advantage)
    return losses.cispo(logprob, old, credit, clip_low=0.2, clip_high=0.3)

  gradient = jax.grad(loss)(jnp.log(jnp.float32(ratio)) - 1)
  np.testing.assert_allclose(gradient, slope, rtol=1e-5)


def test_a_low_bound_of_one_or_more_is_none():
  logprobs, credit = jnp.array([-9.0]), jnp.ones(1)
  gradients = [
    jax.grad(
      lambda x, low=low: losses.cispo(
        x, 0 * x, credit, clip_low=low, clip_high=1.0
      )[0]
    )(logprobs)
    for low in (1.0, 10.0)
  ]
  np.testing.assert_allclose(gradients[0], -jnp.exp(logprobs), rtol=1e-5)
  np.testing.assert_array_equal(*gradients)


# All -----------------------------------------------------------------------


def test_no_gradient_reaches_data():
  keys = jax.random.split(jax.random.key(5), 3)
  logprobs, old_logprobs, credit = (
    jax.random.normal(key, (9,)) for key in keys
  )

  def total(logprobs, old_logprobs, credit):
    surrogate = losses.clipped_surrogate(
      logprobs, old_logprobs, credit, clip_low=0.2, clip_high=0.2
    )
    capped = losses.dual_clipped(surrogate, credit, cap=3.0)
    ratio = jnp.exp(logprobs - jax.lax.stop_gradient(old_logprobs))
    every = (
      surrogate
      + capped
      + losses.cispo(logprobs, old_logprobs, credit, clip_low=2, clip_high=2)
      + losses.importance_weighted(ratio, credit)
      + losses.reinforce(logprobs, credit)
    )
    return jnp.sum(every)

  gradients = jax.grad(total, (0, 1, 2))(logprobs, old_logprobs, credit)
  assert jnp.all(gradients[0] != 0)
  np.testing.assert_array_equal(gradients[1], jnp.zeros(9))
  np.testing.assert_array_equal(gradients[2], jnp.zeros(9))


def test_gradients_agree_with_finite_differences():
  with jax.enable_x64(True):
    # Ratios 0.5, 0.9, 1.1, 1.5, each with both signs; none near a bound.
    ratio = jnp.array([0.5, 0.9, 1.1, 1.5, 0.5, 0.9, 1.1, 1.5])
    credit = jnp.array([1.0, 2, 3, 4, -1, -2, -3, -4])
    old_logprobs = -jnp.arange(1.0, 9)
    logprobs = old_logprobs + jnp.log(ratio)

    @jax.jit
    def every(logprobs):
      ratio = jnp.exp(logprobs - old_logprobs)
      return (
        losses.reinforce(logprobs, credit),
        losses.importance_weighted(ratio, credit),
        # Beyond both caps and bounds; a weight that moved would not be seen.
        losses.dual_clipped(-ratio * credit, credit, cap=1.3),
        losses.cispo(
          logprobs, old_logprobs, credit, clip_low=0.01, clip_high=0.01
        ),
        losses.clipped_surrogate(
          logprobs, old_logprobs, credit, clip_low=0.2, clip_high=0.2
        ),
        losses.likelihood(logprobs),
      )

    check_grads(every, (logprobs,), 1, ['rev'])


def test_likelihood_is_lowest_for_the_distribution_of_the_data():
  # The mean over data of −log π is H(data) + KL(data ‖ π).
  def loss(table):
    return jnp.sum(losses.likelihood(enumerable.token_logprobs(table)), axis=1)

  at_data = enumerable.expected_gradient(loss, at=OTHER, drawn_from=OTHER)
  np.testing.assert_allclose(at_data, jnp.zeros_like(OTHER), atol=1e-6)
  elsewhere = enumerable.expected_gradient(loss, at=POLICY, drawn_from=OTHER)
  forward = jax.grad(enumerable.sequence_kl, argnums=1)(OTHER, POLICY)
  _assert_close(elsewhere, forward)
