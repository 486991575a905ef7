from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.algorithms import (
  aggregates,
  base,
  corrections,
  guide,
  nft,
  preferences,
  ratios,
  terms,
  value_loss,
)
from selfimprove.ops import divergences, losses
from selfimprove.types import Experience, Scores
from tests.algorithms import rollouts

ROWS, SLOTS = 4, 6
TURN = jnp.array(
  [
    [-1, 0, 0, -1, 1, 1],
    [-1, 0, -1, -1, 1, -1],
    [-1, 0, 0, -1, 1, 1],
    [-1, 0, 0, -1, 1, -1],
  ]
)
MASK = TURN >= 0
TERMS = {
  'policy_gradient': terms.PolicyGradient(),
  'clipped_surrogate': terms.ClippedSurrogate(),
  'imitation': terms.Imitation(),
  'k2': terms.ReferenceKL(estimator=divergences.k2),
  'k3': terms.ReferenceKL(),
  'exact_kl': terms.ExactKL(),
  'entropy_bonus': terms.EntropyBonus(),
}
SURROGATE = terms.ClippedSurrogate()
# What they are is in `test_identities` and in the tests of `ops`.
FURTHER = {
  'dual_clip': terms.DualClip(fn=SURROGATE),
  'cispo': terms.ClippedWeight(),
  'gspo': terms.ClippedSurrogate(ratio=ratios.SequenceRatio()),
  'sampler_ratio': terms.ClippedSurrogate(
    ratio=ratios.TokenRatio(behaviour=ratios.Sampler())
  ),
  'nft': nft.NegativeAware(floor=0.1),
  'uncorrected': guide.Guided(
    fn=SURROGATE, correction=corrections.Uncorrected()
  ),
  'raw': guide.Guided(fn=SURROGATE, correction=corrections.Raw()),
  'clipped': guide.Guided(fn=SURROGATE, correction=corrections.Clipped()),
  'shaped': guide.Guided(fn=SURROGATE, correction=corrections.Shaped()),
  'value': value_loss.ValueLoss(),
  'dpo': preferences.DirectPreference(),
  'pairs': preferences.RankPairs(),
}
EVERY = TERMS | FURTHER
every_term = pytest.mark.parametrize('name', EVERY)


def _normal(seed):
  return jax.random.normal(jax.random.key(seed), (ROWS, SLOTS))


def _experience():
  # Old log-probabilities near the new ones: some ratios inside the clip range.
  rollout = rollouts.of_turns(TURN, ((1, 3), (4, 6)), 2)
  rollout = dataclasses.replace(
    rollout,
    off_context=jnp.arange(ROWS) < 2,
    sampler_logprobs=jnp.where(MASK, _normal(1) + 0.3 * _normal(6), 0),
  )
  return Experience(
    rollout=rollout,
    rewards=jnp.asarray([[1, 0], [0, 1], [1, 1], [0, 0]], jnp.float32),
    advantages=jnp.where(MASK, _normal(0), 0),
    weight=jnp.ones(ROWS),
    streams={
      'old_logprobs': _normal(1) + 0.2 * _normal(2),
      'ref_logprobs': _normal(3),
      'values': _normal(7),
      'returns': _normal(8),
      'half_ratio': jnp.full((ROWS, SLOTS), 0.7),
    },
  )


def _scores():
  return Scores(
    logprobs=_normal(1),
    streams={
      'exact_kl': _normal(4) ** 2,
      'entropy': _normal(5) ** 2,
      'values': _normal(9),
    },
  )


def _total(term, experience, scores, mask=MASK):
  values = term(experience, scores)
  return aggregates.TokenMean()(values, mask, experience.weight).total


def _replace_streams(record, **streams):
  return dataclasses.replace(record, streams={**record.streams, **streams})


