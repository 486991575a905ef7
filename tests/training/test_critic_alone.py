"""Stages that train the critic and leave the policy as it is."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfimprove.algorithms import aggregates, critics, terms, value_loss
from selfimprove.algorithms.base import Term
from selfimprove.models.heads import make_critic
from selfimprove.training import step as steps
from selfimprove.training.finite import nonfinite_name
from selfimprove.training.state import Models, Optimizers, init_state
from tests.training import tiny

MODELS = Models(tiny.POLICY, make_critic(tiny.CONFIG))
ALONE = Optimizers(policy=None, critic=optax.sgd(1.0))


def _algorithm(fn):
  """Returns of random attempts are learned by the critic."""
  return dataclasses.replace(
    tiny.algorithm(needs=('values',)),
    derived={
      'returns': critics.ReturnTargets(credit=critics.GeneralizedAdvantage())
    },
    terms={'value': Term(fn=fn, aggregate=aggregates.TokenMean())},
  )


@functools.cache
def _step(fn):
  state = init_state(MODELS, ALONE, seed=0, with_reference=False)
  program = jax.jit(
    functools.partial(steps.step, MODELS, ALONE, plan=steps.Plan())
  )
  return state, *program(_algorithm(fn), state, tiny.prompts(4))


@pytest.mark.slow
def test_the_critic_learns_and_the_policy_stays_bit_for_bit():
  before, after, metrics, codes = _step(value_loss.ValueLoss(clip=jnp.inf))
  assert not np.any(codes)
  assert before.opt_state == after.opt_state == {}
  jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
  moved = jax.tree.map(
    lambda a, b: bool(np.any(a != b)), before.critic_params, after.critic_params
  )
  assert moved['value'] == {'kernel': True, 'bias': True}
  assert float(metrics['grad/critic_norm']) > 0


def test_nothing_is_said_of_a_policy_that_was_not_read():
  _, _, metrics, _ = _step(value_loss.ValueLoss(clip=jnp.inf))
  assert not [name for name in metrics if name.startswith('policy/')]
  assert 'grad/norm' not in metrics


def test_a_term_that_reads_the_policy_all_the_same_is_named():
  before, _, _, codes = _step(terms.PolicyGradient())
  found = nonfinite_name(
    codes, terms=['value'], params=steps.trained(before, ALONE)
  )
  assert found == 'loss term `value` is not finite (nan)'


def test_a_stage_without_any_optimizer_is_refused():
  with pytest.raises(ValueError, match='it trains nothing'):
    dataclasses.replace(tiny.stages()[0], optimizer=None)
