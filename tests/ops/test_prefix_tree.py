from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.ops import advantages, prefix_tree
from tests.ops import enumerable

# The tree that the expected numbers below were worked out from, by hand.
#
#   root ½ ┬ 5 ⅔ ┬ 6 ½ ┬ 7  1
#          │     │     └ 8  0
#          │     └ 9 1
#          └ 4 0
TOKENS = jnp.array([[5, 6, 7], [5, 6, 8], [5, 9, 0], [4, 0, 0]])
MASK = TOKENS > 0
REWARDS = jnp.array([1.0, 0, 1, 0])
STEPS = [
  [1 / 6, -1 / 6, 1 / 2],
  [1 / 6, -1 / 6, -1 / 2],
  [1 / 6, 1 / 3, 0],
  [-1 / 2, 0, 0],
]
END = 0


def _random_group(seed, *, rows=8, columns=6, vocabulary=3):
  """Samples that end with an EOS token or at the limit, some of them alike."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, vocabulary, (rows, columns))
  ended = np.cumsum(tokens == END, axis=1)
  mask = (ended - (tokens == END)) == 0
  rewards = rng.normal(size=rows)
  # The same answer has the same reward.
  for row in range(rows):
    for other in range(row):
      written = mask[row] & mask[other]
      alike = np.array_equal(mask[row], mask[other])
      if alike and np.array_equal(tokens[row][written], tokens[other][written]):
        rewards[row] = rewards[other]
  return (
    jnp.asarray(tokens, jnp.int32),
    jnp.asarray(mask),
    jnp.asarray(rewards, jnp.float32),
  )


def _naive_steps(tokens, mask, rewards):
  """The same by dictionaries: mean reward of the samples with each prefix."""
  tokens, mask, rewards = map(np.asarray, (tokens, mask, rewards))
  answers = [tuple(t[m]) for t, m in zip(tokens, mask)]
  through = {}
  for answer, reward in zip(answers, rewards):
    for size in range(len(answer) + 1):
      through.setdefault(answer[:size], []).append(reward)
  steps = np.zeros(tokens.shape)
  for row, answer in enumerate(answers):
    worth = [np.mean(through[answer[:size]]) for size in range(len(answer) + 1)]
    steps[row, mask[row]] = np.diff(worth)
  return steps


seeds = pytest.mark.parametrize('seed', range(6))


# By hand -------------------------------------------------------------------


def test_values_of_a_tree_worked_out_by_hand():
  before, after = prefix_tree.prefix_values(TOKENS, MASK, REWARDS)
  expected = [[1 / 2, 2 / 3, 1 / 2], [1 / 2, 2 / 3, 1 / 2]]
  np.testing.assert_allclose(before[:2], expected, rtol=1e-6)
  expected = [[2 / 3, 1 / 2, 1], [2 / 3, 1 / 2, 0], [2 / 3, 1, 1], [0, 0, 0]]
  np.testing.assert_allclose(after, expected, rtol=1e-6)


def test_advantages_of_a_tree_worked_out_by_hand():
  actual = prefix_tree.tree_centered(TOKENS, MASK, REWARDS, group_size=4)
  centered = np.array([1 / 2, -1 / 2, 1 / 2, -1 / 2])[:, None]
  expected = np.where(MASK, centered + STEPS, 0)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
  # The sample deviation of 1, 0, 1, 0 is 1/√3; it divides both summands.
  actual = prefix_tree.tree_normalized(
    TOKENS, MASK, REWARDS, group_size=4, eps=0
  )
  np.testing.assert_allclose(
    actual, math.sqrt(3) * expected, rtol=1e-5, atol=1e-6
  )


def test_a_root_that_branches_at_once_doubles_the_first_token():
  tokens = jnp.array([[1, 9, 9], [2, 9, 9], [3, 9, 9], [4, 9, 9]])
  actual = prefix_tree.tree_centered(tokens, tokens > 0, REWARDS, group_size=4)
  gain = np.asarray(REWARDS) - 0.5
  np.testing.assert_allclose(actual, np.stack([2 * gain, gain, gain], axis=1))


# Identities ----------------------------------------------------------------


@seeds
def test_steps_are_those_of_a_dictionary_of_prefixes(seed):
  group = _random_group(seed)
  actual = prefix_tree.temporal_differences(*group)
  expected = _naive_steps(*group)
  assert np.max(np.abs(expected)) > 0.1
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@seeds
def test_steps_of_a_sample_add_up_to_its_reward_over_the_mean(seed):
  tokens, mask, rewards = _random_group(seed)
  steps = prefix_tree.temporal_differences(tokens, mask, rewards)
  gains = rewards - jnp.mean(rewards)
  np.testing.assert_allclose(jnp.sum(steps, axis=1), gains, atol=1e-5)
  credit = prefix_tree.tree_centered(tokens, mask, rewards, group_size=8)
  expected = (jnp.sum(mask, axis=1) + 1) * gains
  np.testing.assert_allclose(jnp.sum(credit, axis=1), expected, atol=1e-5)


@seeds
def test_steps_of_the_children_of_every_node_cancel(seed):
  tokens, mask, rewards = map(np.asarray, _random_group(seed))
  steps = prefix_tree.temporal_differences(
    jnp.asarray(tokens), jnp.asarray(mask), jnp.asarray(rewards)
  )
  for column in range(tokens.shape[1]):
    nodes = {}
    for row in np.flatnonzero(mask[:, column]):
      node = tuple(tokens[row, :column])
      nodes.setdefault(node, []).append(float(steps[row, column]))
    for children in nodes.values():
      assert sum(children) == pytest.approx(0, abs=1e-5)


def test_a_node_gets_the_gradient_with_its_own_mean_as_baseline():
  # Σᵢ δᵢₜ ∇ log π = Σᵢ (rᵢ − V(s)) ∇ log π over the rows through s.
  rows = np.array([0, 1, 1, 4, 9, 13, 20, 26])
  tokens = jnp.asarray(enumerable.SEQUENCES[rows])
  rewards = enumerable.rewards(0)[rows]
  mask = jnp.ones(tokens.shape, bool)
  steps = prefix_tree.temporal_differences(tokens, mask, rewards)
  before, _ = prefix_tree.prefix_values(tokens, mask, rewards)

  def gradient(credit):
    return jax.grad(
      lambda table: jnp.sum(credit * enumerable.token_logprobs(table)[rows])
    )(enumerable.table(0))

  expected = gradient(rewards[:, None] - before)
  assert jnp.max(jnp.abs(expected)) > 0.1
  np.testing.assert_allclose(gradient(steps), expected, atol=1e-5)


@seeds
def test_where_a_group_does_not_branch_the_credit_is_that_of_the_group(seed):
  tokens, mask, rewards = _random_group(seed)
  before, _ = prefix_tree.prefix_values(tokens, mask, rewards)
  steps = prefix_tree.temporal_differences(tokens, mask, rewards)
  # Alone on its branch, or all through one child.
  naive = _naive_steps(tokens, mask, np.arange(8.0) ** 2)
  unbranched = mask & (naive == 0)
  assert jnp.any(unbranched)
  np.testing.assert_array_equal(jnp.where(unbranched, steps, 0), 0 * before)
  for credit, baseline in (
    (prefix_tree.tree_centered, advantages.group_centered),
    (prefix_tree.tree_normalized, advantages.group_normalized),
  ):
    actual = credit(tokens, mask, rewards, group_size=8)
    expected = jnp.broadcast_to(
      baseline(rewards[:, None], group_size=8), mask.shape
    )
    np.testing.assert_allclose(
      actual[unbranched], expected[unbranched], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize('reward', [0.0, 1.0, 0.1, -3.7])
def test_tied_groups_get_exact_zeros(reward):
  tokens, mask, _ = _random_group(0)
  rewards = jnp.full(8, reward)
  for credit in (prefix_tree.tree_centered, prefix_tree.tree_normalized):
    actual = credit(tokens, mask, rewards, group_size=8)
    np.testing.assert_array_equal(actual, jnp.zeros(mask.shape))


def test_a_group_of_one_gets_zeros():
  tokens, mask, rewards = _random_group(0)
  for credit in (prefix_tree.tree_centered, prefix_tree.tree_normalized):
    actual = credit(tokens, mask, rewards, group_size=1)
    np.testing.assert_array_equal(actual, jnp.zeros(mask.shape))


@seeds
def test_no_step_exceeds_the_range_of_rewards(seed):
  tokens, mask, rewards = _random_group(seed)
  steps = prefix_tree.temporal_differences(tokens, mask, rewards)
  assert jnp.max(jnp.abs(steps)) <= jnp.max(rewards) - jnp.min(rewards)


def test_scores_ignore_scale_and_origin_of_rewards():
  tokens, mask, rewards = _random_group(1)

  def scores(rewards):
    return prefix_tree.tree_normalized(
      tokens, mask, rewards, group_size=8, eps=0
    )

  np.testing.assert_allclose(
    scores(3 * rewards + 5), scores(rewards), rtol=1e-4, atol=1e-5
  )
  centered = (
    prefix_tree.tree_centered(tokens, mask, r, group_size=8)
    for r in (3 * rewards + 5, 3 * rewards)
  )
  np.testing.assert_allclose(*centered, rtol=1e-4, atol=1e-5)


# Invariance ----------------------------------------------------------------


def test_order_of_rows_and_names_of_tokens_do_not_matter():
  tokens, mask, rewards = _random_group(2)
  steps = prefix_tree.temporal_differences(tokens, mask, rewards)
  order = jax.random.permutation(jax.random.key(0), 8)
  permuted = prefix_tree.temporal_differences(
    tokens[order], mask[order], rewards[order]
  )
  np.testing.assert_allclose(permuted, steps[order], atol=1e-6)
  renamed = jnp.array([40, 7, 1000])[tokens]
  np.testing.assert_array_equal(
    prefix_tree.temporal_differences(renamed, mask, rewards), steps
  )


def test_columns_that_nobody_wrote_change_nothing():
  tokens, mask, rewards = _random_group(3)
  rng = np.random.default_rng(0)
  noise = jnp.asarray(rng.integers(0, 9, (8, 3)), jnp.int32)
  padded = jnp.concatenate([noise, tokens[:, :2], noise, tokens[:, 2:]], axis=1)
  gap = jnp.zeros((8, 3), bool)
  wide = jnp.concatenate([gap, mask[:, :2], gap, mask[:, 2:]], axis=1)
  actual = prefix_tree.temporal_differences(padded, wide, rewards)
  expected = prefix_tree.temporal_differences(tokens, mask, rewards)
  np.testing.assert_array_equal(actual[:, 3:5], expected[:, :2])
  np.testing.assert_array_equal(actual[:, 8:], expected[:, 2:])
  np.testing.assert_array_equal(jnp.where(wide, 0, actual), 0 * padded)


def test_what_lies_behind_the_end_of_a_sample_is_not_read():
  tokens, mask, rewards = _random_group(4)
  spoilt = jnp.where(mask, tokens, 1)
  np.testing.assert_array_equal(
    prefix_tree.temporal_differences(spoilt, mask, rewards),
    prefix_tree.temporal_differences(tokens, mask, rewards),
  )


def test_a_sample_that_ended_is_a_branch_of_its_own():
  # The padding 3 looks like what the other wrote; the values are 1 and 0.
  tokens = jnp.array([[5, 3], [5, 3]])
  mask = jnp.array([[True, True], [True, False]])
  before, after = prefix_tree.prefix_values(tokens, mask, jnp.array([1.0, 0.0]))
  np.testing.assert_array_equal(before, jnp.full((2, 2), 0.5))
  np.testing.assert_array_equal(after, [[0.5, 1], [0.5, 0]])
  steps = prefix_tree.temporal_differences(tokens, mask, jnp.array([1.0, 0.0]))
  # Its own step has no token.
  np.testing.assert_array_equal(steps, [[0, 0.5], [0, 0]])


def test_samples_that_end_together_share_what_they_do_next():
  # First attempts (two columns), an instruction, second attempts (one).
  tokens = jnp.array([[5, 8, 9, 6], [5, 8, 9, 7], [5, 5, 9, 6]])
  mask = jnp.array(
    [[True, False, False, True]] * 2 + [[True, True, False, True]]
  )
  rewards = jnp.array([1.0, 0.0, 1.0])
  steps = prefix_tree.temporal_differences(tokens, mask, rewards)
  # ⅔ for all; ½ for the two that ended, 1 for the third; then 1, 0 and 1.
  expected = [[0, 0, 0, 0.5], [0, 0, 0, -0.5], [0, 1 / 3, 0, 0]]
  np.testing.assert_allclose(steps, expected, atol=1e-6)


# Many groups, long rows ----------------------------------------------------


def test_groups_do_not_see_each_other():
  groups = [_random_group(seed) for seed in (0, 1, 2)]
  tokens, mask, rewards = (jnp.concatenate(parts) for parts in zip(*groups))
  for credit in (prefix_tree.tree_centered, prefix_tree.tree_normalized):
    together = jax.jit(lambda *x, fn=credit: fn(*x, group_size=8))(
      tokens, mask, rewards
    )
    apart = [credit(*group, group_size=8) for group in groups]
    np.testing.assert_allclose(
      together, jnp.concatenate(apart), rtol=1e-5, atol=1e-6
    )


def test_rows_that_are_no_whole_groups_are_refused():
  tokens, mask, rewards = _random_group(0)
  for credit in (prefix_tree.tree_centered, prefix_tree.tree_normalized):
    with pytest.raises(ValueError, match='8 rows do not make groups of 3'):
      credit(tokens, mask, rewards, group_size=3)


def test_no_array_is_as_large_as_pairs_of_rows_by_columns():
  # One byte for each of 64 · 64 · 4096 pairs would be 16 MiB.
  rows, columns = 64, 4096
  compiled = (
    jax.jit(lambda *x: prefix_tree.tree_normalized(*x, group_size=rows))
    .lower(
      jax.ShapeDtypeStruct((rows, columns), jnp.int32),
      jax.ShapeDtypeStruct((rows, columns), jnp.bool_),
      jax.ShapeDtypeStruct((rows,), jnp.float32),
    )
    .compile()
  )
  memory = compiled.memory_analysis()
  assert memory.temp_size_in_bytes < 4 * rows * columns * 4
