from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.algorithms import credit, terms
from selfimprove.training import streams
from selfimprove.training.objective import Credited, value_and_grad
from selfimprove.training.score import score
from selfimprove.training.state import Models
from selfimprove.types import Experience, Policy, Scores
from tests.training import tiny

_sample = jax.jit(
  lambda rollout, params, prompts, key: rollout(
    tiny.POLICY, params, prompts, key
  )
)


@functools.cache
def _setup():
  """Parameters, others, and eight conversations with ragged attempts."""
  params, other = (tiny.POLICY.init(jax.random.key(i)) for i in (0, 1))
  rollout = _sample(tiny.revise(), params, tiny.prompts(2), jax.random.key(2))
  assert len(set(np.asarray(rollout.loss_mask.sum(axis=1)))) > 1
  return params, other, rollout


def _credited(algorithm, rollout, rewards):
  shaped = algorithm.combine(rewards)
  return Credited(
    rollout=rollout,
    rewards=rewards,
    advantages=algorithm.credit(rollout, shaped, {}),
    weight=algorithm.label(rollout, rewards),
    streams={},
  )


def _gradient(policy, algorithm, params, ref, samples, *, microbatches=1):
  """Metrics and gradient of a policy, with what it says before the update."""
  models = Models(policy)
  found = streams.before_update(
    models,
    {'policy': params},
    ref,
    samples.rollout,
    names=[name for name in ('ref_logprobs',) if name in algorithm.needs],
    parts=1,
  )
  metrics, grads = value_and_grad(
    models,
    algorithm,
    {'policy': params},
    ref,
    dataclasses.replace(samples, streams=found),
    microbatches=microbatches,
  )
  return metrics, grads['policy']


_differentiate = jax.jit(functools.partial(_gradient, tiny.POLICY))


def _rewards(rollout, seed=0):
  rng = np.random.default_rng(seed)
  shape = (rollout.tokens.shape[0], 2)
  return jnp.asarray(rng.integers(0, 2, shape), jnp.float32)


def _largest(tree):
  return max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(tree))


_KL = {
  'exact': {'kl_fn': terms.ExactKL(), 'needs': ('exact_kl',)},
  'k3': {'kl_fn': terms.ReferenceKL(), 'needs': ('ref_logprobs',)},
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', _KL)
def test_stage_one_begins_without_kl_and_without_its_gradient(kind):
  params, other, rollout = _setup()
  algorithm = tiny.algorithm(**_KL[kind])
  # Tied rewards: what is left of the gradient is that of the KL term.
  samples = _credited(algorithm, rollout, jnp.ones((8, 2)))
  metrics, grads = _differentiate(algorithm, params, params, samples)
  assert abs(float(metrics['loss/kl'])) < 1e-5  # Rounding, ten times.
  assert _largest(grads) < 1e-5
  # Against another reference both are there, so that zero means something.
  metrics, grads = _differentiate(algorithm, params, other, samples)
  assert float(metrics['loss/kl']) > 1e-2
  assert _largest(grads) > 1e-2


def _bigrams():
  """A policy whose arithmetic is in the type of its parameters."""

  def follow(params, prompts, tokens, positions):
    del positions
    return params['hidden'][prompts[0]], params['hidden'][tokens]

  return Policy(
    init=lambda key: {
      'hidden': jax.random.normal(key, (7, 3)),
      'out': jax.random.normal(jax.random.fold_in(key, 1), (3, 7)),
    },
    apply=None,
    follow=follow,
    unembed=lambda params, hidden: jnp.tanh(hidden) @ params['out'],
    fork=None,
    decode_params=lambda params: params,
    logical_axes=lambda: None,
  )


def _double(tree):
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


@pytest.mark.parametrize('kind', _KL)
def test_the_first_kl_and_its_gradient_are_zero_but_for_rounding(kind):
  _, _, rollout = _setup()
  policy = _bigrams()
  with jax.enable_x64(True):
    algorithm = tiny.algorithm(**_KL[kind])
    samples = _credited(algorithm, rollout, jnp.ones((8, 2)))
    params = _double(policy.init(jax.random.key(0)))
    metrics, grads = jax.jit(
      lambda params: _gradient(policy, algorithm, params, params, samples)
    )(params)
    assert metrics['loss/kl'].dtype == jnp.float64
    assert abs(float(metrics['loss/kl'])) < 1e-12
    assert _largest(grads) < 1e-12


@pytest.mark.parametrize('kind', _KL)
@pytest.mark.parametrize('stage', [tiny.algorithm, tiny.stage_two])
def test_the_gradient_is_that_of_finite_differences(stage, kind):
  _, _, rollout = _setup()
  policy, step = _bigrams(), 1e-6
  with jax.enable_x64(True):
    params, ref, direction = (
      _double(policy.init(jax.random.key(i))) for i in range(3)
    )
    algorithm = stage(**_KL[kind])
    samples = _credited(algorithm, rollout, _rewards(rollout))

    @jax.jit
    def at(distance):
      moved = jax.tree.map(lambda p, d: p + distance * d, params, direction)
      metrics, grads = _gradient(policy, algorithm, moved, ref, samples)
      return metrics['loss/total'], grads

    (high, _), (low, _), (_, grads) = at(step), at(-step), at(0 * step)
    slope = sum(
      jnp.vdot(g, d)
      for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction))
    )
    difference = (high - low) / (2 * step)
  assert abs(float(slope)) > 1e-3
  np.testing.assert_allclose(slope, difference, rtol=1e-6)


