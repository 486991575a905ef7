"""Others' samples held to what they estimate, by sums over 27 sequences.

In float64, so that "unbiased" means ten digits. Where an estimator is biased,
the relative error of its expected gradient on these tables is written down.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.ops import (
  advantages,
  losses,
  negative_aware,
  ratios,
)
from tests.ops import enumerable
from tests.ops.exact import (
  HINTED,
  LENGTH,
  POLICY,
  REWARDS,
  UNBOUNDED,
  assert_equal,
  credit_of_rewards,
  exact_gradient,
  expected_ascent,
  expected_reward,
  group_ascent,
  on_tokens,
  relative_error,
  stale_policy,
)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


# Stale samples -------------------------------------------------------------


def _corrected(old, *, correction):
  """Expected step from samples of `old`, without a baseline."""
  old = jnp.asarray(old)
  tokens, whole = (
    enumerable.token_logprobs(old),
    enumerable.sequence_logprobs(old),
  )
  rewards, credit = jnp.asarray(REWARDS), on_tokens(REWARDS)

  def loss(table):
    ours = enumerable.token_logprobs(table)
    if correction == 'sequence':
      product = enumerable.sequence_logprobs(table) - whole
      return losses.clipped(product, rewards, **UNBOUNDED)
    if correction == 'geometric mean':
      turn = jnp.zeros(ours.shape, jnp.int32)
      mean = ratios.sequence_log_ratio(ours, tokens, turn, turns=1)
      return losses.clipped(mean, credit, **UNBOUNDED)
    return {
      'token': lambda: losses.clipped_surrogate(
        ours, tokens, credit, **UNBOUNDED
      ),
      'clipped': lambda: losses.clipped_surrogate(
        ours, tokens, credit, clip_low=0.2, clip_high=0.2
      ),
      'cispo': lambda: losses.cispo(ours, tokens, credit, **UNBOUNDED),
      'clipped cispo': lambda: losses.cispo(
        ours, tokens, credit, clip_low=0.2, clip_high=0.2
      ),
      # At γ = 1 the shaped weight is a quarter of the gradient's on-policy.
      'shaped': lambda: losses.importance_weighted(
        4 * ratios.shaped_ratio(ours - tokens, 1.0), credit
      ),
      'none': lambda: losses.reinforce(ours, credit),
    }[correction]()

  return expected_ascent(loss, drawn_from=old)


CORRECTIONS = (
  'sequence',
  'token',
  'clipped',
  'cispo',
  'clipped cispo',
  'shaped',
  'geometric mean',
  'none',
)


@pytest.mark.parametrize('correction', CORRECTIONS)
def test_on_policy_every_correction_is_exact(correction):
  assert_equal(_corrected(POLICY, correction=correction), exact_gradient())


@pytest.mark.parametrize('distance', [0.1, 0.5, 1.0])
def test_a_ratio_of_whole_sequences_is_exact_however_stale(distance):
  actual = _corrected(stale_policy(distance), correction='sequence')
  assert_equal(actual, exact_gradient())


@pytest.mark.parametrize(
  ('correction', 'near', 'far'),
  [
    ('none', 0.088, 0.442),
    ('token', 0.052, 0.253),
    ('cispo', 0.052, 0.253),
    ('clipped', 0.052, 0.377),
    ('clipped cispo', 0.050, 0.305),
    ('geometric mean', 0.057, 0.257),
    ('shaped', 0.084, 0.359),
  ],
)
def test_other_corrections_of_stale_samples_are_biased(correction, near, far):
  # Relative errors at a tenth and at half of the way to another policy.
  for distance, error in ((0.1, near), (0.5, far)):
    actual = _corrected(stale_policy(distance), correction=correction)
    assert relative_error(actual, exact_gradient()) == pytest.approx(
      error, abs=0.001
    )


def test_the_bias_of_token_ratios_is_of_first_order_in_staleness():
  # They correct the choice but neither the way there nor what came after.
  errors = [
    relative_error(
      _corrected(stale_policy(distance), correction='token'), exact_gradient()
    )
    for distance in (0.02, 0.01)
  ]
  assert errors[0] / errors[1] == pytest.approx(2, abs=0.02)


def test_unclipped_cispo_has_the_gradient_of_token_ratios():
  stale = stale_policy(0.7)
  assert_equal(
    _corrected(stale, correction='cispo'),
    _corrected(stale, correction='token'),
  )


# Another context -----------------------------------------------------------


def _log_ratios():
  policy, hinted = jnp.asarray(POLICY), jnp.asarray(HINTED)
  return enumerable.token_logprobs(policy) - enumerable.token_logprobs(hinted)


def test_products_of_ratios_turn_hinted_means_into_hint_free_means():
  chances = enumerable.probabilities(jnp.asarray(HINTED))
  product = jnp.exp(jnp.sum(_log_ratios(), axis=1))
  np.testing.assert_allclose(jnp.sum(chances * product), 1, rtol=1e-12)
  actual = jnp.sum(chances * product * REWARDS)
  np.testing.assert_allclose(actual, expected_reward(POLICY), rtol=1e-12)
  # The hint helps: without ratios the mean is another one.
  assert jnp.sum(chances * REWARDS) - actual > 0.3


def test_ratios_of_tokens_have_mean_one_but_do_not_turn_means():
  chances = enumerable.probabilities(jnp.asarray(HINTED))
  ratio = jnp.exp(_log_ratios())
  means = jnp.sum(chances[:, None] * ratio, axis=0)
  np.testing.assert_allclose(means, jnp.ones(LENGTH), rtol=1e-12)
  token_mean = jnp.sum(chances * jnp.mean(ratio, axis=1) * REWARDS)
  assert abs(token_mean - expected_reward(POLICY)) > 0.1


def _guided(ratio_fn):
  """Expected step of hinted pairs, each compared with the other."""
  hinted = enumerable.token_logprobs(jnp.asarray(HINTED))

  def loss(logprobs, credit, groups):
    return losses.importance_weighted(
      ratio_fn(logprobs - hinted[groups]), credit
    )

  credit = credit_of_rewards(
    functools.partial(advantages.leave_one_out, group_size=2)
  )
  return group_ascent(credit, size=2, drawn_from=HINTED, loss=loss)


def test_hinted_groups_give_the_hint_free_gradient_with_products_of_ratios():
  # The baseline is of hinted samples too, and still none of the sample's own.
  def product(log_ratio):
    whole = jnp.exp(jnp.sum(log_ratio, axis=2, keepdims=True))
    # Each token gets a third, so that their sum is the loss of the sequence.
    return jnp.broadcast_to(whole, log_ratio.shape) / LENGTH

  assert_equal(_guided(product), exact_gradient())


@pytest.mark.parametrize(
  ('ratio_fn', 'error', 'cosine'),
  [
    (jnp.exp, 1.739, 0.432),
    (lambda x: 4 * ratios.shaped_ratio(x, 1.0), 1.312, 0.503),
    # As if the hinted samples were the policy's own.
    (lambda x: x, 1.625, 0.473),
  ],
  ids=['token', 'shaped', 'none'],
)
def test_other_ratios_of_hinted_groups_are_biased(ratio_fn, error, cosine):
  actual, exact = _guided(ratio_fn), exact_gradient()
  assert relative_error(actual, exact) == pytest.approx(error, abs=0.002)
  norms = jnp.linalg.norm(actual) * jnp.linalg.norm(exact)
  assert jnp.sum(actual * exact) / norms == pytest.approx(cosine, abs=0.002)


# Negative-aware ------------------------------------------------------------

RIGHT = (REWARDS > 0.5).astype(np.float64)


def _negative_aware(old, **options):
  old = jnp.asarray(old)
  old_tokens = enumerable.token_logprobs(old)
  rate = jnp.full((27, LENGTH), expected_reward(old, RIGHT))

  def loss(table):
    log_ratio = enumerable.token_logprobs(table) - old_tokens
    values = negative_aware.negative_aware(
      log_ratio, on_tokens(RIGHT), rate, **options
    )
    return negative_aware.failure_weight(rate) * values

  return expected_ascent(loss, drawn_from=old)


def test_negative_aware_is_exact_on_policy_given_the_true_success_rate():
  assert_equal(_negative_aware(POLICY), exact_gradient(RIGHT))


def test_positives_alone_are_exact_on_policy_up_to_the_prompts_weight():
  rate = expected_reward(POLICY, RIGHT)
  actual = _negative_aware(POLICY, neg_weight=0.0)
  assert_equal(actual, (1 - rate) * exact_gradient(RIGHT))


def test_negative_aware_is_biased_with_stale_samples():
  # It asks for π_old given success, wherever π is by now: of another length,
  # but at a tenth of the way to another policy of nearly the same direction.
  actual, exact = _negative_aware(stale_policy(0.1)), exact_gradient(RIGHT)
  assert relative_error(actual, exact) == pytest.approx(0.201, abs=0.001)
  norms = jnp.linalg.norm(actual) * jnp.linalg.norm(exact)
  assert jnp.sum(actual * exact) / norms == pytest.approx(0.9967, abs=0.0005)
