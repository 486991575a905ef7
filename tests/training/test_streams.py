from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
  """Twice what has that name."""

  name: str = types.static()

  def __call__(self, rollout, rewards, streams):
    return 2 * streams[self.name]


@jax.jit
def _made(algorithm, rollout):
  return with_derived(algorithm, rollout, jnp.zeros((16, 2)), {})


def _derived(**slots):
  algorithm = dataclasses.replace(tiny.algorithm(), **slots)
  params = tiny.POLICY.init(jax.random.key(0))
  rollout = tiny.sampled(
    tiny.revise(), params, tiny.prompts(), jax.random.key(1)
  )
  found = _made(algorithm, rollout)
  return {name: float(np.unique(stream)[0]) for name, stream in found.items()}


@pytest.mark.slow
def test_rewards_of_tokens_of_both_kinds_add_up():
  penalty = {'dense_rewards': Constant(value=-1.0)}
  assert _derived(derived=penalty) == {'dense_rewards': -1.0}
  reward = Constant(value=3.0)
  assert _derived(token_reward=reward) == {'dense_rewards': 3.0}
  both = _derived(token_reward=reward, derived=penalty)
  assert both == {'dense_rewards': 2.0}


def test_a_derived_stream_reads_those_before_it():
  found = _derived(
    derived={
      'also': Twice(name='dense_rewards'),
      'dense_rewards': Constant(value=0.5),
      'then': Twice(name='also'),
    },
    token_reward=Constant(value=1.0),
  )
  assert found == {'dense_rewards': 1.5, 'also': 3.0, 'then': 6.0}
