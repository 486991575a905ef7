from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selfimprove.models.heads import make_critic
from selfimprove.models.transformer import make_policy
from selfimprove.training.score import predictors, values
from selfimprove.training.state import Models, Optimizers, init_state
from tests.training import tiny

CRITIC = make_critic(tiny.CONFIG)
_values = jax.jit(functools.partial(values, CRITIC))
_predictors = jax.jit(functools.partial(predictors, CRITIC))


@functools.cache
def _rollout():
  params = tiny.POLICY.init(jax.random.key(0))
  return tiny.sampled(tiny.revise(), params, tiny.prompts(2), jax.random.key(1))


@pytest.mark.slow
@pytest.mark.parametrize('tied', [True, False])
def test_an_untrained_critic_says_nothing_and_has_no_head_for_tokens(tied):
  critic = make_critic(dataclasses.replace(tiny.CONFIG, tied_embeddings=tied))
  params = jax.jit(critic.init)(jax.random.key(0))
  assert set(params) == {'trunk', 'value'}
  assert 'head' not in params['trunk']
  axes = critic.logical_axes()
  is_names = lambda x: isinstance(x, tuple)  # noqa: E731
  jax.tree.map(
    lambda leaf, names: np.testing.assert_equal(leaf.ndim, len(names)),
    params,
    jax.tree.map(tuple, axes, is_leaf=is_names),
  )
  assert not np.any(values(critic, params, _rollout()))


def test_a_value_is_of_what_stands_before_its_token():
  params = jax.jit(CRITIC.init)(jax.random.key(0))
  kernel = jax.random.normal(jax.random.key(1), (tiny.CONFIG.embed_dim,))
  params['value'] = {'kernel': kernel, 'bias': jnp.float32(0.5)}
  rollout = _rollout()
  found = _values(params, rollout)
  start = rollout.prompt_slots
  assert not np.any(found[:, :start])
  hidden = _predictors(params, rollout)
  np.testing.assert_allclose(found[:, start:], hidden @ kernel + 0.5, rtol=1e-4)
  # Another last token changes no value; another first one all behind it.
  last = dataclasses.replace(rollout, tokens=rollout.tokens.at[:, -1].set(2))
  mask = np.asarray(rollout.loss_mask)  # Empty slots say anything.
  np.testing.assert_array_equal(_values(params, last)[mask], found[mask])
  first = dataclasses.replace(
    rollout, tokens=rollout.tokens.at[:, start].set(2)
  )
  moved = np.asarray(_values(params, first) != found)
  assert not np.any(moved[:, : start + 1])
  assert np.any(moved[:, start + 1 :])


def test_the_trunk_of_a_critic_begins_as_the_policy():
  models = Models(make_policy(tiny.CONFIG), CRITIC)
  both = Optimizers(optax.adam(1e-3), optax.adam(1e-3))
  state = init_state(models, both, seed=0, with_reference=False)
  trunk = state.critic_params['trunk']
  jax.tree.map(
    np.testing.assert_array_equal,
    trunk,
    {name: state.params[name] for name in trunk},
  )
  # Of another shape it begins by itself.
  other = make_critic(dataclasses.replace(tiny.CONFIG, mlp_dim=16))
  state = init_state(
    Models(models.policy, other), both, seed=0, with_reference=False
  )
  layers = state.critic_params['trunk']['layers']
  assert layers['mlp']['up']['kernel'].shape[-1] == 16
