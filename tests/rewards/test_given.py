from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.rewards.given import Labelled, Preferred
from selfimprove.types import Prompts, Text
from tests.algorithms.rollouts import of_turns

RIGHT = (7,)


def _prompts(labels, mask):
  count = len(labels)
  empty = jnp.zeros((count, 1), jnp.int32)
  return Prompts(
    tokens=empty,
    mask=empty > 0,
    example_id=jnp.arange(count),
    answer=empty,
    answer_mask=empty > 0,
    extra={'labels': Text(tokens=jnp.asarray(labels), mask=jnp.asarray(mask))},
  )


def test_the_first_of_each_pair_is_preferred():
  rollout = of_turns(jnp.zeros((4, 3), jnp.int32), ((0, 3),), 2)
  rewards = Preferred()(rollout, _prompts([[0]] * 2, [[True]] * 2))
  assert rewards.tolist() == [[1], [0], [1], [0]]


def test_steps_have_their_labels_and_missing_ones_are_not_right():
  rollout = of_turns(jnp.zeros((2, 3), jnp.int32), ((0, 3),) * 3, 1)
  prompts = _prompts([[7, 6, 7], [6, 7, 7]], [[True] * 3, [True, True, False]])
  rewards = Labelled(right=RIGHT, field='labels')(rollout, prompts)
  np.testing.assert_array_equal(rewards, [[1, 0, 1], [0, 1, 0]])


def test_rows_of_a_group_share_their_label():
  rollout = of_turns(jnp.zeros((4, 3), jnp.int32), ((0, 3),), 2)
  prompts = _prompts([[7], [6]], [[True], [True]])
  rewards = Labelled(right=RIGHT, field='labels')(rollout, prompts)
  assert rewards.tolist() == [[1], [1], [0], [0]]


def test_another_number_of_labels_than_attempts_is_refused():
  rollout = of_turns(jnp.zeros((1, 3), jnp.int32), ((0, 3),), 1)
  prompts = _prompts([[7, 7]], [[True, True]])
  with pytest.raises(ValueError, match=r'2 tokens for 1 attempts'):
    Labelled(right=RIGHT, field='labels')(rollout, prompts)
  one = dataclasses.replace(rollout, spans=((0, 3),) * 2)
  assert Labelled(right=RIGHT, field='labels')(one, prompts).shape == (1, 2)
