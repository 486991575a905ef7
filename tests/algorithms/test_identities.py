"""Algorithms that are each other's special cases, as gradients of log-probs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.algorithms import (
  aggregates,
  corrections,
  credit,
  critics,
  guide,
  nft,
  preferences,
  ratios,
  terms,
  tree,
)
from selfimprove.ops import negative_aware, prefix_tree
from selfimprove.rewards import labels
from selfimprove.types import Experience, Scores
from tests.algorithms import rollouts

GROUP, ROWS, PROMPT = 4, 12, 2
LENGTHS = (3, 5, 1, 4, 2, 2, 5, 3, 4, 1, 5, 2)
SLOTS = PROMPT + max(LENGTHS)


def _rollout(*, tokens=None, lengths=LENGTHS, hinted=None):
  slots = np.arange(SLOTS)[None, :] - PROMPT
  inside = (slots >= 0) & (slots < np.asarray(lengths)[:, None])
  turn = jnp.where(jnp.asarray(inside), 0, -1)
  made = rollouts.of_turns(turn, ((PROMPT, SLOTS),), GROUP)
  if tokens is not None:
    made = dataclasses.replace(made, tokens=tokens)
  if hinted is not None:
    made = dataclasses.replace(made, off_context=jnp.asarray(hinted))
  return made


def _normal(seed, *, scale=1.0):
  return scale * jax.random.normal(jax.random.key(seed), (ROWS, SLOTS))


# The first group has one success of four, the second two, the third is tied.
REWARDS = jnp.asarray([1, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1], jnp.float32)[
  :, None
]
LOGPROBS = -jnp.abs(_normal(0)) - 0.1


def _gradient(
  term,
  *,
  advantages=None,
  rollout=None,
  aggregate=None,
  old=LOGPROBS,
  label=None,
  rewards=REWARDS,
  **streams,
):
  """Gradient of a term's undivided total at the log-probabilities."""
  rollout = rollout or _rollout()
  aggregate = aggregate or aggregates.SequenceMean()
  label = label or labels.KeepAll()
  if advantages is None:
    advantages = jnp.zeros((ROWS, SLOTS))
  experience = Experience(
    rollout=rollout,
    rewards=rewards,
    advantages=advantages,
    weight=label(rollout, rewards),
    streams={'old_logprobs': old, **streams},
  )

  def total(logprobs):
    values = term(experience, Scores(logprobs=logprobs, streams={}))
    return aggregate(values, rollout.loss_mask, experience.weight).total

  return np.asarray(jax.grad(total)(LOGPROBS))


def _same(actual, wanted, *, rtol=1e-5):
  assert np.max(np.abs(wanted)) > 1e-2
  np.testing.assert_allclose(actual, wanted, rtol=rtol, atol=1e-6)


def _placed(baseline):
  return credit.TurnLocal(baseline=baseline)(_rollout(), REWARDS)


@pytest.mark.parametrize(
  ('weight', 'baseline'),
  [
    (negative_aware.failure_weight, credit.GroupCentered()),
    (
      negative_aware.deviation_weight,
      credit.GroupNormalized(eps=0.0, ddof=0),
    ),
  ],
)
@pytest.mark.parametrize(
  'aggregate',
  [aggregates.SequenceMean(), aggregates.TokenMean()],
)
def test_nft_on_its_own_samples_is_grpo(weight, baseline, aggregate):
  # The tied group has no gradient in either: in NFT because it is dropped.
  keep = labels.DropTiedGroups()
  actual = _gradient(
    nft.NegativeAware(prompt_weight=weight), aggregate=aggregate, label=keep
  )
  wanted = _gradient(
    terms.ClippedSurrogate(),
    advantages=_placed(baseline),
    aggregate=aggregate,
    label=keep,
  )
  _same(actual, wanted)


def test_nft_without_wrong_answers_is_rejection_fine_tuning():
  # At any distance from the old policy.
  positives = nft.NegativeAware(
    neg_weight=0.0, prompt_weight=negative_aware.uniform_weight
  )
  actual = _gradient(positives, old=LOGPROBS + _normal(1, scale=0.3))
  wanted = _gradient(terms.Imitation(), label=labels.KeepCorrect())
  _same(actual, wanted)


