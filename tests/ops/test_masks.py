from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from selfimprove.ops import masks

# Left padding, a gap, and an empty tail; an all-empty row.
MASK = jnp.array(
  [
    [False, True, True, False, False, True, False],
    [True, False, True, True, True, False, True],
    [False] * 7,
  ]
)
TURN = jnp.array(
  [
    [-1, 0, 0, -1, -1, 1, -1],
    [0, -1, 1, -1, 1, -1, 1],
    [-1] * 7,
  ]
)


def test_positions_count_the_real_tokens_of_a_row_from_zero():
  expected = [
    [-1, 0, 1, -1, -1, 2, -1],
    [0, -1, 1, 2, 3, -1, 4],
    [-1] * 7,
  ]
  assert masks.positions_from_mask(MASK).tolist() == expected


def test_an_empty_column_changes_no_position():
  wider = jnp.array(np.insert(MASK, 3, False, axis=1))
  positions = np.delete(masks.positions_from_mask(wider), 3, axis=1)
  np.testing.assert_array_equal(positions, masks.positions_from_mask(MASK))


def test_a_token_is_predicted_by_the_last_real_token_before_it():
  expected = [
    [-1, -1, 1, -1, -1, 2, -1],  # Slot 5 looks across the gap, not at 4.
    [-1, -1, 0, 2, 3, -1, 4],
    [-1] * 7,
  ]
  assert masks.predecessor(MASK).tolist() == expected


def test_the_predecessor_stands_one_position_earlier():
  key = jax.random.key(0)
  mask = jax.random.bernoulli(key, 0.6, (20, 15))
  positions = masks.positions_from_mask(mask)
  before = masks.predecessor(mask)
  found = jnp.take_along_axis(positions, jnp.maximum(before, 0), axis=1)
  has_one = positions > 0
  np.testing.assert_array_equal(before >= 0, has_one)
  np.testing.assert_array_equal(found[has_one], positions[has_one] - 1)


def test_turn_sums_add_up_the_tokens_of_a_turn():
  values = jnp.array([[1.0, 2, 4, 8, 16, 32, 64]] * 3)
  sums = masks.turn_sums(values, TURN, turns=3)
  # Row 0: 2 + 4 and 32; row 1: 1 and 4 + 16 + 64; no third turn anywhere.
  assert sums.tolist() == [[6, 32, 0], [1, 84, 0], [0, 0, 0]]


def test_turn_sums_ignore_what_is_not_finite_outside_every_turn():
  values = jnp.where(TURN >= 0, 1.0, jnp.nan)
  assert masks.turn_sums(values, TURN, turns=2).tolist() == [
    [2, 1],
    [1, 3],
    [0, 0],
  ]


def test_values_of_turns_land_on_their_tokens_only():
  values = jnp.array([[3.0, 5], [7, 11], [13, 17]])
  assert masks.take_by_turn(values, TURN).tolist() == [
    [0, 3, 3, 0, 0, 5, 0],
    [7, 0, 11, 0, 11, 0, 11],
    [0] * 7,
  ]


def test_placing_is_the_transpose_of_summing():
  tokens = jax.random.normal(jax.random.key(1), MASK.shape)
  turns = jax.random.normal(jax.random.key(2), (3, 2))
  summed = jnp.sum(masks.turn_sums(tokens, TURN, turns=2) * turns)
  placed = jnp.sum(tokens * masks.take_by_turn(turns, TURN))
  np.testing.assert_allclose(summed, placed, rtol=1e-6)