def test_terms_are_their_functions_of_the_declared_streams():
  experience, scores = _experience(), _scores()
  logprobs, credit = scores.logprobs, experience.advantages
  old_logprobs = experience.stream('old_logprobs')
  ref_logprobs = experience.stream('ref_logprobs')
  expected = {
    'policy_gradient': losses.reinforce(logprobs, credit),
    'clipped_surrogate': losses.clipped_surrogate(
      logprobs, old_logprobs, credit, clip_low=0.2, clip_high=0.2
    ),
    'imitation': -logprobs,
    'k2': divergences.k2(logprobs, ref_logprobs),
    'k3': divergences.k3(logprobs, ref_logprobs),
    'exact_kl': scores.stream('exact_kl'),
    'entropy_bonus': -scores.stream('entropy'),
  }
  assert expected.keys() == TERMS.keys()
  for name, term in TERMS.items():
    np.testing.assert_allclose(
      term(experience, scores)[MASK], expected[name][MASK], err_msg=name
    )


@every_term
def test_no_gradient_leaves_the_loss_mask(name):
  gradients = jax.grad(lambda s: _total(EVERY[name], _experience(), s))(
    _scores()
  )
  reached = [np.asarray(leaf) for leaf in jax.tree.leaves(gradients)]
  assert any(np.any(leaf != 0) for leaf in reached)
  for leaf in reached:
    np.testing.assert_array_equal(leaf[~MASK], 0)


@every_term
def test_what_is_not_finite_outside_the_loss_mask_is_harmless(name):
  def gradients(fill):
    scores = jax.tree.map(lambda x: jnp.where(MASK, x, fill), _scores())
    streams = {
      stream: jnp.where(MASK, x, fill)
      for stream, x in _experience().streams.items()
    }
    experience = _replace_streams(_experience(), **streams)
    return jax.grad(lambda s: _total(EVERY[name], experience, s))(scores)

  expected = gradients(0.0)
  for fill in (jnp.nan, jnp.inf, -jnp.inf, -1e4):
    jax.tree.map(np.testing.assert_array_equal, gradients(fill), expected)


@every_term
def test_a_term_that_is_no_vehicle_has_the_slope_of_its_value(name):
  if name in ('policy_gradient', 'cispo', 'gspo', 'nft', 'uncorrected'):
    pytest.skip('its value is not what its gradient is of')
  direction = jax.tree.map(lambda x: jnp.where(MASK, _normal(11), 0), _scores())
  with jax.enable_x64(True):
    wide = lambda tree: jax.tree.map(  # noqa: E731
      lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree
    )
    experience, at, along = (
      wide(_experience()),
      wide(_scores()),
      wide(direction),
    )

    def value(distance):
      moved = jax.tree.map(lambda x, d: x + distance * d, at, along)
      return _total(EVERY[name], experience, moved)

    slope, step = jax.grad(value)(0.0), 1e-6
    difference = (value(step) - value(-step)) / (2 * step)
  assert abs(float(slope)) > 1e-4
  np.testing.assert_allclose(slope, difference, rtol=1e-5)


@every_term
def test_no_gradient_reaches_the_experience(name):
  experience = _experience()

  def total(advantages, streams):
    changed = dataclasses.replace(
      experience, advantages=advantages, streams=streams
    )
    return _total(EVERY[name], changed, _scores())

  gradients = jax.grad(total, (0, 1))(
    experience.advantages, dict(experience.streams)
  )
  for leaf in jax.tree.leaves(gradients):
    np.testing.assert_array_equal(leaf, jnp.zeros((ROWS, SLOTS)))


@pytest.mark.parametrize('name', ['policy_gradient', 'clipped_surrogate'])
def test_without_advantages_there_is_no_policy_gradient(name):
  tied = dataclasses.replace(_experience(), advantages=jnp.zeros((ROWS, SLOTS)))
  gradients = jax.grad(lambda s: _total(EVERY[name], tied, s))(_scores())
  np.testing.assert_array_equal(gradients.logprobs, jnp.zeros((ROWS, SLOTS)))


