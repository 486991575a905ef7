"""Fillers of slots held to what they estimate, by sums over all sequences.

What `tests/ops/test_unbiased*.py` show of the functions, here of the records
that an algorithm is made of: the right streams, in the right places.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.algorithms import (
  corrections,
  credit,
  critics,
  guide,
  ratios,
  terms,
)
from selfimprove.rewards import dense
from selfimprove.types import Experience, Scores
from tests.algorithms import rollouts
from tests.ops import enumerable, exact

KL_WEIGHT = 0.3
FIRST_REWARDS = np.array([1.0, -0.5, 0.25])


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def _behind_a_prompt(values, *, prompt=-9.0):
  """Per-token values with something in the column of the prompt."""
  return jnp.pad(jnp.asarray(values), ((0, 0), (1, 0)), constant_values=prompt)


def _rollout(sampler):
  """A row for each sequence, drawn from `sampler` behind a hint."""
  rows, columns = sampler.shape
  turn = np.concatenate([np.full((rows, 1), -1), np.zeros(sampler.shape)], 1)
  made = rollouts.of_turns(jnp.asarray(turn, jnp.int32), ((1, columns + 1),), 1)
  return dataclasses.replace(
    made,
    off_context=jnp.ones(rows, bool),
    sampler_logprobs=_behind_a_prompt(sampler),
  )


# Ratios --------------------------------------------------------------------


def _log_ratios():
  """What `Guided` corrects with, for each of the 27 sequences."""
  ours, hinted = map(enumerable.token_logprobs, (exact.POLICY, exact.HINTED))
  rollout = _rollout(hinted)
  experience = Experience(
    rollout=rollout,
    rewards=jnp.zeros((27, 1)),
    advantages=jnp.zeros((27, 4)),
    weight=jnp.ones(27),
    streams={},
  )
  scores = Scores(logprobs=_behind_a_prompt(ours), streams={})
  behind = ratios.TokenRatio(behaviour=ratios.Sampler())
  return behind(experience, scores)


def test_ratios_to_the_hinted_context_turn_its_means_into_hint_free_ones():
  chances = enumerable.probabilities(jnp.asarray(exact.HINTED))
  log_ratio = _log_ratios()
  means = jnp.sum(chances[:, None] * jnp.exp(log_ratio), axis=0)
  np.testing.assert_allclose(means, jnp.ones(4), rtol=1e-12)
  product = jnp.exp(jnp.sum(log_ratio, axis=1))
  np.testing.assert_allclose(
    jnp.sum(chances * product * exact.REWARDS),
    exact.expected_reward(exact.POLICY),
    rtol=1e-12,
  )
  # The hint helps: without ratios the mean is another one.
  hinted = jnp.sum(chances * exact.REWARDS)
  assert hinted - exact.expected_reward(exact.POLICY) > 0.3


def _ascent_of_one_token(term, sampler, old):
  """Expected step of answers of one token, drawn from logits `sampler`."""
  drawn = jax.nn.log_softmax(jnp.asarray(sampler))
  rollout = _rollout(drawn[:, None])
  experience = Experience(
    rollout=rollout,
    rewards=jnp.asarray(FIRST_REWARDS)[:, None],
    advantages=_behind_a_prompt(FIRST_REWARDS[:, None]),
    weight=jnp.ones(3),
    streams={
      'old_logprobs': _behind_a_prompt(jax.nn.log_softmax(old)[:, None])
    },
  )

  def loss(logits):
    logprobs = _behind_a_prompt(jax.nn.log_softmax(logits)[:, None])
    values = term(experience, Scores(logprobs=logprobs, streams={}))
    return jnp.sum(jnp.exp(drawn) * values[:, 1])

  return -jax.grad(loss)(jnp.asarray(exact.POLICY[0]))


def _exact_of_one_token():
  return jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) * FIRST_REWARDS))(
    jnp.asarray(exact.POLICY[0])
  )


@pytest.mark.parametrize(
  'correction',
  [corrections.Raw(), corrections.Clipped(**exact.UNBOUNDED)],
  ids=lambda correction: type(correction).__name__,
)
def test_hinted_answers_of_one_token_give_the_gradient_without_the_hint(
  correction,
):
  # What the policy was before the update has no part in it.
  term = guide.Guided(fn=terms.PolicyGradient(), correction=correction)
  actual = _ascent_of_one_token(term, exact.HINTED[0], exact.OTHER[0])
  exact.assert_equal(actual, _exact_of_one_token())


def test_uncorrected_hinted_answers_are_biased():
  term = guide.Guided(
    fn=terms.PolicyGradient(), correction=corrections.Uncorrected()
  )
  actual = _ascent_of_one_token(term, exact.HINTED[0], exact.OTHER[0])
  assert exact.relative_error(actual, _exact_of_one_token()) > 0.1


@pytest.mark.parametrize(
  'term',
  [
    terms.ClippedSurrogate(**exact.UNBOUNDED),
    terms.ClippedSurrogate(ratio=ratios.SequenceRatio(), **exact.UNBOUNDED),
    terms.ClippedWeight(**exact.UNBOUNDED),
  ],
  ids=['token', 'sequence', 'cispo'],
)
def test_stale_answers_of_one_token_give_the_gradient_of_fresh_ones(term):
  stale = exact.stale_policy(0.7)[0]
  actual = _ascent_of_one_token(term, stale, stale)
  exact.assert_equal(actual, _exact_of_one_token())


# Divergence in the reward --------------------------------------------------


def _regularised():
  def objective(table):
    kl = enumerable.sequence_kl(table, jnp.asarray(exact.OTHER))
    return exact.expected_reward(table) - KL_WEIGHT * kl

  return jax.grad(objective)(jnp.asarray(exact.POLICY))


@pytest.mark.parametrize(
  'rule',
  [
    credit.TurnLocal(baseline=credit.NoBaseline()),
    credit.RewardToGo(baseline=credit.NoBaseline()),
    critics.GeneralizedAdvantage(gae_lambda=1.0),
  ],
  ids=lambda rule: type(rule).__name__,
)
def test_the_penalty_in_the_reward_has_the_gradient_of_the_divergence(rule):
  ours, others = map(enumerable.token_logprobs, (exact.POLICY, exact.OTHER))
  rollout = _rollout(ours)
  rewards = jnp.asarray(exact.REWARDS)[:, None]
  streams = {
    'old_logprobs': _behind_a_prompt(ours),
    'ref_logprobs': _behind_a_prompt(others, prompt=3.0),
    'values': jnp.zeros((27, 4)),
  }
  penalty = dense.ReferencePenalty(weight=KL_WEIGHT)(rollout, rewards, streams)
  found = rule(rollout, rewards, {**streams, 'dense_rewards': penalty})
  actual = exact.expected_ascent(
    lambda table: -enumerable.token_logprobs(table) * found[:, 1:]
  )
  exact.assert_equal(actual, _regularised())
