from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from selfimprove import types
from selfimprove.training.streams import with_derived
from tests.training import tiny


@types.record
class Constant:
  """The same number on every token."""

  value: float

  def __call__(self, rollout, rewards, streams):
    del rewards, streams
    return jnp.full(rollout.tokens.shape, self.value)


@types.record
class Twice:
  """Twice what is called `one`."""

  def __call__(self, rollout, rewards, streams):
    return 2 * streams['one']


def _derived(**slots):
  algorithm = dataclasses.replace(tiny.algorithm(), **slots)
  params = tiny.POLICY.init(jax.random.key(0))
  rollout = tiny.revise()(
    tiny.POLICY, params, tiny.prompts(), jax.random.key(1)
  )
  found = with_derived(algorithm, rollout, jnp.zeros((16, 2)), {})
  return {name: float(np.unique(stream)[0]) for name, stream in found.items()}


def test_rewards_of_tokens_of_both_kinds_add_up():
  penalty = {'dense_rewards': Constant(value=-1.0)}
  assert _derived(derived=penalty) == {'dense_rewards': -1.0}
  reward = Constant(value=3.0)
  assert _derived(token_reward=reward) == {'dense_rewards': 3.0}
  both = _derived(token_reward=reward, derived=penalty)
  assert both == {'dense_rewards': 2.0}


def test_a_derived_stream_reads_those_before_it():
  found = _derived(
    derived={'one': Constant(value=1.5), 'two': Twice()},
    token_reward=Constant(value=1.0),
  )
  assert found == {'dense_rewards': 1.0, 'one': 1.5, 'two': 3.0}
