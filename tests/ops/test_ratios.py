from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from selfimprove.ops import losses, ratios

# Two attempts with an instruction between, and a gap after a short first one.
TURN = jnp.array([[-1, 0, 0, 0, -1, 1, 1], [-1, 0, -1, -1, -1, 1, 1]])
LOGPROBS, OLD_LOGPROBS = -jax.random.uniform(jax.random.key(0), (2, 2, 7))
CLIP = {'clip_low': 0.05, 'clip_high': 0.05}


# Sequences -----------------------------------------------------------------


def test_tokens_of_an_attempt_share_the_mean_of_its_log_ratios():
  actual = ratios.sequence_log_ratio(LOGPROBS, OLD_LOGPROBS, TURN, turns=2)
  ratio = LOGPROBS - OLD_LOGPROBS
  expected = np.zeros((2, 7))
  for row in range(2):
    for turn in range(2):
      own = np.asarray(TURN[row] == turn)
      expected[row, own] = np.mean(ratio[row, own])
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('advantage', [2.0, -2.0])
def test_the_mean_over_tokens_has_the_gradient_of_the_sequence(advantage):
  # The paper's equation 5 for one attempt: −min(sA, clip(s)A) of one s.
  turn = jnp.array([[0, 0, 0, -1], [0, 0, -1, -1], [0, -1, -1, -1]])
  own = turn >= 0
  tokens = jnp.sum(own, axis=1, dtype=float)
  keys = jax.random.split(jax.random.key(1), 2)
  old = jax.random.normal(keys[0], (3, 4))
  # Mean log-ratios of about −.3, 0 and .3: outside, inside, outside.
  shift = jnp.array([-0.3, 0.01, 0.3])[:, None]
  start = old + shift + 0.1 * jax.random.normal(keys[1], (3, 4))
  start = start.at[1].set(old[1] + 0.01)

  def of_tokens(logprobs):
    log_ratio = ratios.sequence_log_ratio(logprobs, old, turn, turns=1)
    credit = jnp.full((3, 4), advantage)
    values = losses.clipped(log_ratio, credit, **CLIP)
    return jnp.sum(jnp.where(own, values, 0) / tokens[:, None])

  def of_sequences(logprobs):
    ratio = jnp.where(own, logprobs - old, 0)
    mean = jnp.sum(ratio, axis=1) / tokens
    return jnp.sum(losses.clipped(mean, jnp.full(3, advantage), **CLIP))

  np.testing.assert_allclose(of_tokens(start), of_sequences(start), rtol=1e-5)
  expected = jax.grad(of_sequences)(start)
  # One of the outer attempts is kept and one dropped, the inner is kept.
  kept = np.any(np.asarray(expected) != 0, axis=1)
  assert kept.tolist() == ([True, True, False][:: 1 if advantage > 0 else -1])
  np.testing.assert_allclose(jax.grad(of_tokens)(start), expected, rtol=1e-5)


def test_an_answer_of_one_token_has_the_ratio_of_its_token():
  turn = jnp.array([[-1, 0, -1, 1]])
  logprobs, old = jax.random.normal(jax.random.key(2), (2, 1, 4))
  credit = jnp.array([[0.0, 2.0, 0.0, -1.0]])

  def of_sequences(logprobs):
    log_ratio = ratios.sequence_log_ratio(logprobs, old, turn, turns=2)
    return jnp.sum(losses.clipped(log_ratio, credit, **CLIP))

  def of_tokens(logprobs):
    return jnp.sum(losses.clipped_surrogate(logprobs, old, credit, **CLIP))

  for actual, expected in zip(
    jax.value_and_grad(of_sequences)(logprobs),
    jax.value_and_grad(of_tokens)(logprobs),
  ):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_tokens_that_no_attempt_wrote_are_ignored_whatever_they_are():
  spoilt = jnp.where(TURN < 0, -jnp.inf, LOGPROBS)

  def total(logprobs, old_logprobs):
    log_ratio = ratios.sequence_log_ratio(logprobs, old_logprobs, TURN, turns=2)
    return jnp.sum(jnp.exp(log_ratio))

  expected = jax.value_and_grad(total, (0, 1))(LOGPROBS, OLD_LOGPROBS)
  actual = jax.value_and_grad(total, (0, 1))(spoilt, OLD_LOGPROBS)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  gradient, of_old = actual[1]
  np.testing.assert_array_equal(gradient != 0, TURN >= 0)
  np.testing.assert_array_equal(of_old, jnp.zeros((2, 7)))


# Shaping -------------------------------------------------------------------


def test_shaped_ratios_weigh_gradients_by_at_most_a_quarter():
  ratio = jnp.array([1e-3, 0.1, 0.5, 2.0, 100.0])
  half = 0.5
  value, weight = jax.vmap(
    jax.value_and_grad(lambda x: ratios.shaped_ratio(x, half))
  )(jnp.log(ratio))
  np.testing.assert_allclose(value, ratio / (ratio + half), rtol=1e-5)
  expected = half * ratio / (ratio + half) ** 2
  np.testing.assert_allclose(weight, expected, rtol=1e-4)
  assert int(jnp.argmax(weight)) == 2
  np.testing.assert_allclose(weight[2], 0.25, rtol=1e-6)


def test_shaping_survives_ratios_that_overflow():
  log_ratio = jnp.array([-200.0, 200.0])
  value, gradient = jax.vmap(
    jax.value_and_grad(lambda x: ratios.shaped_ratio(x, 1e-4))
  )(log_ratio)
  np.testing.assert_array_equal(value, [0, 1])
  np.testing.assert_array_equal(gradient, [0, 0])


def test_no_gradient_reaches_the_place_of_the_half():
  gradient = jax.grad(ratios.shaped_ratio, argnums=1)(
    jnp.float32(0.3), jnp.float32(0.5)
  )
  assert gradient == 0


def test_the_gradient_of_shaping_agrees_with_finite_differences():
  with jax.enable_x64(True):
    log_ratio = jnp.array([-3.0, -0.5, 0.0, 2.0])
    shaped = jax.jit(lambda x: ratios.shaped_ratio(x, 0.3))
    check_grads(shaped, (log_ratio,), 1, ['rev'])


# Quantiles -----------------------------------------------------------------


@pytest.mark.parametrize('level', [0.0, 0.3, 0.5, 0.9, 1.0])
def test_quantiles_are_those_of_the_chosen_values(level):
  values = jax.random.normal(jax.random.key(3), (5, 9))
  mask = jax.random.bernoulli(jax.random.key(4), 0.6, (5, 9))
  actual = ratios.masked_quantile(jnp.where(mask, values, jnp.nan), mask, level)
  expected = np.quantile(np.asarray(values)[np.asarray(mask)], level)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_known_quantile():
  # Place .9 · 3 = 2.7 among 1, 2, 3, 10: 3 + .7 · 7.
  values = jnp.array([10.0, 3, 1, 2])
  actual = ratios.masked_quantile(values, values > 0, 0.9)
  np.testing.assert_allclose(actual, 7.9, rtol=1e-6)


def test_a_quantile_of_nothing_is_zero_and_of_one_is_that_one():
  values = jnp.array([4.0, 7.0])
  assert ratios.masked_quantile(values, values > 9, 0.9) == 0
  assert ratios.masked_quantile(values, values > 5, 0.9) == 7


def test_no_gradient_reaches_the_values_of_a_quantile():
  values = jnp.array([4.0, 7.0, 1.0])
  gradient = jax.grad(ratios.masked_quantile)(values, values > 0, 0.7)
  np.testing.assert_array_equal(gradient, jnp.zeros(3))
