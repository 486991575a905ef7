"""Estimators held to what they estimate, by sums over all 27 sequences.

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
  divergences,
  losses,
  negative_aware,
  prefix_tree,
  ratios,
  returns,
)
from tests.ops import enumerable

POLICY = np.asarray(enumerable.table(0), np.float64)
OTHER = np.asarray(enumerable.table(1), np.float64)
REWARDS = np.asarray(enumerable.rewards(0), np.float64)
LENGTH = enumerable.LENGTH
UNBOUNDED = {'clip_low': 1e9, 'clip_high': 1e9}


def _hinted():
  """The policy behind a hint: logits of the best sequence raised by 2."""
  best = np.argmax(REWARDS)
  table = POLICY.copy()
  table[enumerable.PREFIXES[best], enumerable.SEQUENCES[best]] += 2
  return table


HINTED = _hinted()


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def _value(table, rewards=REWARDS):
  return jnp.sum(enumerable.probabilities(table) * rewards)


def _exact(rewards=REWARDS):
  """The gradient that the estimators are after."""
  return jax.grad(_value)(jnp.asarray(POLICY), jnp.asarray(rewards))


def _on_tokens(values):
  return jnp.repeat(jnp.asarray(values)[:, None], LENGTH, axis=1)


def _stale(distance):
  """A policy on the line from the current one to an unrelated one."""
  return POLICY + distance * (OTHER - POLICY)


def _ascent(loss, *, drawn_from=POLICY):
  """Expected step of one sample, `loss` giving [27] or [27, 3] losses."""

  def total(table):
    return -jnp.sum(loss(table).reshape(27, -1), axis=1)

  return enumerable.expected_gradient(
    total, jnp.asarray(POLICY), jnp.asarray(drawn_from)
  )


def _reinforce(logprobs, credit, groups):
  del groups
  return losses.reinforce(logprobs, credit)


def _group_ascent(credit_fn, *, size, drawn_from=POLICY, loss=_reinforce):
  """Expected step of a group; see `enumerable.expected_group_gradient`."""
  return -enumerable.expected_group_gradient(
    credit_fn,
    loss,
    size=size,
    at=jnp.asarray(POLICY),
    drawn_from=jnp.asarray(drawn_from),
  )


def _of_rewards(advantage_fn, rewards=REWARDS):
  """Credit of a group from the rewards of its members alone."""

  def credit(group):
    ours = jnp.asarray(rewards)[group][:, None]
    return jnp.repeat(advantage_fn(ours), LENGTH, axis=1)

  return credit


def _assert_equal(actual, expected):
  assert np.max(np.abs(expected)) > 0.01
  np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def _error(actual, expected):
  return float(jnp.linalg.norm(actual - expected) / jnp.linalg.norm(expected))


# REINFORCE -----------------------------------------------------------------


@pytest.mark.parametrize('baseline', [0.0, 1.0, -5.0])
def test_reinforce_is_exact_with_any_constant_baseline(baseline):
  credit = _on_tokens(REWARDS - baseline)
  actual = _ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )
  _assert_equal(actual, _exact())


def test_reinforce_is_exact_with_any_baseline_of_the_prefix():
  values = np.sin(np.arange(13.0))
  credit = _on_tokens(REWARDS) - jnp.asarray(values[enumerable.PREFIXES])
  actual = _ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )
  _assert_equal(actual, _exact())


def test_a_baseline_that_sees_the_sample_is_wrong():
  credit = _on_tokens(REWARDS - 0.5 * np.sin(np.arange(27.0)))
  actual = _ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )
  assert _error(actual, _exact()) > 0.1


# Groups --------------------------------------------------------------------


@pytest.mark.parametrize('size', [2, 3])
def test_leave_one_out_is_exact(size):
  credit = _of_rewards(
    functools.partial(advantages.leave_one_out, group_size=size)
  )
  actual = _group_ascent(credit, size=size)
  _assert_equal(actual, _exact())


@pytest.mark.parametrize('size', [2, 3])
def test_a_mean_that_contains_the_sample_shrinks_the_gradient(size):
  expected = _exact() * (size - 1) / size
  centered = functools.partial(advantages.group_centered, group_size=size)
  for baseline in (centered, advantages.batch_baseline):
    actual = _group_ascent(_of_rewards(baseline), size=size)
    _assert_equal(actual, expected)


@pytest.mark.parametrize(('size', 'error'), [(2, 0.325), (3, 0.296)])
def test_standard_scores_point_elsewhere(size, error):
  # Even with the best length: a pair only says which of the two was better.
  credit = _of_rewards(
    functools.partial(advantages.group_normalized, group_size=size)
  )
  actual = _group_ascent(credit, size=size)
  exact = _exact()
  scale = jnp.sum(actual * exact) / jnp.sum(actual**2)
  assert _error(scale * actual, exact) == pytest.approx(error, abs=0.001)


@pytest.mark.parametrize('size', [2, 3])
def test_tree_credit_is_exact_up_to_one_factor_per_prefix(size):
  # The group's mean as baseline gives (g − 1)/g. At a node of probability P,
  # its own mean gives 1 − E[1/n], n = 1 + Binomial(g − 1, P): one factor for
  # all logits of the prefix, from (g − 1)/g in the leaves to twice that at the
  # root.
  def credit(group):
    tokens = jnp.asarray(enumerable.SEQUENCES)[group]
    ours = jnp.asarray(REWARDS)[group]
    return prefix_tree.tree_centered(
      tokens, jnp.ones(tokens.shape, bool), ours, group_size=size
    )

  actual = _group_ascent(credit, size=size)
  reached = np.zeros(13)
  chances = np.asarray(enumerable.probabilities(jnp.asarray(POLICY)))
  for position in range(LENGTH):
    np.add.at(reached, enumerable.PREFIXES[:, position], chances)
  alone = (1 - (1 - reached) ** size) / (size * reached)
  factor = (size - 1) / size + 1 - alone
  assert factor[0] == pytest.approx(2 * (size - 1) / size)
  _assert_equal(actual, factor[:, None] * _exact())


# Critics -------------------------------------------------------------------


def _true_values():
  """Value of each prefix: the mean reward of the sequences through it."""
  chances = np.asarray(enumerable.probabilities(jnp.asarray(POLICY)))
  total, reached = np.zeros(13), np.zeros(13)
  for position in range(LENGTH):
    np.add.at(total, enumerable.PREFIXES[:, position], chances * REWARDS)
    np.add.at(reached, enumerable.PREFIXES[:, position], chances)
  return total / reached


def _critic_gradient(values, gae_lambda):
  rewards = np.zeros((27, LENGTH))
  rewards[:, -1] = REWARDS
  credit = returns.gae(
    jnp.asarray(rewards),
    jnp.asarray(values[enumerable.PREFIXES]),
    jnp.ones((27, LENGTH), bool),
    discount=1.0,
    gae_lambda=gae_lambda,
  )
  return _ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )


@pytest.mark.parametrize('gae_lambda', [0.0, 0.5, 1.0])
def test_a_true_critic_is_exact_at_any_decay(gae_lambda):
  _assert_equal(_critic_gradient(_true_values(), gae_lambda), _exact())


@pytest.mark.parametrize(
  ('gae_lambda', 'error'), [(0.0, 1.126), (0.5, 0.725), (0.95, 0.097), (1.0, 0)]
)
def test_a_wrong_critic_is_exact_without_decay_only(gae_lambda, error):
  wrong = np.sin(np.arange(13.0))
  actual = _error(_critic_gradient(wrong, gae_lambda), _exact())
  assert actual == pytest.approx(error, rel=0.01, abs=1e-9)


# Stale samples -------------------------------------------------------------


def _corrected(old, *, correction):
  """Expected step from samples of `old`, without a baseline."""
  old = jnp.asarray(old)
  tokens, whole = (
    enumerable.token_logprobs(old),
    enumerable.sequence_logprobs(old),
  )
  rewards, credit = jnp.asarray(REWARDS), _on_tokens(REWARDS)

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

  return _ascent(loss, drawn_from=old)


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
  _assert_equal(_corrected(POLICY, correction=correction), _exact())


@pytest.mark.parametrize('distance', [0.1, 0.5, 1.0])
def test_a_ratio_of_whole_sequences_is_exact_however_stale(distance):
  actual = _corrected(_stale(distance), correction='sequence')
  _assert_equal(actual, _exact())


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
    actual = _corrected(_stale(distance), correction=correction)
    assert _error(actual, _exact()) == pytest.approx(error, abs=0.001)


def test_the_bias_of_token_ratios_is_of_first_order_in_staleness():
  # They correct the choice but neither the way there nor what came after.
  errors = [
    _error(_corrected(_stale(distance), correction='token'), _exact())
    for distance in (0.02, 0.01)
  ]
  assert errors[0] / errors[1] == pytest.approx(2, abs=0.02)


def test_unclipped_cispo_has_the_gradient_of_token_ratios():
  stale = _stale(0.7)
  _assert_equal(
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
  np.testing.assert_allclose(actual, _value(POLICY), rtol=1e-12)
  # The hint helps: without ratios the mean is another one.
  assert jnp.sum(chances * REWARDS) - actual > 0.3


def test_ratios_of_tokens_have_mean_one_but_do_not_turn_means():
  chances = enumerable.probabilities(jnp.asarray(HINTED))
  ratio = jnp.exp(_log_ratios())
  means = jnp.sum(chances[:, None] * ratio, axis=0)
  np.testing.assert_allclose(means, jnp.ones(LENGTH), rtol=1e-12)
  token_mean = jnp.sum(chances * jnp.mean(ratio, axis=1) * REWARDS)
  assert abs(token_mean - _value(POLICY)) > 0.1


def _guided(ratio_fn):
  """Expected step of hinted pairs, each compared with the other."""
  hinted = enumerable.token_logprobs(jnp.asarray(HINTED))

  def loss(logprobs, credit, groups):
    return losses.importance_weighted(
      ratio_fn(logprobs - hinted[groups]), credit
    )

  credit = _of_rewards(
    functools.partial(advantages.leave_one_out, group_size=2)
  )
  return _group_ascent(credit, size=2, drawn_from=HINTED, loss=loss)


def test_hinted_groups_give_the_hint_free_gradient_with_products_of_ratios():
  # The baseline is of hinted samples too, and still none of the sample's own.
  def product(log_ratio):
    whole = jnp.exp(jnp.sum(log_ratio, axis=2, keepdims=True))
    # Each token gets a third, so that their sum is the loss of the sequence.
    return jnp.broadcast_to(whole, log_ratio.shape) / LENGTH

  _assert_equal(_guided(product), _exact())


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
  actual, exact = _guided(ratio_fn), _exact()
  assert _error(actual, exact) == pytest.approx(error, abs=0.002)
  norms = jnp.linalg.norm(actual) * jnp.linalg.norm(exact)
  assert jnp.sum(actual * exact) / norms == pytest.approx(cosine, abs=0.002)


# Divergences ---------------------------------------------------------------

KL_WEIGHT = 0.3


def _regularised():
  def objective(table):
    kl = enumerable.sequence_kl(table, jnp.asarray(OTHER))
    return _value(table) - KL_WEIGHT * kl

  return jax.grad(objective)(jnp.asarray(POLICY))


def _k1_of_tokens():
  return divergences.k1(
    enumerable.token_logprobs(jnp.asarray(POLICY)),
    enumerable.token_logprobs(jnp.asarray(OTHER)),
  )


def test_k1_in_the_reward_is_exact_without_a_baseline():
  whole = jnp.asarray(REWARDS) - KL_WEIGHT * jnp.sum(_k1_of_tokens(), axis=1)
  credit = _on_tokens(whole)
  actual = _ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )
  _assert_equal(actual, _regularised())


def test_k1_in_the_rewards_of_tokens_is_exact_when_summed_to_go():
  own = -KL_WEIGHT * _k1_of_tokens()
  rewards = own.at[:, -1].add(jnp.asarray(REWARDS))
  credit = jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
  actual = _ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )
  _assert_equal(actual, _regularised())


def test_k1_in_the_reward_is_exact_with_the_others_as_baseline():
  whole = jnp.asarray(REWARDS) - KL_WEIGHT * jnp.sum(_k1_of_tokens(), axis=1)
  leave_one_out = functools.partial(advantages.leave_one_out, group_size=2)
  actual = _group_ascent(_of_rewards(leave_one_out, whole), size=2)
  _assert_equal(actual, _regularised())


@pytest.mark.parametrize(
  ('name', 'level', 'error', 'reverse_error'),
  [
    # No gradient at all: an error of 1.
    ('k1', 'tokens', 1, 1),
    ('k1', 'sequences', 1, 1),
    ('k2', 'tokens', 0.565, 0.782),
    ('k2', 'sequences', 0, 1.004),
    ('k3', 'tokens', 0.842, 0.622),
    ('k3', 'sequences', 1.008, 0),
  ],
)
def test_estimators_as_losses_have_the_gradients_that_are_written_down(
  name, level, error, reverse_error
):
  # Relative errors against ∇KL(π ‖ π_ref) and against ∇KL(π_ref ‖ π).
  policy, reference = jnp.asarray(POLICY), jnp.asarray(OTHER)
  logprobs_fn = {
    'tokens': enumerable.token_logprobs,
    'sequences': enumerable.sequence_logprobs,
  }[level]
  estimator = getattr(divergences, name)
  actual = -_ascent(
    lambda table: estimator(logprobs_fn(table), logprobs_fn(reference))
  )
  forward = jax.grad(enumerable.sequence_kl)(policy, reference)
  reverse = jax.grad(enumerable.sequence_kl, argnums=1)(reference, policy)
  assert _error(actual, forward) == pytest.approx(error, abs=0.001)
  assert _error(actual, reverse) == pytest.approx(reverse_error, abs=0.001)


# Negative-aware ------------------------------------------------------------

RIGHT = (REWARDS > 0.5).astype(np.float64)


def _negative_aware(old, **options):
  old = jnp.asarray(old)
  old_tokens = enumerable.token_logprobs(old)
  rate = jnp.full((27, LENGTH), _value(old, RIGHT))

  def loss(table):
    log_ratio = enumerable.token_logprobs(table) - old_tokens
    values = negative_aware.negative_aware(
      log_ratio, _on_tokens(RIGHT), rate, **options
    )
    return negative_aware.failure_weight(rate) * values

  return _ascent(loss, drawn_from=old)


def test_negative_aware_is_exact_on_policy_given_the_true_success_rate():
  _assert_equal(_negative_aware(POLICY), _exact(RIGHT))


def test_positives_alone_are_exact_on_policy_up_to_the_prompts_weight():
  rate = _value(POLICY, RIGHT)
  actual = _negative_aware(POLICY, neg_weight=0.0)
  _assert_equal(actual, (1 - rate) * _exact(RIGHT))


def test_negative_aware_is_biased_with_stale_samples():
  # It asks for π_old given success, wherever π is by now: of another length,
  # but at a tenth of the way to another policy of nearly the same direction.
  actual, exact = _negative_aware(_stale(0.1)), _exact(RIGHT)
  assert _error(actual, exact) == pytest.approx(0.201, abs=0.001)
  norms = jnp.linalg.norm(actual) * jnp.linalg.norm(exact)
  assert jnp.sum(actual * exact) / norms == pytest.approx(0.9967, abs=0.0005)
