from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.ops import returns

# Two attempts with an instruction between them; rows of unequal length.
MASK = jnp.array(
  [
    [False, True, True, True, False, True, True],
    [False, True, False, False, False, True, False],
    [False, False, False, False, False, False, False],
  ]
)
REWARDS, VALUES = jax.random.normal(jax.random.key(0), (2, 3, 7))


def _gae(discount=0.9, gae_lambda=0.7, *, rewards=REWARDS, values=VALUES):
  return returns.gae(
    rewards, values, MASK, discount=discount, gae_lambda=gae_lambda
  )


def _by_row(fn, *, rewards=REWARDS, values=VALUES):
  """What `fn` gives for the tokens of each row alone, put back in place."""
  placed = np.zeros(MASK.shape)
  for row in range(len(MASK)):
    own = np.asarray(MASK[row])
    placed[row, own] = fn(
      np.asarray(rewards[row])[own], np.asarray(values[row])[own]
    )
  return placed


@pytest.mark.parametrize('discount', [0.0, 0.9, 1.0])
@pytest.mark.parametrize('gae_lambda', [0.0, 0.7, 1.0])
def test_advantages_are_decaying_sums_of_temporal_differences(
  discount, gae_lambda
):
  def naive(rewards, values):
    after = np.append(values[1:], 0)
    errors = rewards + discount * after - values
    decay = discount * gae_lambda
    return [
      sum(decay ** (u - t) * errors[u] for u in range(t, len(errors)))
      for t in range(len(errors))
    ]

  actual = _gae(discount, gae_lambda)
  np.testing.assert_allclose(actual, _by_row(naive), rtol=1e-4, atol=1e-6)


def test_without_decay_they_are_returns_over_values():
  def naive(rewards, values):
    return [
      sum(0.9 ** (u - t) * rewards[u] for u in range(t, len(rewards)))
      - values[t]
      for t in range(len(rewards))
    ]

  np.testing.assert_allclose(
    _gae(0.9, 1.0), _by_row(naive), rtol=1e-4, atol=1e-6
  )


def test_with_full_decay_they_are_single_differences():
  def naive(rewards, values):
    return rewards + 0.9 * np.append(values[1:], 0) - values

  np.testing.assert_allclose(
    _gae(0.9, 0.0), _by_row(naive), rtol=1e-4, atol=1e-6
  )


def test_known_advantages_across_an_instruction():
  # δ = (0 + ½·2 − 1, 3 + 0 − 2) = (0, 1); A = (0 + ½·½·1, 1).
  rewards = jnp.array([[0.0, 9.0, 3.0]])
  values = jnp.array([[1.0, 9.0, 2.0]])
  actual = returns.gae(
    rewards,
    values,
    jnp.array([[True, False, True]]),
    discount=0.5,
    gae_lambda=0.5,
  )
  np.testing.assert_allclose(actual, [[0.25, 0, 1]], rtol=1e-6)


def test_what_nobody_wrote_is_ignored_whatever_it_is():
  spoilt = {
    'rewards': jnp.where(MASK, REWARDS, jnp.nan),
    'values': jnp.where(MASK, VALUES, jnp.inf),
  }
  np.testing.assert_array_equal(_gae(**spoilt), _gae())
  np.testing.assert_array_equal(jnp.where(MASK, 0, _gae()), jnp.zeros((3, 7)))


def test_a_late_reward_reaches_the_first_attempt_through_both_factors():
  # Four tokens of the row lie before its last: (γλ)⁴.
  paid = REWARDS.at[0, 6].add(1.0)
  gained = (_gae(rewards=paid) - _gae())[0, jnp.array([1, 2, 3, 5, 6])]
  decay = 0.9 * 0.7
  expected = [decay**4, decay**3, decay**2, decay, 1]
  np.testing.assert_allclose(gained, expected, rtol=1e-4)


def test_true_values_leave_no_advantage():
  # Values that predict the discounted returns of a certain future.
  worth = _gae(0.9, 1.0, values=jnp.zeros((3, 7)))
  np.testing.assert_allclose(
    _gae(0.9, 0.7, values=worth), jnp.zeros((3, 7)), atol=1e-6
  )


def test_long_rows_compile_to_a_loop():
  shape = jax.ShapeDtypeStruct((8, 4096), jnp.float32)
  mask = jax.ShapeDtypeStruct((8, 4096), jnp.bool_)
  compiled = (
    jax.jit(lambda r, v, m: returns.gae(r, v, m, discount=1.0, gae_lambda=0.95))
    .lower(shape, shape, mask)
    .compile()
  )
  memory = compiled.memory_analysis()
  assert memory.temp_size_in_bytes < 8 * 8 * 4096 * 4


# Whitening -----------------------------------------------------------------


def test_whitened_advantages_are_standard_scores_of_the_batch():
  spoilt = jnp.where(MASK, 5 + 3 * REWARDS, jnp.nan)
  actual = returns.whiten(spoilt, MASK)
  chosen = np.asarray(5 + 3 * REWARDS)[np.asarray(MASK)]
  expected = np.zeros(MASK.shape)
  expected[np.asarray(MASK)] = (chosen - chosen.mean()) / chosen.std()
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('value', [0.0, 0.1, -3.3])
def test_equal_advantages_are_whitened_to_exact_zeros(value):
  actual = returns.whiten(jnp.full((3, 7), value), MASK)
  np.testing.assert_array_equal(actual, jnp.zeros((3, 7)))


def test_a_batch_without_tokens_is_whitened_to_zeros():
  actual = returns.whiten(REWARDS, jnp.zeros_like(MASK))
  np.testing.assert_array_equal(actual, jnp.zeros((3, 7)))
