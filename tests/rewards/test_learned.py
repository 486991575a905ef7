from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.rewards import learned
from tests.algorithms.rollouts import of_turns
from tests.rollout import tiny

PROMPTS = tiny.prompts()  # Nobody reads them.
STEP, END = 5, 1


def read(params, rollout):
  """What is said of a token: an entry of the parameters."""
  return params[rollout.tokens]


PARAMS = jnp.asarray([0.0, -3.0, 0.5, 2.0, -1.0, 7.0])


def _rollout(tokens, turn, *, finished=None):
  turn = jnp.asarray(turn)
  turns = int(turn.max()) + 1
  made = of_turns(turn, ((0, turn.shape[1]),) * turns, 1)
  made = dataclasses.replace(made, tokens=jnp.asarray(tokens))
  if finished is None:
    return made
  return dataclasses.replace(made, finished=jnp.asarray(finished))


def test_the_score_of_an_attempt_is_what_stands_at_its_last_token():
  rollout = _rollout(
    [[5, 3, 2, 5, 4, 0], [5, 2, 5, 3, 5, 5]],
    [[-1, 0, 0, -1, 1, -1], [-1, 0, -1, 1, -1, -1]],
  )
  reward = learned.OutcomeReward(read=read, params=PARAMS)
  assert reward(rollout, PROMPTS).tolist() == [[0.5, -1.0], [0.5, 2.0]]


def test_no_gradient_reaches_the_parameters_of_a_reward():
  rollout = _rollout([[3, 2]], [[0, 0]])

  def total(params):
    reward = learned.OutcomeReward(read=read, params=params)
    return jnp.sum(reward(rollout, PROMPTS))

  assert float(total(PARAMS)) == 0.5
  np.testing.assert_array_equal(jax.grad(total)(PARAMS), np.zeros(6))


def test_rewards_that_differ_in_parameters_share_a_program():
  one, two = (
    learned.OutcomeReward(read=read, params=params)
    for params in (PARAMS, PARAMS + 1)
  )
  assert jax.tree.structure(one) == jax.tree.structure(two)
  np.testing.assert_array_equal(jax.tree.leaves(two)[0], PARAMS + 1)


def test_steps_are_over_at_their_end_or_before_eos():
  rollout = _rollout(
    [
      [9, 3, STEP, 2, 3, END, 0],  # The last step goes without its end.
      [9, 3, STEP, 2, STEP, END, 0],  # It has one: EOS ends no other.
      [9, 3, STEP, 2, 3, 3, STEP],  # Cut off: nothing follows to be read.
    ],
    [[-1, 0, 0, 0, 0, 0, -1], [-1, 0, 0, 0, 0, 0, -1], [-1, *[0] * 6]],
    finished=[[True], [True], [False]],
  )
  found = learned.last_of_steps(rollout, (STEP,))
  slots = [np.flatnonzero(row).tolist() for row in np.asarray(found)]
  assert slots == [[2, 4], [2, 4], [2]]


def _two_steps():
  """Behind the steps stand 3 and EOS: log-odds of 2 and of -3."""
  return _rollout([[3, STEP, 3, 4, END]], [[0] * 5])


def test_a_process_reward_is_the_chance_that_no_step_is_wrong():
  reward = learned.ProcessReward(read=read, params=PARAMS, step_ends=(STEP,))
  chances = jax.nn.sigmoid(jnp.asarray([2.0, -3.0]))
  np.testing.assert_allclose(
    reward(_two_steps(), PROMPTS), [[chances[0] * chances[1]]], rtol=1e-6
  )


def test_step_rewards_stand_on_the_last_tokens_of_steps_and_sum_up():
  tokens = learned.StepRewards(
    read=read, params=PARAMS, step_ends=(STEP,), baseline=0.25
  )
  rollout = _two_steps()
  found = tokens(rollout, jnp.zeros((1, 1)), {})
  chances = jax.nn.sigmoid(jnp.asarray([2.0, -3.0])) - 0.25
  np.testing.assert_allclose(
    found, [[0, chances[0], 0, chances[1], 0]], rtol=1e-6
  )
  whole = learned.Summed(tokens=tokens)(rollout, PROMPTS)
  np.testing.assert_allclose(whole, [[chances[0] + chances[1]]], rtol=1e-6)


def test_padding_and_gaps_change_no_learned_reward():
  rollout = _two_steps()
  wide = _rollout([[4, 4, 3, STEP, 3, 4, END, 2]], [[-1, -1, *[0] * 5, -1]])
  for reward in (
    learned.OutcomeReward(read=read, params=PARAMS),
    learned.ProcessReward(read=read, params=PARAMS, step_ends=(STEP,)),
  ):
    np.testing.assert_array_equal(
      reward(rollout, PROMPTS), reward(wide, PROMPTS)
    )


def test_implicit_rewards_telescope_to_the_log_ratio_of_the_answer():
  rollout = _rollout([[3, 2, 4, 1]], [[-1, 0, 0, 0]])
  tokens = learned.ImplicitRewards(
    read=read, params=PARAMS, ref_params=PARAMS / 2, beta=0.1
  )
  found = tokens(rollout, jnp.zeros((1, 1)), {})
  assert found[0, 0] == 0
  np.testing.assert_allclose(found[0, 1:], [0.025, -0.05, -0.15], rtol=1e-6)
  whole = learned.Summed(tokens=tokens)(rollout, PROMPTS)
  np.testing.assert_allclose(whole, [[-0.175]], rtol=1e-6)
  same = dataclasses.replace(tokens, ref_params=PARAMS)
  assert not np.any(same(rollout, jnp.zeros((1, 1)), {}))


def _scores(value):
  return learned.OutcomeReward(read=read, params=jnp.full(6, value))


def test_normalised_and_clipped_rewards_are_those_of_the_definition():
  rollout = _two_steps()
  unit = learned.Normalized(reward=_scores(7.0), mean=1.0, deviation=2.0)
  assert unit(rollout, PROMPTS).tolist() == [[3.0]]
  for low, high, wanted in ((-1, 1, 1), (4, 5, 4), (0, 9, 3)):
    clipped = learned.Clipped(reward=unit, low=low, high=high)
    assert clipped(rollout, PROMPTS).tolist() == [[wanted]]


@pytest.mark.parametrize(('reduce', 'wanted'), [(jnp.mean, 2), (jnp.min, -1)])
def test_an_ensemble_reduces_its_members_in_any_order(reduce, wanted):
  members = (_scores(5.0), _scores(2.0), _scores(-1.0))
  for rewards in (members, members[::-1]):
    ensemble = learned.Ensemble(rewards=rewards, reduce=reduce)
    assert ensemble(_two_steps(), PROMPTS).tolist() == [[wanted]]
