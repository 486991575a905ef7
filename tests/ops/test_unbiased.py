"""Estimators held to what they estimate, by sums over 27 sequences.

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
  prefix_tree,
  returns,
)
from tests.ops import enumerable
from tests.ops.exact import (
  LENGTH,
  OTHER,
  POLICY,
  REWARDS,
  assert_equal,
  credit_of_rewards,
  exact_gradient,
  expected_ascent,
  expected_reward,
  group_ascent,
  on_tokens,
  relative_error,
)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


# REINFORCE -----------------------------------------------------------------


@pytest.mark.parametrize('baseline', [0.0, 1.0, -5.0])
def test_reinforce_is_exact_with_any_constant_baseline(baseline):
  credit = on_tokens(REWARDS - baseline)
  actual = expected_ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )
  assert_equal(actual, exact_gradient())


def test_reinforce_is_exact_with_any_baseline_of_the_prefix():
  values = np.sin(np.arange(13.0))
  credit = on_tokens(REWARDS) - jnp.asarray(values[enumerable.PREFIXES])
  actual = expected_ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )
  assert_equal(actual, exact_gradient())


def test_a_baseline_that_sees_the_sample_is_wrong():
  credit = on_tokens(REWARDS - 0.5 * np.sin(np.arange(27.0)))
  actual = expected_ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )
  assert relative_error(actual, exact_gradient()) > 0.1


# Groups --------------------------------------------------------------------


@pytest.mark.parametrize('size', [2, 3])
def test_leave_one_out_is_exact(size):
  credit = credit_of_rewards(
    functools.partial(advantages.leave_one_out, group_size=size)
  )
  actual = group_ascent(credit, size=size)
  assert_equal(actual, exact_gradient())


@pytest.mark.parametrize('size', [2, 3])
def test_a_mean_that_contains_the_sample_shrinks_the_gradient(size):
  expected = exact_gradient() * (size - 1) / size
  centered = functools.partial(advantages.group_centered, group_size=size)
  for baseline in (centered, advantages.batch_baseline):
    actual = group_ascent(credit_of_rewards(baseline), size=size)
    assert_equal(actual, expected)


@pytest.mark.parametrize(('size', 'error'), [(2, 0.325), (3, 0.296)])
def test_standard_scores_point_elsewhere(size, error):
  # Even with the best length: a pair only says which of the two was better.
  credit = credit_of_rewards(
    functools.partial(advantages.group_normalized, group_size=size)
  )
  actual = group_ascent(credit, size=size)
  exact = exact_gradient()
  scale = jnp.sum(actual * exact) / jnp.sum(actual**2)
  assert relative_error(scale * actual, exact) == pytest.approx(
    error, abs=0.001
  )


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

  actual = group_ascent(credit, size=size)
  reached = np.zeros(13)
  chances = np.asarray(enumerable.probabilities(jnp.asarray(POLICY)))
  for position in range(LENGTH):
    np.add.at(reached, enumerable.PREFIXES[:, position], chances)
  alone = (1 - (1 - reached) ** size) / (size * reached)
  factor = (size - 1) / size + 1 - alone
  assert factor[0] == pytest.approx(2 * (size - 1) / size)
  assert_equal(actual, factor[:, None] * exact_gradient())


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
  return expected_ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )


@pytest.mark.parametrize('gae_lambda', [0.0, 0.5, 1.0])
def test_a_true_critic_is_exact_at_any_decay(gae_lambda):
  assert_equal(_critic_gradient(_true_values(), gae_lambda), exact_gradient())


@pytest.mark.parametrize(
  ('gae_lambda', 'error'), [(0.0, 1.126), (0.5, 0.725), (0.95, 0.097), (1.0, 0)]
)
def test_a_wrong_critic_is_exact_without_decay_only(gae_lambda, error):
  wrong = np.sin(np.arange(13.0))
  actual = relative_error(_critic_gradient(wrong, gae_lambda), exact_gradient())
  assert actual == pytest.approx(error, rel=0.01, abs=1e-9)


# Divergences ---------------------------------------------------------------

KL_WEIGHT = 0.3


def _regularised():
  def objective(table):
    kl = enumerable.sequence_kl(table, jnp.asarray(OTHER))
    return expected_reward(table) - KL_WEIGHT * kl

  return jax.grad(objective)(jnp.asarray(POLICY))


def _k1_of_tokens():
  return divergences.k1(
    enumerable.token_logprobs(jnp.asarray(POLICY)),
    enumerable.token_logprobs(jnp.asarray(OTHER)),
  )


def test_k1_in_the_reward_is_exact_without_a_baseline():
  whole = jnp.asarray(REWARDS) - KL_WEIGHT * jnp.sum(_k1_of_tokens(), axis=1)
  credit = on_tokens(whole)
  actual = expected_ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )
  assert_equal(actual, _regularised())


def test_k1_in_the_rewards_of_tokens_is_exact_when_summed_to_go():
  own = -KL_WEIGHT * _k1_of_tokens()
  rewards = own.at[:, -1].add(jnp.asarray(REWARDS))
  credit = jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
  actual = expected_ascent(
    lambda table: losses.reinforce(enumerable.token_logprobs(table), credit)
  )
  assert_equal(actual, _regularised())


def test_k1_in_the_reward_is_exact_with_the_others_as_baseline():
  whole = jnp.asarray(REWARDS) - KL_WEIGHT * jnp.sum(_k1_of_tokens(), axis=1)
  leave_one_out = functools.partial(advantages.leave_one_out, group_size=2)
  actual = group_ascent(credit_of_rewards(leave_one_out, whole), size=2)
  assert_equal(actual, _regularised())


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
  actual = -expected_ascent(
    lambda table: estimator(logprobs_fn(table), logprobs_fn(reference))
  )
  forward = jax.grad(enumerable.sequence_kl)(policy, reference)
  reverse = jax.grad(enumerable.sequence_kl, argnums=1)(reference, policy)
  assert relative_error(actual, forward) == pytest.approx(error, abs=0.001)
  assert relative_error(actual, reverse) == pytest.approx(
    reverse_error, abs=0.001
  )
