"""Networks with another head than the one that writes tokens."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove.models.config import TransformerConfig
from selfimprove.models.transformer import make_policy
from selfimprove.types import Critic, Params, Policy


def make_critic(config: TransformerConfig) -> Critic:
  """The trunk of a decoder with a head that says one number per token.

  Args:
    config: shape of the trunk.

  Returns:
    A `Critic`; its parameters are `{'trunk', 'value'}`, the trunk having the
    names of a policy without a head. It says 0 until it is trained.
  """
  policy = make_policy(config)
  return Critic(
    init=functools.partial(_init, policy, config),
    follow=lambda params, *inputs: policy.follow(params['trunk'], *inputs),
    value=_value,
    logical_axes=functools.partial(_logical_axes, policy),
  )


def _init(policy: Policy, config: TransformerConfig, key: jax.Array) -> Params:
  trunk = policy.init(key)
  stored = jnp.dtype(config.param_dtype)
  return {
    'trunk': _without_head(trunk),
    'value': {
      'kernel': jnp.zeros((config.embed_dim,), stored),
      'bias': jnp.zeros((), stored),
    },
  }


def _logical_axes(policy: Policy) -> Any:
  return {
    'trunk': _without_head(policy.logical_axes()),
    'value': {'kernel': ('embed',), 'bias': ()},
  }


def _without_head(params: Params) -> Params:
  return {name: tree for name, tree in params.items() if name != 'head'}


def _value(
  params: Params, hidden: Float[Array, '... d']
) -> Float[Array, '...']:
  """The head, in f32."""
  kernel = params['value']['kernel'].astype(jnp.float32)
  said = hidden.astype(jnp.float32) @ kernel
  return said + params['value']['bias'].astype(jnp.float32)