def test_tempo_is_grpo_on_tokens_at_which_no_group_branches():
  tokens = jnp.asarray(np.random.default_rng(0).integers(2, 4, (ROWS, SLOTS)))
  tokens = tokens.at[0::GROUP, PROMPT].set(7)  # Some first tokens are alone.
  rollout = _rollout(tokens=tokens)
  flat = credit.TurnLocal(baseline=credit.GroupNormalized())
  actual = tree.PrefixTree()(rollout, REWARDS)
  wanted = flat(rollout, REWARDS)
  # Behind its first token the first row of a group is by itself.
  np.testing.assert_allclose(
    actual[0::GROUP, PROMPT + 1 :], wanted[0::GROUP, PROMPT + 1 :], rtol=1e-5
  )
  assert float(jnp.max(jnp.abs(actual - wanted))) > 0.1
  # Along a row the steps add up to the row's own centred reward, in its units.
  lengths = jnp.asarray(LENGTHS)[:, None]
  np.testing.assert_allclose(
    jnp.sum(actual, axis=1, keepdims=True)[:4],
    ((lengths + 1) * wanted[:, PROMPT : PROMPT + 1])[:4],
    rtol=1e-4,
  )


def test_the_tree_of_a_second_attempt_begins_with_the_first():
  # First 5, 5, 8, then 6, 7, 6: the two that write 6 are on different branches.
  rollout = rollouts.of_turns(
    jnp.asarray([[0, -1, 1]] * 3), ((0, 1), (2, 3)), 3
  )
  tokens = jnp.asarray([[5, 9, 6], [5, 9, 7], [8, 9, 6]])
  rollout = dataclasses.replace(rollout, tokens=tokens)
  rewards = jnp.asarray([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
  rule = tree.PrefixTree(advantages=prefix_tree.tree_centered)
  # Over the mean, plus the step: of 5 it is 1 - 2/3, of 8 0 - 2/3; behind 5
  # 1 - 1/2 and 0 - 1/2, and behind 8 nothing branches.
  first = [1 / 3 + 1 / 3, 1 / 3 + 1 / 3, -2 / 3 - 2 / 3]
  second = [1 / 3 + 1 / 2, -2 / 3 - 1 / 2, 1 / 3]
  np.testing.assert_allclose(
    rule(rollout, rewards),
    np.stack([first, np.zeros(3), second], axis=1),
    rtol=1e-5,
    atol=1e-6,
  )


def test_gspo_is_grpo_for_answers_of_one_token():
  rollout, old = _rollout(lengths=(1,) * ROWS), LOGPROBS + _normal(1, scale=0.2)
  advantages = credit.TurnLocal(baseline=credit.GroupNormalized())(
    rollout, REWARDS
  )
  actual, wanted = (
    _gradient(
      terms.ClippedSurrogate(ratio=ratio),
      advantages=advantages,
      rollout=rollout,
      old=old,
    )
    for ratio in (ratios.SequenceRatio(), ratios.TokenRatio())
  )
  _same(actual, wanted)


_CORRECTIONS = {
  'none': corrections.Uncorrected(),
  'raw': corrections.Raw(),
  'clipped': corrections.Clipped(),
  'shaped': corrections.Shaped(),
}


@pytest.mark.parametrize('name', _CORRECTIONS)
def test_guide_without_hinted_rows_is_grpo(name):
  advantages = _placed(credit.GroupNormalized())
  old = LOGPROBS + _normal(1, scale=0.3)
  guided = guide.Guided(
    fn=terms.ClippedSurrogate(), correction=_CORRECTIONS[name]
  )
  actual = _gradient(
    guided,
    advantages=advantages,
    old=old,
    half_ratio=jnp.ones((ROWS, SLOTS)),
  )
  wanted = _gradient(terms.ClippedSurrogate(), advantages=advantages, old=old)
  np.testing.assert_array_equal(actual, wanted)


def _hinted(name, **changes):
  rollout = _rollout(hinted=np.arange(ROWS) < GROUP)
  sampler = LOGPROBS + _normal(2, scale=0.5)
  rollout = dataclasses.replace(rollout, sampler_logprobs=sampler)
  guided = guide.Guided(
    fn=terms.ClippedSurrogate(), correction=_CORRECTIONS[name]
  )
  return sampler, _gradient(
    guided,
    advantages=_placed(credit.GroupNormalized()),
    rollout=dataclasses.replace(rollout, **changes),
    half_ratio=jnp.full((ROWS, SLOTS), 0.7),
  )


def test_a_hinted_row_is_weighed_by_its_ratio_to_the_hinted_context():
  sampler, actual = _hinted('raw')
  ratio = np.exp(np.asarray(LOGPROBS - sampler))
  plain = _hinted('none')[1]
  _same(actual[:GROUP], (ratio * plain)[:GROUP])
  np.testing.assert_array_equal(actual[GROUP:], plain[GROUP:])
  shaped = _hinted('shaped')[1]
  weight = 0.7 * ratio / (ratio + 0.7) ** 2
  _same(shaped[:GROUP], (weight * plain)[:GROUP])


def test_an_empty_hint_changes_nothing_but_the_clip():
  # The contexts are the same, so that every ratio is 1.
  _, actual = _hinted('raw', sampler_logprobs=LOGPROBS)
  wanted = _gradient(
    terms.ClippedSurrogate(), advantages=_placed(credit.GroupNormalized())
  )
  _same(actual, wanted)


def test_gamma_is_a_quantile_of_hinted_tokens_alone():
  rollout = _rollout(hinted=np.arange(ROWS) < GROUP)
  ratio = jnp.where(rollout.off_context, 2.0, 50.0)
  ratio = jnp.broadcast_to(ratio[:, None], (ROWS, SLOTS))
  half = guide.HalfRatio()(rollout, REWARDS, {'old_logprobs': jnp.log(ratio)})
  np.testing.assert_allclose(half, 2.0, rtol=1e-6)


def test_gae_at_lambda_one_is_return_minus_value():
  rollout, values = _rollout(), _normal(3)
  rule = critics.GeneralizedAdvantage(gae_lambda=1.0)
  actual = rule(rollout, REWARDS, {'values': values})
  wanted = jnp.where(rollout.loss_mask, REWARDS - values, 0)
  np.testing.assert_allclose(actual, wanted, atol=1e-5)
  targets = critics.ReturnTargets(credit=rule)(
    rollout, REWARDS, {'values': values}
  )
  np.testing.assert_allclose(
    targets, jnp.where(rollout.loss_mask, REWARDS, 0), atol=1e-5
  )


def test_a_critic_that_was_not_asked_is_missed():
  with pytest.raises(KeyError, match=r"'values'.*critic_optimizer"):
    critics.GeneralizedAdvantage()(_rollout(), REWARDS)


def test_dpo_on_a_group_is_its_definition_on_best_and_worst():
  rewards = jnp.asarray([0, 3, 1, 2] * 3, jnp.float32)[:, None]
  reference = LOGPROBS + _normal(4, scale=0.5)
  rollout, beta = _rollout(), 0.3
  actual = _gradient(
    preferences.DirectPreference(beta=beta),
    rewards=rewards,
    label=labels.KeepBestAndWorst(),
    ref_logprobs=reference,
  )

  def definition(logprobs):
    ratio = jnp.where(rollout.loss_mask, logprobs - reference, 0).sum(axis=1)
    gap = ratio[1::GROUP] - ratio[0::GROUP]
    # The aggregate counts both rows of a pair.
    return -2 * jnp.sum(jax.nn.log_sigmoid(beta * gap))

  _same(actual, np.asarray(jax.grad(definition)(LOGPROBS)))


def test_a_pair_is_the_first_best_and_the_first_worst_of_a_group():
  keep = labels.KeepBestAndWorst()(_rollout(), REWARDS)
  assert keep.tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
