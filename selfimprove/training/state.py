"""Everything that a run must remember to go on exactly."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, UInt32

from selfimprove import partitioning, types
from selfimprove.ops.keys import named_key
from selfimprove.types import Params, Policy


@types.record
class TrainState:
  """The state of training; a pytree that checkpoints hold whole.

  Attributes:
    step: updates done, over all stages.
    position: prompts consumed, over all stages.
    params: of the policy being trained.
    opt_state: of the current stage's optimizer.
    ref_params: of the reference policy; an empty tree if no stage needs one.
    seed: key data of the run; keys are derived from it and `step`.
  """

  step: Int[Array, '']
  position: Int[Array, '']
  params: Params
  opt_state: Any
  ref_params: Params
  seed: UInt32[Array, '2']


def init_state(
  policy: Policy,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  with_reference: object,
  params: Params | None = None,
) -> TrainState:
  """The state before the first step.

  Args:
    policy: whose parameters are initialised.
    optimizer: of the first stage.
    seed: of the run.
    with_reference: whether any stage compares with a reference policy.
    params: parameters to begin with; None initialises them from the seed.

  Returns:
    State with the reference equal to the initial policy.
  """
  key = jax.random.key(seed)
  params = policy.init(named_key(key, 'params')) if params is None else params
  return TrainState(
    step=jnp.int32(0),
    position=jnp.int32(0),
    params=params,
    opt_state=optimizer.init(params),
    ref_params=jax.tree.map(jnp.copy, params) if with_reference else {},
    seed=jax.random.key_data(key),
  )


def abstract_params(policy: Policy, mesh: Mesh) -> Params:
  """Shapes, dtypes and shardings of a policy's parameters.

  Args:
    policy: whose parameters.
    mesh: where they live.

  Returns:
    A tree of `jax.ShapeDtypeStruct`s.
  """
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    partitioning.shardings(policy.logical_axes(), shapes, mesh),
  )


def abstract_state(
  policy: Policy,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  with_reference: object,
) -> TrainState:
  """Shapes, dtypes and shardings of the train state.

  What an optimizer keeps per parameter is laid out like that parameter.

  Args:
    policy: the model.
    optimizer: of the stage.
    mesh: where the state lives.
    with_reference: whether it holds reference parameters.

  Returns:
    A `TrainState` of `jax.ShapeDtypeStruct`s.
  """
  shapes = jax.eval_shape(
    lambda: init_state(policy, optimizer, seed=0, with_reference=with_reference)
  )
  whole = partitioning.replicated(mesh)
  of_params = partitioning.shardings(policy.logical_axes(), shapes.params, mesh)
  initialiser: Any = optimizer
  shardings = dataclasses.replace(
    jax.tree.map(lambda _: whole, shapes),
    params=of_params,
    opt_state=optax.tree.map_params(
      initialiser,
      lambda _, sharding: sharding,
      shapes.opt_state,
      of_params,
      transform_non_params=lambda _: whole,
    ),
    ref_params=of_params if with_reference else {},
  )
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def stream_key(seed: UInt32[Array, '2'], name: str) -> jax.Array:
  """The key of one named use of randomness of a run.

  Args:
    seed: key data of the run.
    name: of the use.

  Returns:
    A key that no other name yields.
  """
  return named_key(jax.random.wrap_key_data(seed), name)
