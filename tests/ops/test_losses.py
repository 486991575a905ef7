from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from selfimprove.ops import advantages, losses
from tests.ops import enumerable

POLICY = enumerable.table(0)
OTHER = enumerable.table(1)
REWARDS = enumerable.rewards(0)


def _value(table):
  return jnp.sum(enumerable.probabilities(table) * REWARDS)


EXACT = jax.grad(_value)(POLICY)


def _assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def _distance(actual, expected):
  return float(jnp.max(jnp.abs(actual - expected)))


def _reinforce_gradient(token_advantages):
  """Expected ascent direction of REINFORCE, on-policy."""

  def loss(table):
    logprobs = enumerable.token_logprobs(table)
    return -jnp.sum(losses.reinforce(logprobs, token_advantages), axis=1)

  return enumerable.expected_gradient(loss, at=POLICY, drawn_from=POLICY)


def _on_tokens(values):
  return jnp.repeat(values[:, None], enumerable.LENGTH, axis=1)


# REINFORCE -----------------------------------------------------------------


@pytest.mark.parametrize('baseline', [0.0, 1.0, -5.0])
def test_reinforce_is_the_exact_gradient_with_any_constant_baseline(baseline):
  assert _distance(EXACT, 0) > 0.05
  _assert_close(_reinforce_gradient(_on_tokens(REWARDS - baseline)), EXACT)


def test_reinforce_is_the_exact_gradient_with_a_baseline_of_the_prefix():
  values = jax.random.normal(jax.random.key(7), (enumerable.PREFIX_COUNT,))
  credit = _on_tokens(REWARDS) - values[enumerable.PREFIXES]
  _assert_close(_reinforce_gradient(credit), EXACT)


def test_a_baseline_that_sees_the_sample_is_wrong():
  leaking = 0.5 * jnp.sin(jnp.arange(27.0))
  gradient = _reinforce_gradient(_on_tokens(REWARDS - leaking))
  assert _distance(gradient, EXACT) > 0.01


def _pair_gradient(advantage_fn):
  """Expected ascent direction over all 27 · 27 groups of two samples."""

  def of_group(first, second):
    group = jnp.stack([REWARDS[first], REWARDS[second]])[:, None]
    return advantage_fn(group)[:, 0]

  samples = jnp.arange(27)
  pairs = jax.vmap(lambda i: jax.vmap(lambda j: of_group(i, j))(samples))(
    samples
  )
  # Both members are exchangeable: twice the first, over the mean of two.
  others = jnp.sum(
    pairs[:, :, 0] * enumerable.probabilities(POLICY)[None, :], axis=1
  )
  return _reinforce_gradient(_on_tokens(others))


def test_leave_one_out_is_unbiased():
  gradient = _pair_gradient(lambda r: advantages.leave_one_out(r, group_size=2))
  _assert_close(gradient, EXACT)


@pytest.mark.parametrize(
  'baseline',
  [
    lambda r: advantages.group_centered(r, group_size=2),
    advantages.batch_baseline,
  ],
)
def test_a_mean_that_contains_the_sample_shrinks_the_gradient(baseline):
  # (g − 1)/g at g = 2.
  _assert_close(_pair_gradient(baseline), EXACT / 2)


def test_normalised_advantages_point_elsewhere():
  gradient = _pair_gradient(
    lambda r: advantages.group_normalized(r, group_size=2)
  )
  cosine = jnp.sum(gradient * EXACT) / (
    jnp.linalg.norm(gradient) * jnp.linalg.norm(EXACT)
  )
  assert 0.5 < cosine < 0.999


# Clipped surrogate ---------------------------------------------------------


def _surrogate_gradient(logprobs_fn, credit, *, at, drawn_from, clip=1e6):
  def loss(table):
    values = losses.clipped_surrogate(
      logprobs_fn(table),
      logprobs_fn(drawn_from),
      credit,
      clip_low=clip,
      clip_high=clip,
    )
    return -jnp.sum(values.reshape(27, -1), axis=1)

  return enumerable.expected_gradient(loss, at=at, drawn_from=drawn_from)


def test_a_ratio_of_sequences_corrects_for_another_sampler():
  gradient = _surrogate_gradient(
    enumerable.sequence_logprobs, REWARDS, at=POLICY, drawn_from=OTHER
  )
  _assert_close(gradient, EXACT)


def test_ratios_of_tokens_correct_for_another_sampler_only_in_part():
  gradient = _surrogate_gradient(
    enumerable.token_logprobs,
    _on_tokens(REWARDS),
    at=POLICY,
    drawn_from=OTHER,
  )
  assert _distance(gradient, EXACT) > 0.01


@pytest.mark.parametrize('clip', [0.2, 1e6])
def test_on_policy_the_surrogate_has_the_gradient_of_reinforce(clip):
  gradient = _surrogate_gradient(
    enumerable.token_logprobs,
    _on_tokens(REWARDS),
    at=POLICY,
    drawn_from=POLICY,
    clip=clip,
  )
  _assert_close(gradient, EXACT)


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
    return jnp.sum(surrogate + losses.reinforce(logprobs, credit))

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
      return (
        losses.reinforce(logprobs, credit),
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