@pytest.mark.parametrize('name', ['k2', 'k3'])
def test_at_the_reference_divergence_and_gradient_are_zero(name):
  scores = _scores()
  experience = _replace_streams(_experience(), ref_logprobs=scores.logprobs)
  value, gradients = jax.value_and_grad(
    lambda s: _total(EVERY[name], experience, s)
  )(scores)
  assert value == 0
  np.testing.assert_array_equal(gradients.logprobs, jnp.zeros((ROWS, SLOTS)))


@every_term
def test_a_term_of_one_turn_does_not_touch_the_other(name):
  if name in ('dpo', 'pairs'):
    pytest.skip('is about whole rows')
  gradients = jax.grad(
    lambda s: _total(EVERY[name], _experience(), s, mask=TURN == 0)
  )(_scores())
  for leaf in jax.tree.leaves(gradients):
    np.testing.assert_array_equal(leaf[TURN != 0], 0)


@every_term
def test_micro_batches_add_up_to_the_batch(name):
  def total(rows):
    experience, scores = jax.tree.map(
      lambda x: x[rows], (_experience(), _scores())
    )
    return _total(EVERY[name], experience, scores, mask=MASK[rows])

  halves = total(slice(0, 2)) + total(slice(2, 4))
  np.testing.assert_allclose(halves, total(slice(0, 4)), rtol=1e-5)


def test_clip_bounds_are_data():
  traces = []

  @jax.jit
  def total(term):
    traces.append(term)
    return _total(term, _experience(), _scores())

  narrow = total(terms.ClippedSurrogate(clip_low=0.01, clip_high=0.01))
  wide = total(terms.ClippedSurrogate(clip_low=0.9, clip_high=9.0))
  assert len(traces) == 1
  assert wide < narrow  # Clipping only ever raises the loss.


def test_another_estimator_is_another_program():
  leaves, structure = jax.tree.flatten(terms.ReferenceKL())
  assert not leaves
  assert structure != jax.tree.structure(
    terms.ReferenceKL(estimator=divergences.k2)
  )


def test_k1_as_a_loss_is_refused_however_it_is_wrapped():
  @functools.wraps(divergences.k1)
  def configured(*args):
    return divergences.k1(*args)

  for estimator in (divergences.k1, configured):
    with pytest.raises(ValueError, match='anchors nothing; use k2 or k3'):
      terms.ReferenceKL(estimator=estimator)


@pytest.mark.parametrize(
  ('name', 'stream'),
  [
    ('clipped_surrogate', 'old_logprobs'),
    ('k3', 'ref_logprobs'),
    ('exact_kl', 'exact_kl'),
    ('entropy_bonus', 'entropy'),
  ],
)
def test_a_stream_that_was_not_declared_is_named(name, stream):
  experience = dataclasses.replace(_experience(), streams={})
  scores = dataclasses.replace(_scores(), streams={})
  with pytest.raises(KeyError, match=f"Add '{stream}' to `Algorithm.needs`"):
    EVERY[name](experience, scores)


def _term(**how):
  fn, aggregate = terms.PolicyGradient(), aggregates.SequenceMean()
  return {'kl': base.Term(fn=fn, aggregate=aggregate, **how)}


@pytest.mark.parametrize(
  'how',
  [
    {'weight': (1.0,)},
    {'weight': (1.0, 1.0, 1.0)},
    {'weight': jnp.ones((2, 1))},
    {'turns': ()},
    {'turns': (1, 2)},
    {'turns': (-1,)},
  ],
)
def test_terms_of_other_attempts_are_refused(how):
  with pytest.raises(ValueError, match=r"Term 'kl' has .* attempts"):
    terms.check_terms(_term(**how), attempts=2)


@pytest.mark.parametrize(
  'how', [{}, {'weight': (1.0, 2.0)}, {'turns': (1,)}, {'turns': (0, 1)}]
)
def test_terms_of_the_attempts_that_there_are_pass(how):
  terms.check_terms(_term(**how), attempts=2)
