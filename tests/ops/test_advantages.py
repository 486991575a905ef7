from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.ops import advantages

# Three groups of four, two turns.
REWARDS = jax.random.normal(jax.random.key(0), (12, 2))
BINARY = jax.random.bernoulli(jax.random.key(1), 0.5, (12, 2)).astype(float)
GROUPED = {
  'group_centered': advantages.group_centered,
  'group_normalized': advantages.group_normalized,
  'leave_one_out': advantages.leave_one_out,
}
every_grouped = pytest.mark.parametrize('name', GROUPED)


def test_without_a_baseline_the_reward_is_the_advantage():
  np.testing.assert_array_equal(advantages.none(REWARDS), REWARDS)


def test_the_batch_baseline_is_the_mean_of_the_turn():
  actual = advantages.batch_baseline(REWARDS)
  expected = REWARDS - jnp.mean(REWARDS, axis=0, keepdims=True)
  np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_leave_one_out_compares_with_the_mean_of_the_others():
  actual = advantages.leave_one_out(REWARDS, group_size=4)
  for row in range(12):
    first = row - row % 4
    others = [other for other in range(first, first + 4) if other != row]
    expected = REWARDS[row] - jnp.mean(REWARDS[jnp.array(others)], axis=0)
    np.testing.assert_allclose(actual[row], expected, atol=1e-6)


def test_known_values_of_one_group():
  rewards = jnp.array([[1.0], [0], [0], [1]])
  # Mean ½; sample deviation √(4·¼/3), that of the population ½; the others of
  # a right answer have mean ⅓, those of a wrong one ⅔.
  expected = {
    'group_centered': 1 / 2,
    'group_normalized': math.sqrt(3) / 2,
    'leave_one_out': 2 / 3,
  }
  for name, value in expected.items():
    actual = GROUPED[name](rewards, group_size=4)
    signed = [[value], [-value], [-value], [value]]
    np.testing.assert_allclose(actual, signed, rtol=1e-5, err_msg=name)


@every_grouped
def test_advantages_of_a_group_sum_to_zero(name):
  actual = GROUPED[name](REWARDS, group_size=4)
  sums = jnp.sum(actual.reshape(3, 4, 2), axis=1)
  np.testing.assert_allclose(sums, jnp.zeros((3, 2)), atol=1e-5)


@every_grouped
@pytest.mark.parametrize('group_size', [3, 7])
def test_tied_rewards_give_exactly_zero(name, group_size):
  # 0.1 + 0.1 + 0.1 is not 3 · 0.1: a plain mean leaves a residue, which the
  # division by a deviation of almost 0 would blow up.
  rewards = jnp.array([0.0, 1, 0.1, -7.3, 1e6])
  tied = jnp.repeat(rewards, group_size)[:, None]
  actual = GROUPED[name](tied, group_size=group_size)
  np.testing.assert_array_equal(actual, jnp.zeros_like(tied))


def test_tied_groups_are_zero_also_without_epsilon():
  tied = jnp.ones((4, 1))
  actual = advantages.group_normalized(tied, group_size=4, eps=0.0)
  np.testing.assert_array_equal(actual, jnp.zeros((4, 1)))


def test_tied_batches_give_exactly_zero():
  tied = jnp.full((7, 2), 0.1)
  np.testing.assert_array_equal(
    advantages.batch_baseline(tied), jnp.zeros((7, 2))
  )


@every_grouped
def test_a_constant_added_to_a_prompt_changes_no_bit(name):
  # Integers and a power of two: the sum itself is exact.
  shifts = jnp.repeat(jnp.array([16.0, -8, 0]), 4)[:, None]
  np.testing.assert_array_equal(
    GROUPED[name](BINARY + shifts, group_size=4),
    GROUPED[name](BINARY, group_size=4),
  )


@every_grouped
def test_a_group_does_not_see_other_groups(name):
  changed = REWARDS.at[4:8].multiply(-3)
  before = GROUPED[name](REWARDS, group_size=4)
  after = GROUPED[name](changed, group_size=4)
  np.testing.assert_array_equal(before[:4], after[:4])
  np.testing.assert_array_equal(before[8:], after[8:])
  assert not jnp.allclose(before[4:8], after[4:8])


@every_grouped
def test_a_turn_does_not_see_other_turns(name):
  changed = REWARDS.at[:, 1].add(jnp.arange(12.0))
  before = GROUPED[name](REWARDS, group_size=4)
  after = GROUPED[name](changed, group_size=4)
  np.testing.assert_array_equal(before[:, 0], after[:, 0])


@every_grouped
def test_the_order_within_a_group_does_not_matter(name):
  order = jnp.array([2, 0, 3, 1, 4, 5, 6, 7, 11, 10, 9, 8])
  np.testing.assert_allclose(
    GROUPED[name](REWARDS[order], group_size=4),
    GROUPED[name](REWARDS, group_size=4)[order],
    atol=1e-5,
  )