def test_alpha_zero_is_plain_multi_turn_reinforce():
  params, _, rollout = _setup()
  rewards = _rewards(rollout)
  algorithm = tiny.stage_two(alpha=0.0, kl=(0.0, 0.0))
  samples = _credited(algorithm, rollout, rewards)
  _, grads = _differentiate(algorithm, params, params, samples)
  # By hand: each turn's reward minus the mean of the three other ones of its
  # group of four, times the log-probability of that turn.
  groups = np.asarray(rewards).reshape(2, 4, 2)
  others = (groups.sum(axis=1, keepdims=True) - groups) / 3
  advantage = jnp.asarray((groups - others).reshape(8, 2))

  def reinforce(params):
    logprobs = score(tiny.POLICY, params, rollout).logprobs
    turns = [
      jnp.sum(jnp.where(rollout.turn == n, logprobs, 0.0), axis=1)
      for n in range(2)
    ]
    return -jnp.mean(jnp.sum(jnp.stack(turns, axis=1) * advantage, axis=1))

  wanted = jax.jit(jax.grad(reinforce))(params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, wanted
  )
  # The bonus is what makes the difference.
  bonus = tiny.stage_two(alpha=10.0, kl=(0.0, 0.0))
  _, shaped = _differentiate(
    bonus, params, params, _credited(bonus, rollout, rewards)
  )
  assert _largest(jax.tree.map(jnp.subtract, shaped, wanted)) > 1e-2


@pytest.mark.parametrize(
  'baseline',
  [
    credit.LeaveOneOut(),
    credit.GroupCentered(),
    credit.GroupNormalized(),
    credit.BatchBaseline(),
  ],
  ids=lambda baseline: type(baseline).__name__,
)
@pytest.mark.parametrize('value', [0.0, 1.0])
def test_tied_rewards_give_no_policy_gradient(baseline, value):
  params, other, rollout = _setup()
  algorithm = tiny.stage_two(kl=(0.0, 0.0), baseline=baseline)
  tied = jnp.full((8, 2), value)
  samples = _credited(algorithm, rollout, tied)
  _, grads = _differentiate(algorithm, params, other, samples)
  assert _largest(grads) == 0
  untied = tied.at[0].set(1 - value)
  samples = _credited(algorithm, rollout, untied)
  assert _largest(_differentiate(algorithm, params, other, samples)[1]) > 0


def test_a_constant_added_to_a_group_changes_no_bit():
  # Halves and quarters are exact, so the leave-one-out sums are as well.
  params, _, rollout = _setup()
  algorithm = dataclasses.replace(
    tiny.stage_two(alpha=0.0, kl=(0.0, 0.0)),
    credit=credit.TurnLocal(baseline=credit.GroupCentered()),
  )
  rewards = _rewards(rollout)
  shifted = rewards.at[:4].add(2.0)
  grads = [
    _differentiate(algorithm, params, params, _credited(algorithm, rollout, r))
    for r in (rewards, shifted)
  ]
  jax.tree.map(np.testing.assert_array_equal, grads[0][1], grads[1][1])


def test_stage_one_gives_the_first_attempt_no_reward_gradient():
  params, _, rollout = _setup()
  algorithm = tiny.algorithm(kl=(0.0, 0.0))
  samples = _credited(algorithm, rollout, _rewards(rollout))
  term = algorithm.terms['policy']
  experience = Experience(
    rollout=rollout,
    rewards=samples.rewards,
    advantages=samples.advantages,
    weight=samples.weight,
    streams={},
  )

  def loss(logprobs):
    values = term.fn(experience, Scores(logprobs=logprobs, streams={}))
    return term.aggregate(values, rollout.loss_mask, samples.weight).mean()

  gradient = jax.grad(loss)(score(tiny.POLICY, params, rollout).logprobs)
  assert not np.any(np.asarray(gradient)[np.asarray(rollout.turn) == 0])
  assert np.any(np.asarray(gradient)[np.asarray(rollout.turn) == 1])
  assert not np.any(np.asarray(gradient)[~np.asarray(rollout.loss_mask)])


