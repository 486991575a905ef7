from __future__ import annotations

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


def test_values_of_turns_land_on_their_tokens_only():
  values = jnp.array([[3.0, 5], [7, 11], [13, 17]])
  assert masks.take_by_turn(values, TURN).tolist() == [
    [0, 3, 3, 0, 0, 5, 0],
    [7, 0, 11, 0, 11, 0, 11],
    [0] * 7,
  ]


def test_what_is_taken_at_the_ends_is_what_was_placed_there():
  values = jnp.array([[3.0, 5], [7, 11], [13, 17]])
  placed = masks.at_ends(values, TURN)
  taken = masks.take_at_ends(placed, TURN, turns=2)
  # The last row has no tokens at all.
  assert taken.tolist() == [[3, 5], [7, 11], [0, 0]]


def test_the_value_behind_a_slot_is_that_of_the_next_one():
  values = jnp.arange(6.0).reshape(2, 3)
  assert masks.behind(values).tolist() == [[1, 2, 0], [4, 5, 0]]
