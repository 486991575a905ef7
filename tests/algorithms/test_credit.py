from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.algorithms import credit
from tests.algorithms import rollouts

# Prompt, gap, attempt 1, instruction, attempt 2; ragged attempts.
TURN = jnp.array(
  [
    [-1, -1, 0, 0, -1, 1, 1],
    [-1, -1, 0, -1, -1, 1, -1],
    [-1, -1, 0, 0, -1, 1, 1],
    [-1, -1, 0, 0, -1, -1, -1],
  ]
)
REWARDS = jnp.array([[1.0, 0], [0, 1], [1, 1], [1, 1]])
BASELINES = [
  credit.NoBaseline(),
  credit.BatchBaseline(),
  credit.GroupCentered(),
  credit.GroupNormalized(),
  credit.LeaveOneOut(),
]
every_baseline = pytest.mark.parametrize(
  'baseline', BASELINES, ids=lambda baseline: type(baseline).__name__
)


def _rollout(turn=TURN, group_size=2):
  return rollouts.of_turns(turn, ((2, 4), (5, 7)), group_size)


def test_turn_local_credit_pays_each_attempt_for_its_own_reward():
  # Group 1 differs by one reward in each turn, group 2 is tied: leave-one-out
  # gives ±1 and 0.
  actual = credit.TurnLocal(baseline=credit.LeaveOneOut())(_rollout(), REWARDS)
  assert actual.tolist() == [
    [0, 0, 1, 1, 0, -1, -1],
    [0, 0, -1, 0, 0, 1, 0],
    [0] * 7,
    [0] * 7,
  ]


def test_reward_to_go_pays_the_first_attempt_for_the_second():
  rule = credit.RewardToGo(baseline=credit.NoBaseline(), discount=0.5)
  actual = rule(_rollout(), REWARDS)
  # First turns: 1 + 0/2, 0 + 1/2, 1 + 1/2, 1 + 1/2.
  assert actual.tolist() == [
    [0, 0, 1, 1, 0, 0, 0],
    [0, 0, 0.5, 0, 0, 1, 0],
    [0, 0, 1.5, 1.5, 0, 1, 1],
    [0, 0, 1.5, 1.5, 0, 0, 0],
  ]


@every_baseline
def test_credit_lies_on_trained_tokens_only(baseline):
  rewards = jax.random.normal(jax.random.key(0), (4, 2))
  actual = credit.RewardToGo(baseline=baseline)(_rollout(), rewards)
  np.testing.assert_array_equal(actual != 0, TURN >= 0)


def test_a_token_taken_out_of_the_loss_loses_its_credit():
  rollout = _rollout()
  trimmed = dataclasses.replace(rollout, loss_mask=rollout.turn == 1)
  actual = credit.TurnLocal(baseline=credit.NoBaseline())(trimmed, REWARDS + 1)
  np.testing.assert_array_equal(actual != 0, rollout.turn == 1)


@every_baseline
def test_rewards_of_a_first_attempt_do_not_reach_the_second(baseline):
  rule = credit.TurnLocal(baseline=baseline)
  changed = REWARDS.at[:, 0].set(jnp.array([3.0, 1, 4, 1]))
  before, after = (rule(_rollout(), rewards) for rewards in (REWARDS, changed))
  second = TURN == 1
  np.testing.assert_array_equal(before[second], after[second])
  assert not jnp.allclose(before, after)


@every_baseline
def test_rewards_of_a_second_attempt_do_not_reach_the_first(baseline):
  rule = credit.TurnLocal(baseline=baseline)
  changed = REWARDS.at[:, 1].set(jnp.array([3.0, 1, 4, 1]))
  before, after = (rule(_rollout(), rewards) for rewards in (REWARDS, changed))
  first = TURN == 0
  np.testing.assert_array_equal(before[first], after[first])
  assert not jnp.allclose(before, after)


@every_baseline
def test_without_a_discount_factor_the_two_horizons_agree(baseline):
  local = credit.TurnLocal(baseline=baseline)(_rollout(), REWARDS)
  going = credit.RewardToGo(baseline=baseline, discount=0.0)
  np.testing.assert_array_equal(going(_rollout(), REWARDS), local)


@pytest.mark.parametrize(
  'baseline', BASELINES[1:], ids=lambda baseline: type(baseline).__name__
)
def test_tied_rewards_give_no_credit(baseline):
  tied = jnp.broadcast_to(jnp.array([[0.1, 0.7]]), (4, 2))
  actual = credit.RewardToGo(baseline=baseline)(_rollout(), tied)
  np.testing.assert_array_equal(actual, jnp.zeros(TURN.shape))


@pytest.mark.parametrize(
  'baseline', BASELINES[2:], ids=lambda baseline: type(baseline).__name__
)
def test_groups_can_be_credited_one_by_one(baseline):
  rule = credit.TurnLocal(baseline=baseline)
  rewards = jax.random.normal(jax.random.key(0), (4, 2))
  parts = [
    rule(_rollout(TURN[rows]), rewards[rows])
    for rows in (slice(0, 2), slice(2, 4))
  ]
  np.testing.assert_array_equal(
    jnp.concatenate(parts), rule(_rollout(), rewards)
  )


def test_padding_slots_get_nothing_and_change_nothing():
  rule = credit.TurnLocal(baseline=credit.LeaveOneOut())
  wider = jnp.pad(TURN, ((0, 0), (2, 3)), constant_values=-1)
  actual = rule(_rollout(wider), REWARDS)
  np.testing.assert_array_equal(
    actual, jnp.pad(rule(_rollout(), REWARDS), ((0, 0), (2, 3)))
  )


def test_the_deviation_of_the_population_gives_larger_scores():
  sample, population = (
    credit.TurnLocal(baseline=credit.GroupNormalized(eps=0.0, ddof=ddof))
    for ddof in (1, 0)
  )
  np.testing.assert_allclose(
    sample(_rollout(), REWARDS),
    np.sqrt(1 / 2) * population(_rollout(), REWARDS),
    rtol=1e-6,
  )


def test_leave_one_out_of_single_samples_is_refused():
  rule = credit.TurnLocal(baseline=credit.LeaveOneOut())
  with pytest.raises(ValueError, match='needs at least 2'):
    rule(_rollout(group_size=1), REWARDS)


def test_no_credit_is_zero():
  actual = credit.NoCredit()(_rollout(), REWARDS)
  np.testing.assert_array_equal(actual, jnp.zeros(TURN.shape))


def test_numbers_are_data_and_choices_are_structure():
  traces = []

  @jax.jit
  def place(rule):
    traces.append(rule)
    return rule(_rollout(), REWARDS)

  def rule(baseline, discount):
    return credit.RewardToGo(baseline=baseline, discount=discount)

  half = place(rule(credit.NoBaseline(), 0.5))
  whole = place(rule(credit.NoBaseline(), 1.0))
  assert len(traces) == 1
  assert not jnp.allclose(half, whole)
  place(rule(credit.LeaveOneOut(), 1.0))
  assert len(traces) == 2
