"""Several updates of one batch."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfimprove.algorithms import (
  aggregates,
  credit,
  critics,
  terms,
  value_loss,
)
from selfimprove.algorithms.base import Term
from selfimprove.models.heads import make_critic
from selfimprove.training import microbatches
from selfimprove.training import step as steps
from selfimprove.training.objective import Credited, value_and_grad
from selfimprove.training.score import score
from selfimprove.training.state import Models, Optimizers, init_state
from tests.training import tiny

MODELS = Models(tiny.POLICY, make_critic(tiny.CONFIG))
OPTIMIZERS = Optimizers(optax.sgd(0.5))
PROMPTS = 8


def _algorithm(**changes):
  made = tiny.algorithm(baseline=credit.GroupNormalized())
  policy = Term(fn=terms.ClippedSurrogate(), aggregate=aggregates.TokenMean())
  return dataclasses.replace(
    made, **{'terms': {'policy': policy}, 'needs': ('old_logprobs',)} | changes
  )


@functools.cache
def _batch():
  state = init_state(MODELS, OPTIMIZERS, seed=3, with_reference=False)
  sample = jax.jit(functools.partial(steps.sample, MODELS))
  prompts = tiny.prompts(PROMPTS)
  rollout = sample(_algorithm(), state, prompts)
  rewards = jax.jit(tiny.Evenness())(rollout, prompts)
  return state, rollout, rewards


def _learn(plan, *, algorithm=None, optimizers=OPTIMIZERS):
  state, rollout, rewards = _batch()
  state = dataclasses.replace(
    init_state(MODELS, optimizers, seed=3, with_reference=False),
    params=state.params,
  )
  learn = jax.jit(functools.partial(steps.learn, MODELS, optimizers, plan=plan))
  return learn(algorithm or _algorithm(), state, rollout, rewards)


def _moved(state):
  return jax.tree.map(np.subtract, state.params, _batch()[0].params)


def _close(actual, wanted):
  size = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(wanted))
  assert size > 1e-3
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * size),
    actual,
    wanted,
  )


@pytest.mark.slow
def test_a_second_epoch_is_weighed_by_the_ratio_to_the_first_policy():
  once, _, _ = _learn(steps.Plan())
  twice, metrics, codes = _learn(steps.Plan(epochs=2))
  assert not np.any(codes)
  assert int(twice.step) == 1  # One batch, however many updates.
  # By hand: the second update from where the first ended, against the
  # log-probabilities from before it.
  state, rollout, rewards = _batch()
  algorithm = _algorithm()
  old = score(tiny.POLICY, state.params, rollout).logprobs
  samples = Credited(
    rollout=rollout,
    rewards=rewards,
    advantages=algorithm.credit(rollout, algorithm.combine(rewards), {}),
    weight=algorithm.label(rollout, rewards),
    streams={'old_logprobs': old},
  )
  _, grads = value_and_grad(
    MODELS, algorithm, {'policy': once.params}, {}, samples, microbatches=1
  )
  wanted = jax.tree.map(lambda p, g: p - 0.5 * g, once.params, grads['policy'])
  start = state.params
  _close(_moved(twice), jax.tree.map(np.subtract, wanted, start))
  assert set(metrics) >= {'loss/policy', 'rollout/tokens', 'grad/norm'}


@pytest.mark.slow
def test_mini_batches_use_every_group_once_in_an_epoch():
  # A linear loss and a vanishing rate: the order does not matter, and the mean
  # of the updates is the update of the whole.
  def plain(scale):
    policy = Term(
      fn=terms.PolicyGradient(), aggregate=aggregates.SequenceMean()
    )
    optimizers = Optimizers(optax.sgd(scale))
    return {'algorithm': _algorithm(terms={'policy': policy}, needs=())}, (
      optimizers
    )

  kwargs, small = plain(1e-3)
  _, quarter = plain(0.25e-3)
  whole, _, _ = _learn(steps.Plan(), optimizers=small, **kwargs)
  parts, _, _ = _learn(steps.Plan(minibatches=4), optimizers=quarter, **kwargs)
  size = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(_moved(whole)))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-2 * size),
    _moved(parts),
    _moved(whole),
  )


@pytest.mark.slow
def test_micro_batches_within_mini_batches_change_nothing():
  plan = steps.Plan(epochs=2, minibatches=2)
  whole, _, _ = _learn(plan)
  parts, _, _ = _learn(plan._replace(microbatches=2))
  _close(_moved(parts), _moved(whole))


@pytest.mark.slow
def test_a_value_that_is_not_finite_in_any_update_is_found():
  huge = Optimizers(optax.sgd(1e30))
  _, _, codes = _learn(steps.Plan(epochs=3), optimizers=huge)
  assert np.any(codes)


def test_mini_batches_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match='8 prompts per step do not divide into'):
    _learn(steps.Plan(minibatches=3))


def _ppo(**changes):
  rule = critics.GeneralizedAdvantage(gae_lambda=1.0)
  return _algorithm(
    **{
      'credit': rule,
      'derived': {'returns': critics.ReturnTargets(credit=rule)},
      'needs': ('old_logprobs', 'values'),
      'terms': {
        'policy': Term(
          fn=terms.ClippedSurrogate(), aggregate=aggregates.TokenMean()
        ),
        'value': Term(
          fn=value_loss.ValueLoss(clip=jnp.inf),
          aggregate=aggregates.TokenMean(),
        ),
      },
    }
    | changes
  )


@pytest.mark.slow
def test_a_critic_learns_the_returns_and_leaves_the_policy_alone():
  both = Optimizers(optax.sgd(0.5), optax.adam(1e-2))
  few, metrics, _ = _learn(steps.Plan(), algorithm=_ppo(), optimizers=both)
  many, later, codes = _learn(
    steps.Plan(epochs=30), algorithm=_ppo(), optimizers=both
  )
  assert not np.any(codes)
  assert later['loss/value'] < 0.7 * metrics['loss/value']
  # With values 0, λ = 1 and returns as advantages, the first update of the
  # policy is that of its reward alone.
  alone, _, _ = _learn(
    steps.Plan(),
    algorithm=_algorithm(
      credit=credit.RewardToGo(baseline=credit.NoBaseline())
    ),
  )
  _close(_moved(few), _moved(alone))
  del many


@pytest.mark.parametrize('parts', [1, 2, 4])
def test_what_is_split_is_joined_in_order(parts):
  rows = {'a': jnp.arange(24), 'b': jnp.arange(48).reshape(24, 2)}
  dealt = microbatches.split(rows, parts=parts, group_size=3)
  assert dealt['b'].shape == (parts, 24 // parts, 2)
  jax.tree.map(
    np.testing.assert_array_equal,
    microbatches.join(dealt, group_size=3),
    rows,
  )
  # Whole groups: neighbours stay neighbours.
  groups = np.asarray(dealt['a']).reshape(-1, 3)
  assert np.all(np.diff(groups, axis=1) == 1)
