from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.rewards.labels import DropTiedGroups, KeepAll, KeepCorrect
from tests.rewards.written import rollout

_REWARDS = jnp.array(
  [
    # A group that differs in its second attempt only.
    [1.0, 0.0],
    [1.0, 1.0],
    # Attempts differ within a row, rows are alike: tied.
    [0.0, 1.0],
    [0.0, 1.0],
    # All wrong: tied.
    [0.0, 0.0],
    [0.0, 0.0],
  ]
)


def _samples(group_size):
  return rollout([[[], []]] * len(_REWARDS), group_size=group_size)


def _weights(label, group_size=2):
  weights = label(_samples(group_size), _REWARDS)
  assert weights.dtype == jnp.float32
  return weights.tolist()


def test_keep_all_gives_every_sample_weight_one():
  assert _weights(KeepAll()) == [1.0] * 6


def test_keep_correct_looks_at_one_attempt():
  assert _weights(KeepCorrect()) == [0, 1, 1, 1, 0, 0]
  assert _weights(KeepCorrect(turn=0)) == [1, 1, 0, 0, 0, 0]


def test_keep_correct_counts_rewards_above_its_threshold():
  assert _weights(KeepCorrect(threshold=1.0)) == [0] * 6


def test_keep_correct_takes_its_threshold_as_data():
  traced = []

  @jax.jit
  def weights(label):
    traced.append(label)
    return label(_samples(2), _REWARDS)

  np.testing.assert_array_equal(weights(KeepCorrect()), [0, 1, 1, 1, 0, 0])
  np.testing.assert_array_equal(weights(KeepCorrect(threshold=1.0)), [0] * 6)
  assert len(traced) == 1


@pytest.mark.parametrize('turn', [2, -3])
def test_an_attempt_that_does_not_exist_is_named(turn):
  with pytest.raises(ValueError, match=f'turn is {turn} and there are 2'):
    _weights(KeepCorrect(turn=turn))


def test_tied_groups_are_dropped_whole():
  assert _weights(DropTiedGroups()) == [1, 1, 0, 0, 0, 0]


def test_groups_are_those_of_the_rollout():
  # Three rows a group: the first group has both right and wrong.
  assert _weights(DropTiedGroups(), group_size=3) == [1] * 6
  assert _weights(DropTiedGroups(), group_size=1) == [0] * 6


def test_the_order_of_groups_does_not_matter():
  swapped = jnp.concatenate([_REWARDS[2:], _REWARDS[:2]])
  weights = DropTiedGroups()(_samples(2), swapped)
  assert weights.tolist() == [0, 0, 0, 0, 1, 1]
