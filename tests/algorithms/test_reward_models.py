from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.algorithms import preferences, reward_models
from selfimprove.types import Experience, Scores
from tests.algorithms.rollouts import of_turns

# Rows of one attempt behind a prompt token, and rows of two steps and EOS.
ANSWERS = jnp.asarray([[-1, 0, 0, -1], [-1, 0, 0, 0]] * 2)
STEPS = jnp.asarray([[-1, 0, 0, 1, -1], [-1, 0, 1, 1, -1]])


def _experience(turn, rewards, *, group_size=1, **streams):
  turns = rewards.shape[1]
  rollout = of_turns(turn, ((1, turn.shape[1]),) * turns, group_size)
  return Experience(
    rollout=rollout,
    rewards=rewards,
    advantages=jnp.zeros(turn.shape),
    weight=jnp.ones(turn.shape[0]),
    streams=streams,
  )


def _random(shape, seed):
  return jax.random.normal(jax.random.key(seed), shape)


def _scores(logprobs=None, **streams):
  # A critic that is trained alone has no log-probabilities beside it.
  blank = (
    jnp.full(next(iter(streams.values())).shape, jnp.nan) if streams else 0
  )
  logprobs = blank if logprobs is None else logprobs
  return Scores(logprobs=logprobs, streams=streams)


def _steps_case():
  rewards = jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
  experience = _experience(STEPS, rewards)
  term = reward_models.JudgeSteps()
  return (
    lambda x: term(experience, _scores(values=x)),
    _random(STEPS.shape, 0),
    experience,
  )


def _pairs_case():
  rewards = jnp.asarray([[1.0], [0.0], [0.0], [1.0]])
  experience = _experience(ANSWERS, rewards, group_size=2)
  term = preferences.RankPairs()
  return (
    lambda x: term(experience, _scores(values=x)),
    _random(ANSWERS.shape, 1),
    experience,
  )


def _outcome_case():
  rewards = jnp.asarray([[1.0], [0.0], [0.0], [1.0]])
  experience = _experience(
    ANSWERS, rewards, ref_logprobs=_random(ANSWERS.shape, 3)
  )
  term = reward_models.JudgeOutcome(beta=0.7)
  return (
    lambda x: term(experience, _scores(logprobs=x)),
    _random(ANSWERS.shape, 2),
    experience,
  )


CASES = {'steps': _steps_case, 'pairs': _pairs_case, 'outcome': _outcome_case}
each_case = pytest.mark.parametrize('case', CASES.values(), ids=CASES)


@each_case
def test_gradients_agree_with_finite_differences(case):
  loss, x, _ = case()
  total = lambda x: jnp.sum(loss(x))  # noqa: E731
  gradient = np.asarray(jax.grad(total)(x))
  assert np.any(gradient)
  for index in np.ndindex(x.shape):
    step = jnp.zeros_like(x).at[index].set(1e-2)
    found = float(total(x + step) - total(x - step)) / 2e-2
    np.testing.assert_allclose(gradient[index], found, atol=2e-3)


@each_case
def test_losses_lie_on_tokens_that_the_terms_may_see(case):
  loss, x, experience = case()
  found = np.asarray(loss(x))
  assert not np.any(found[~np.asarray(experience.rollout.loss_mask)])
  assert np.all(found >= 0)


@pytest.mark.parametrize('name', ['pairs', 'outcome'])
def test_what_the_policy_did_not_write_gets_no_gradient(name):
  # A step is judged behind it, where the policy wrote nothing perhaps.
  loss, x, experience = CASES[name]()
  written = np.asarray(experience.rollout.loss_mask)
  x = jnp.where(written, x, 7.0)
  gradient = np.asarray(jax.grad(lambda x: jnp.sum(loss(x)))(x))
  np.testing.assert_array_equal(gradient[~written], 0)
  np.testing.assert_array_equal(np.any(gradient != 0, axis=1), True)


def test_a_step_is_judged_by_the_value_behind_it():
  loss, x, _ = _steps_case()
  judged = np.zeros(STEPS.shape, bool)
  # Slots behind the last tokens of the two steps of each row.
  judged[0, [3, 4]] = judged[1, [2, 4]] = True
  gradient = np.asarray(jax.grad(lambda x: jnp.sum(loss(x)))(x))
  np.testing.assert_array_equal(gradient != 0, judged)
  # d/dz of the cross-entropy is sigmoid(z) - y.
  labels = np.asarray([1.0, 0.0, 0.0, 1.0])
  wanted = jax.nn.sigmoid(x[judged]) - labels
  np.testing.assert_allclose(gradient[judged], wanted, rtol=1e-5)


def test_empty_slots_change_no_loss_of_steps():
  loss, x, experience = _steps_case()
  wide = jnp.pad(STEPS, ((0, 0), (2, 1)), constant_values=-1)
  more = _experience(wide, experience.rewards)
  values = jnp.pad(x, ((0, 0), (2, 1)), constant_values=5.0)
  found = reward_models.JudgeSteps()(more, _scores(values=values))
  np.testing.assert_allclose(jnp.sum(found), jnp.sum(loss(x)), rtol=1e-6)


def test_the_outcome_is_judged_by_the_sum_over_its_tokens():
  loss, x, experience = _outcome_case()
  ratio = np.where(
    experience.rollout.loss_mask, x - experience.stream('ref_logprobs'), 0
  )
  odds = 0.7 * ratio.sum(axis=1)
  signs = np.asarray([1, -1, -1, 1])  # Of right and of wrong answers.
  wanted = np.log1p(np.exp(-signs * odds))
  np.testing.assert_allclose(loss(x).sum(axis=1), wanted, rtol=1e-5)


def test_the_reference_of_an_outcome_gets_no_gradient():
  _, x, experience = _outcome_case()
  term = reward_models.JudgeOutcome()

  def total(reference):
    told = dataclasses.replace(experience, streams={'ref_logprobs': reference})
    return jnp.sum(term(told, _scores(logprobs=x)))

  gradient = jax.grad(total)(experience.stream('ref_logprobs'))
  np.testing.assert_array_equal(gradient, jnp.zeros_like(x))


def test_both_rows_of_a_pair_carry_its_loss_in_either_order():
  loss, x, _ = _pairs_case()
  rows = np.asarray(loss(x).sum(axis=1))
  last = np.asarray(x)[np.arange(4), [2, 3, 2, 3]]
  wanted = np.log1p(np.exp([last[1] - last[0], last[2] - last[3]]))
  np.testing.assert_allclose(rows, np.repeat(wanted, 2), rtol=1e-5)