@pytest.mark.parametrize('group_size', [2, 4, 12])
def test_centring_is_leave_one_out_up_to_a_factor(group_size):
  centered = advantages.group_centered(REWARDS, group_size=group_size)
  others = advantages.leave_one_out(REWARDS, group_size=group_size)
  factor = (group_size - 1) / group_size
  np.testing.assert_allclose(centered, factor * others, atol=1e-6)


@pytest.mark.parametrize('group_size', [2, 4, 12])
def test_the_two_deviations_differ_by_a_constant(group_size):
  sample, population = (
    advantages.group_normalized(
      REWARDS, group_size=group_size, eps=0.0, ddof=ddof
    )
    for ddof in (1, 0)
  )
  factor = math.sqrt((group_size - 1) / group_size)
  np.testing.assert_allclose(sample, factor * population, rtol=1e-5, atol=1e-6)


def test_normalising_forgets_the_scale_of_rewards():
  scaled = advantages.group_normalized(5 * REWARDS + 3, group_size=4, eps=0.0)
  plain = advantages.group_normalized(REWARDS, group_size=4, eps=0.0)
  np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-5)


def test_epsilon_is_added_to_the_deviation():
  # Deviation √(¼ + ¼) of (0, 1): with ε equal to it the advantages halve.
  rewards, deviation = jnp.array([[0.0], [1]]), math.sqrt(0.5)
  plain = advantages.group_normalized(rewards, group_size=2, eps=0.0)
  damped = advantages.group_normalized(rewards, group_size=2, eps=deviation)
  np.testing.assert_allclose(2 * damped, plain, rtol=1e-6)


def test_epsilon_may_be_traced():
  @jax.jit
  def normalized(eps):
    return advantages.group_normalized(REWARDS, group_size=4, eps=eps)

  np.testing.assert_allclose(
    normalized(jnp.float32(1e-6)),
    advantages.group_normalized(REWARDS, group_size=4),
    rtol=1e-5,
  )


@pytest.mark.parametrize(
  ('name', 'group_size', 'message'),
  [
    ('leave_one_out', 1, 'needs at least 2'),
    ('group_normalized', 1, 'more than 1 samples'),
    ('group_centered', 5, '12 rows do not make groups of 5'),
    ('leave_one_out', 5, '12 rows do not make groups of 5'),
    ('group_centered', 0, '12 rows do not make groups of 0'),
  ],
)
def test_impossible_groups_are_refused(name, group_size, message):
  with pytest.raises(ValueError, match=message):
    GROUPED[name](REWARDS, group_size=group_size)


def test_a_single_sample_is_its_own_mean():
  actual = advantages.group_centered(REWARDS, group_size=1)
  np.testing.assert_array_equal(actual, jnp.zeros_like(REWARDS))


# Over turns ----------------------------------------------------------------


def test_returns_are_discounted_sums_of_what_follows():
  actual = advantages.reward_to_go(jnp.array([[1.0, 2, 4]]), discount=0.5)
  # 1 + 2/2 + 4/4 = 3; 2 + 4/2 = 4; 4.
  assert actual.tolist() == [[3, 4, 4]]


def test_without_a_future_each_turn_keeps_its_reward():
  actual = advantages.reward_to_go(REWARDS, discount=0.0)
  np.testing.assert_array_equal(actual, REWARDS)


def test_undiscounted_the_first_turn_gets_everything():
  actual = advantages.reward_to_go(REWARDS, discount=1)
  np.testing.assert_allclose(actual[:, 0], jnp.sum(REWARDS, axis=1), rtol=1e-6)
  np.testing.assert_array_equal(actual[:, 1], REWARDS[:, 1])


def test_an_undiscounted_progress_bonus_pays_for_wrong_first_attempts():
  # Return of turn 1 = r₁ + r₂ + α(r₂ − r₁): r₁ has the coefficient 1 − α, -9 at
  # α = 10. With γ = 0 it is 1: the reason for the paper's choice.
  def first_return(first, discount):
    rewards = jnp.stack([first, 1 + 10 * (1 - first)])[None]
    return advantages.reward_to_go(rewards, discount=discount)[0, 0]

  slope = jax.grad(first_return)
  assert slope(0.5, 1.0) == -9
  assert slope(0.5, 0.0) == 1


# What standard scores are divided by ---------------------------------------


def test_the_spread_is_one_for_ties_and_for_groups_too_small():
  # Rewards 0 and 2: sample deviation √2, that of the population 1.
  rewards = jnp.array([[0.0], [2], [5], [5]])
  for ddof, deviation in ((1, math.sqrt(2)), (0, 1)):
    actual = advantages.group_spread(rewards, group_size=2, eps=0, ddof=ddof)
    expected = [[deviation], [deviation], [1], [1]]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
  alone = advantages.group_spread(rewards, group_size=1)
  np.testing.assert_array_equal(alone, jnp.ones((4, 1)))
