from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from selfimprove.rewards.texts import attempt_ids, attempt_texts
from tests.algorithms.rollouts import of_turns

# Slots: prompt, three of the first attempt, instruction, two of the second.
TURN = jnp.asarray([[-1, 0, 0, 0, -1, 1, 1], [-1, 0, -1, -1, -1, 1, -1]])
TOKENS = jnp.asarray([[9, 3, 4, 1, 8, 5, 1], [9, 1, 7, 7, 8, 6, 7]])


def _rollout():
  made = of_turns(TURN, ((1, 4), (5, 7)), 1)
  return dataclasses.replace(made, tokens=TOKENS)


def test_the_ids_are_those_that_the_policy_wrote():
  # Not the 9 of the prompt, the 8 of the instruction, the 7 in empty slots.
  assert attempt_ids(_rollout()) == [[(3, 4, 1), (5, 1)], [(1,), (6,)]]


def test_the_texts_are_the_decoded_ids_by_row_and_turn():
  texts = attempt_texts(_rollout(), lambda ids: '-'.join(map(str, ids)))
  assert texts == [['3-4-1', '5-1'], ['1', '6']]


def test_an_attempt_without_a_token_is_an_empty_text():
  nothing = jnp.where(TURN == 1, -1, TURN)
  rollout = dataclasses.replace(_rollout(), turn=nothing)
  assert [row[1] for row in attempt_ids(rollout)] == [(), ()]
  texts = attempt_texts(rollout, lambda ids: f'{ids.dtype}{ids.shape}')
  assert [row[1] for row in texts] == ['int32(0,)', 'int32(0,)']
