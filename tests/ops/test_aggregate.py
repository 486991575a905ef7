from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.ops import aggregate

AGGREGATES = {
  'token_mean': aggregate.token_mean,
  'sequence_mean': aggregate.sequence_mean,
  'sequence_mean_token_mean': aggregate.sequence_mean_token_mean,
  'constant_norm': functools.partial(aggregate.constant_norm, length=5.0),
}
every = pytest.mark.parametrize('name', AGGREGATES)

# Ragged rows, one of them dropped, one without any token.
VALUES = jax.random.normal(jax.random.key(0), (6, 5))
MASK = jnp.array(
  [
    [False, True, True, True, False],
    [True, False, False, False, False],
    [True, True, True, True, True],
    [False, True, False, True, False],
    [False, False, False, False, False],
    [True, True, False, False, True],
  ]
)
WEIGHT = jnp.array([1.0, 1, 0, 1, 1, 1])


@pytest.mark.parametrize(
  ('name', 'total', 'count'),
  [
    # Rows (1 2 4), (8) and a dropped one. Tokens: 15/4; rows: 15/2; rows'
    # means: (7/3 + 8)/2; rows over L = 5: 3/2.
    ('token_mean', 15, 4),
    ('sequence_mean', 15, 2),
    ('sequence_mean_token_mean', 7 / 3 + 8, 2),
    ('constant_norm', 3, 2),
  ],
)
def test_known_values(name, total, count):
  values = jnp.array([[1.0, 2, 4], [99, 8, 99], [99, 99, 99]])
  mask = jnp.array([[True, True, True], [False, True, False], [True] * 3])
  actual = AGGREGATES[name](values, mask, jnp.array([1.0, 1, 0]))
  np.testing.assert_allclose(actual.total, total, rtol=1e-6)
  assert actual.count == count
  np.testing.assert_allclose(actual.mean(), total / count, rtol=1e-6)


@every
@pytest.mark.parametrize('cuts', [(3,), (1, 3)])
def test_micro_batches_add_up_to_the_batch(name, cuts):
  whole = AGGREGATES[name](VALUES, MASK, WEIGHT)
  parts = [
    AGGREGATES[name](*(jnp.array(part) for part in cut))
    for cut in zip(
      *(np.split(np.asarray(x), cuts) for x in (VALUES, MASK, WEIGHT))
    )
  ]
  summed = functools.reduce(lambda a, b: a + b, parts)
  np.testing.assert_allclose(summed.total, whole.total, rtol=1e-5, atol=1e-6)
  assert summed.count == whole.count


def test_a_mean_of_micro_batch_means_would_be_wrong():
  # One token of 1 in the first row, three of 0 in the second: ¼, not ½.
  values = jnp.array([[1.0, 9, 9], [0, 0, 0]])
  mask = jnp.array([[True, False, False], [True, True, True]])
  rows = [
    aggregate.token_mean(values[row], mask[row], jnp.ones(1))
    for row in (slice(0, 1), slice(1, 2))
  ]
  assert (rows[0].mean() + rows[1].mean()) / 2 == 1 / 2
  assert (rows[0] + rows[1]).mean() == 1 / 4


@every
def test_padding_changes_nothing(name):
  whole = AGGREGATES[name](VALUES, MASK, WEIGHT)
  padded = AGGREGATES[name](
    jnp.pad(VALUES, ((0, 2), (1, 3)), constant_values=7),
    jnp.pad(MASK, ((0, 2), (1, 3))),
    jnp.pad(WEIGHT, (0, 2)),
  )
  np.testing.assert_allclose(padded.total, whole.total, rtol=1e-6)
  assert padded.count == whole.count


@every
def test_the_order_of_rows_does_not_matter(name):
  order = jnp.array([3, 5, 0, 4, 2, 1])
  whole = AGGREGATES[name](VALUES, MASK, WEIGHT)
  shuffled = AGGREGATES[name](VALUES[order], MASK[order], WEIGHT[order])
  np.testing.assert_allclose(shuffled.total, whole.total, rtol=1e-5)
  assert shuffled.count == whole.count


@every
@pytest.mark.parametrize('poison', [jnp.nan, jnp.inf, -jnp.inf])
def test_ignored_values_poison_neither_total_nor_gradient(name, poison):
  used = MASK & (WEIGHT > 0)[:, None]

  def total(values):
    return AGGREGATES[name](values, MASK, WEIGHT).total

  poisoned = jnp.where(used, VALUES, poison)
  assert total(poisoned) == total(VALUES)
  gradient = jax.grad(total)(poisoned)
  np.testing.assert_array_equal(gradient, jax.grad(total)(VALUES))
  np.testing.assert_array_equal(gradient != 0, used)


@every
def test_a_value_that_counts_is_not_hidden_when_it_is_not_finite(name):
  assert jnp.isnan(
    AGGREGATES[name](VALUES.at[0, 1].set(jnp.nan), MASK, WEIGHT).total
  )


@every
def test_counts_do_not_depend_on_values(name):
  zeros = AGGREGATES[name](jnp.zeros_like(VALUES), MASK, WEIGHT)
  assert zeros.count == AGGREGATES[name](VALUES, MASK, WEIGHT).count


@every
def test_weights_scale_totals_and_leave_counts(name):
  once = AGGREGATES[name](VALUES, MASK, WEIGHT)
  thrice = AGGREGATES[name](VALUES, MASK, 3 * WEIGHT)
  np.testing.assert_allclose(thrice.total, 3 * once.total, rtol=1e-6)
  assert thrice.count == once.count


@every
def test_nothing_kept_counts_nothing(name):
  nothing = AGGREGATES[name](VALUES, MASK, 0 * WEIGHT)
  assert nothing.total == 0
  assert nothing.count == 0
  assert nothing.mean() == 0


def test_a_row_without_tokens_is_still_a_row():
  # An empty attempt dilutes a mean over rows and not one over tokens.
  assert aggregate.sequence_mean(VALUES, MASK, WEIGHT).count == 5
  assert aggregate.sequence_mean_token_mean(VALUES, MASK, WEIGHT).count == 5
  assert aggregate.token_mean(VALUES, MASK, WEIGHT).count == 3 + 1 + 2 + 3


def test_rows_of_equal_length_make_all_means_agree():
  mask = jnp.ones((6, 5), bool)
  weight = jnp.ones(6)
  means = [
    AGGREGATES[name](VALUES, mask, weight).mean()
    for name in ('token_mean', 'sequence_mean_token_mean', 'constant_norm')
  ]
  np.testing.assert_allclose(means, [jnp.mean(VALUES)] * 3, rtol=1e-5)
  per_row = aggregate.sequence_mean(VALUES, mask, weight).mean()
  np.testing.assert_allclose(per_row, 5 * jnp.mean(VALUES), rtol=1e-5)


@every
def test_bfloat16_values_are_added_in_float32(name):
  # 4096 + 1 is 4096 in bfloat16.
  values = jnp.ones((2, 4097), jnp.bfloat16)
  actual = AGGREGATES[name](values, jnp.ones((2, 4097), bool), jnp.ones(2))
  assert actual.total.dtype == jnp.float32
  assert actual.total in (2 * 4097, 2, jnp.float32(2 * 4097) / 5)
