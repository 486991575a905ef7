from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.rollout.assemble import Insertion, assemble
from selfimprove.rollout.decode import Written
from tests.rollout import tiny

# Two prompts of 2 and 1 tokens, two samples each.
PROMPTS = tiny.prompts((2, 1), slots=2)
FIRST = Written(
  tokens=jnp.array([[5, 1], [1, 0], [5, 6], [1, 0]], jnp.int32),
  positions=jnp.array([[2, 3], [2, -1], [1, 2], [1, -1]], jnp.int32),
  logprobs=jnp.array([[-1.0, -2], [-3, 0], [-4, -5], [-6, 0]]),
  finished=jnp.array([True, True, False, True]),
)
INSERTED = Insertion(
  tokens=jnp.full((4, 1), 8, jnp.int32),
  positions=jnp.array([[4], [3], [3], [2]], jnp.int32),
)
SECOND = Written(
  tokens=jnp.array([[1], [7], [1], [1]], jnp.int32),
  positions=jnp.array([[5], [4], [4], [3]], jnp.int32),
  logprobs=jnp.array([[-7.0], [-8], [-9], [-10]]),
  finished=jnp.array([True, False, True, True]),
)


def assembled(**kwargs):
  return assemble(PROMPTS, [FIRST, INSERTED, SECOND], group_size=2, **kwargs)


def test_columns_are_the_prompt_and_the_pieces_in_order():
  rollout = assembled()
  (a, b), (_, c) = PROMPTS.tokens.tolist()
  pad = int(PROMPTS.tokens[1, 0])
  assert rollout.tokens.tolist() == [
    [a, b, 5, 1, 8, 1],
    [a, b, 1, 0, 8, 7],
    [pad, c, 5, 6, 8, 1],
    [pad, c, 1, 0, 8, 1],
  ]
  assert rollout.positions.tolist() == [
    [0, 1, 2, 3, 4, 5],
    [0, 1, 2, -1, 3, 4],
    [-1, 0, 1, 2, 3, 4],
    [-1, 0, 1, -1, 2, 3],
  ]


def test_only_what_the_policy_wrote_has_a_turn_and_is_trained():
  rollout = assembled()
  turns = [
    [-1, -1, 0, 0, -1, 1],
    [-1, -1, 0, -1, -1, 1],
    [-1, -1, 0, 0, -1, 1],
    [-1, -1, 0, -1, -1, 1],
  ]
  assert rollout.turn.tolist() == turns
  assert rollout.loss_mask.tolist() == (np.array(turns) >= 0).tolist()
  assert rollout.sampler_logprobs.tolist() == [
    [0, 0, -1, -2, 0, -7],
    [0, 0, -3, 0, 0, -8],
    [0, 0, -4, -5, 0, -9],
    [0, 0, -6, 0, 0, -10],
  ]


def test_spans_and_ends_are_listed_by_turn():
  rollout = assembled()
  assert rollout.spans == ((2, 4), (5, 6))
  assert rollout.finished.tolist() == [
    [True, True],
    [True, False],
    [False, True],
    [True, True],
  ]


def test_rows_of_a_group_are_neighbours():
  rollout = assembled()
  assert rollout.group_id.tolist() == [0, 0, 1, 1]
  assert rollout.example_id.tolist() == [100, 100, 101, 101]
  assert (rollout.group_size, rollout.prompt_slots) == (2, 2)


@pytest.mark.parametrize(
  ('given', 'kept'),
  [(0.5, 0.5), (0.0, 1.0), (jnp.float32(2), 2.0), (jnp.float32(0), 1.0)],
)
def test_greedy_rows_are_scored_at_temperature_one(given, kept):
  assert assembled(temperature=given).temperature.tolist() == [kept] * 4