def test_the_first_reward_changes_nothing_in_stage_one():
  params, other, rollout = _setup()
  rewards = _rewards(rollout)
  perturbed = rewards.at[:, 0].set(jnp.arange(8, dtype=jnp.float32))
  grads = {
    stage.__name__: [
      _differentiate(
        algorithm, params, other, _credited(algorithm, rollout, r)
      )[1]
      for r in (rewards, perturbed)
    ]
    for stage in (tiny.algorithm, tiny.stage_two)
    for algorithm in [stage()]
  }
  jax.tree.map(np.testing.assert_array_equal, *grads['algorithm'])
  changed = jax.tree.map(jnp.subtract, *grads['stage_two'])
  assert _largest(changed) > 1e-3


def _logprobs_by_turn(rollout, params):
  logprobs = np.asarray(score(tiny.POLICY, params, rollout).logprobs)
  return [logprobs[np.asarray(rollout.turn) == turn] for turn in range(2)]


def test_the_instruction_is_read_by_the_second_attempt_alone():
  params, _, rollout = _setup()
  slot = rollout.spans[0][1]
  other = dataclasses.replace(rollout, tokens=rollout.tokens.at[:, slot].set(5))
  before, after = (_logprobs_by_turn(r, params) for r in (rollout, other))
  np.testing.assert_array_equal(before[0], after[0])
  assert np.all(before[1] != after[1])


def test_the_first_attempt_does_not_know_the_second():
  params, _, rollout = _setup()
  start, stop = rollout.spans[1]
  other = dataclasses.replace(
    rollout, tokens=rollout.tokens.at[:, start:stop].set(5)
  )
  before, after = (_logprobs_by_turn(r, params) for r in (rollout, other))
  np.testing.assert_array_equal(before[0], after[0])
  assert np.any(before[1] != after[1])


def test_dropped_rows_do_not_count():
  params, other, rollout = _setup()
  algorithm = tiny.stage_two()
  samples = _credited(algorithm, rollout, _rewards(rollout))
  half = dataclasses.replace(samples, weight=jnp.asarray([1.0] * 4 + [0.0] * 4))
  first = jax.tree.map(lambda leaf: leaf[:4], samples)
  _, masked = _differentiate(algorithm, params, other, half)
  _, alone = _differentiate(algorithm, params, other, first)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), masked, alone
  )


def test_dropping_every_row_is_no_loss_and_no_nan():
  params, other, rollout = _setup()
  algorithm = tiny.stage_two()
  samples = _credited(algorithm, rollout, _rewards(rollout))
  none = dataclasses.replace(samples, weight=jnp.zeros(8))
  metrics, grads = _differentiate(algorithm, params, other, none)
  assert float(metrics['loss/total']) == 0
  assert _largest(grads) == 0


def test_the_trainer_agrees_with_the_sampler():
  params, _, rollout = _setup()
  algorithm = tiny.algorithm()
  samples = _credited(algorithm, rollout, _rewards(rollout))
  metrics, _ = _differentiate(algorithm, params, params, samples)
  assert float(metrics['policy/sampler_gap']) < 1e-5
  other = tiny.POLICY.init(jax.random.key(9))
  metrics, _ = _differentiate(algorithm, other, params, samples)
  assert float(metrics['policy/sampler_gap']) > 1e-2


def test_micro_batches_that_do_not_divide_are_refused():
  params, _, rollout = _setup()
  algorithm = tiny.algorithm()
  samples = _credited(algorithm, rollout, _rewards(rollout))
  with pytest.raises(ValueError, match='2 prompts per step do not divide'):
    _gradient(tiny.POLICY, algorithm, params, params, samples, microbatches=3)


@pytest.mark.parametrize('weight', [(1.0,), (1.0, 1.0, 1.0)])
def test_a_term_that_does_not_fit_the_attempts_is_refused(weight):
  params, other, rollout = _setup()
  algorithm = tiny.algorithm(kl=weight)
  samples = _credited(algorithm, rollout, jnp.ones((8, 2)))
  with pytest.raises(
    ValueError, match=r"Term 'kl' .* for 2 attempts; give one"
  ):
    _differentiate(algorithm, params, other, samples)
