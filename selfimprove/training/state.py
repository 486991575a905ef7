"""Everything that a run must remember to go on exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, UInt32

from selfimprove import partitioning, types
from selfimprove.ops.keys import named_key
from selfimprove.types import Adapters, Critic, Params, Policy


class Models(NamedTuple):
  """The networks of a run.

  Attributes:
    policy: the language model.
    critic: the value function or reward model; None if no stage needs one.
    adapters: what is trained of the policy; None if that is all of it.
    offload: what is kept in the memory of the host between uses, of
      `OFFLOADED`.
  """

  policy: Policy
  critic: Critic | None = None
  adapters: Adapters | None = None
  offload: tuple[str, ...] = ()


OFFLOADED = ('optimizer', 'reference')
"""What may be in the memory of the host: the states of optimizers, and the
parameters of the reference policy."""


def check_offload(offload: Sequence[str]) -> tuple[str, ...]:
  """What is kept in the memory of the host.

  Args:
    offload: names.

  Returns:
    The names.

  Raises:
    ValueError: one is not of `OFFLOADED`.
  """
  for name in offload:
    if name not in OFFLOADED:
      raise ValueError(
        f'offload has {name!r}; give some of {", ".join(OFFLOADED)}, as in '
        "('optimizer',)."
      )
  return tuple(offload)


def fetched(models: Models, name: str, tree: Any) -> Any:
  """Arrays that may be kept in the memory of the host, ready to compute with.

  Args:
    models: say what is kept there.
    name: of `OFFLOADED`, what the arrays are.
    tree: of arrays.

  Returns:
    The same arrays on the devices.
  """
  return _moved(models, name, tree, jax.memory.Space.Device)


def put_away(models: Models, name: str, tree: Any) -> Any:
  """Arrays where they are kept between uses: undoes `fetched`.

  Args:
    models: say what is kept in the memory of the host.
    name: of `OFFLOADED`, what the arrays are.
    tree: of arrays.

  Returns:
    The same arrays.
  """
  return _moved(models, name, tree, jax.memory.Space.Host)


def _moved(models: Models, name: str, tree: Any, space: Any) -> Any:
  if name not in models.offload:
    return tree
  return jax.tree.map(
    lambda x: jax.device_put(x, space) if _is_large(x) else x, tree
  )


def _is_large(x: Any) -> bool:
  """Whether an array is worth moving; counters stay where they are."""
  return x.ndim > 0


class Optimizers(NamedTuple):
  """What updates the networks.

  Attributes:
    policy: of the language model; None where only the critic is trained.
    critic: of the critic; None where none is trained.
  """

  policy: optax.GradientTransformation | None
  critic: optax.GradientTransformation | None = None


@types.record
class TrainState:
  """The state of training; a pytree that checkpoints hold but for `frozen`.

  Attributes:
    step: updates done, over all stages.
    position: prompts consumed, over all stages.
    params: of the policy being trained; with adapters those alone
      (`policy_params` has all).
    opt_state: of the current stage's optimizer; an empty tree if it has none.
    ref_params: of the reference policy, like `params`; an empty tree if no
      stage needs one, or if with adapters it is their base.
    frozen: the base of adapters, which a run that goes on reads from where it
      came from; an empty tree if all parameters are trained.
    critic_params: of the critic; an empty tree if no stage needs one.
    critic_opt_state: of the optimizer of the critic.
    buffer: judged groups that wait for a step (`collect.Buffer`); an empty tree
      where batches are not collected.
    seed: key data of the run; keys are derived from it and `step`.
  """

  step: Int[Array, '']
  position: Int[Array, '']
  params: Params
  opt_state: Any
  ref_params: Params
  frozen: Params
  critic_params: Params
  critic_opt_state: Any
  buffer: Any
  seed: UInt32[Array, '2']


def init_state(
  models: Models,
  optimizers: Optimizers,
  *,
  seed: int,
  with_reference: object,
  params: Params | None = None,
  adapters: Params | None = None,
) -> TrainState:
  """The state before the first step.

  Args:
    models: whose parameters are initialised.
    optimizers: of the first stage.
    seed: of the run.
    with_reference: whether it holds parameters of a reference policy.
    params: of the policy to begin with; None initialises them from the seed.
    adapters: to begin with, where `models` has adapters; None likewise.

  Returns:
    State with the reference equal to the initial policy, without `adapters`,
    and a critic whose trunk is theirs where it has the same shape.
  """
  key = jax.random.key(seed)
  if params is None:
    params = models.policy.init(named_key(key, 'params'))
  critic_params = {}
  if models.critic is not None:
    critic_params = _init_critic(
      models.critic, params, named_key(key, 'critic')
    )
  frozen, reference = {}, params
  if models.adapters is not None:
    reference = models.adapters.init(named_key(key, 'adapters'))
    frozen, params = params, reference if adapters is None else adapters
  return TrainState(
    step=jnp.int32(0),
    position=jnp.int32(0),
    params=params,
    opt_state=init_optimizer(optimizers.policy, params),
    ref_params=jax.tree.map(jnp.copy, reference) if with_reference else {},
    frozen=frozen,
    critic_params=critic_params,
    critic_opt_state=init_optimizer(optimizers.critic, critic_params),
    buffer={},
    seed=jax.random.key_data(key),
  )


def joined(models: Models, frozen: Params, params: Params) -> Params:
  """The parameters of a policy of which perhaps only adapters are trained.

  Args:
    models: say whether there are adapters.
    frozen: their base.
    params: adapters, `{}` for none; else all parameters.

  Returns:
    Parameters for the functions of `models.policy`.
  """
  if models.adapters is None:
    return params
  return models.adapters.join(frozen, params)


def policy_params(models: Models, state: TrainState) -> Params:
  """The parameters of the policy being trained.

  Args:
    models: the networks.
    state: of the run.

  Returns:
    Parameters for the functions of `models.policy`.
  """
  return joined(models, state.frozen, state.params)


def reference_params(models: Models, state: TrainState) -> Params:
  """The parameters of the reference policy.

  Args:
    models: the networks.
    state: of the run.

  Returns:
    Parameters for the functions of `models.policy`; with adapters their base
    itself, if no stage has taken another.
  """
  ref_params = fetched(models, 'reference', state.ref_params)
  return joined(models, state.frozen, ref_params)


def init_optimizer(
  optimizer: optax.GradientTransformation | None, params: Params
) -> Any:
  """The state of an optimizer before its first update.

  Args:
    optimizer: of the policy or of the critic in a stage.
    params: of that network.

  Returns:
    The state; an empty tree if the stage does not train the network.
  """
  return {} if optimizer is None else optimizer.init(params)


def _init_critic(critic: Critic, params: Params, key: jax.Array) -> Params:
  """Parameters of the critic, with the trunk of the policy where it fits."""
  made = critic.init(key)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
  trunk = {name: params[name] for name in made['trunk'] if name in params}
  if shapes(trunk) == shapes(made['trunk']):
    made = {**made, 'trunk': jax.tree.map(jnp.copy, trunk)}
  return made


def abstract_params(policy: Policy | Critic | Adapters, mesh: Mesh) -> Params:
  """Shapes, dtypes and shardings of a network's parameters.

  Args:
    policy: whose parameters, or a critic, or adapters.
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
  models: Models,
  optimizers: Optimizers,
  mesh: Mesh,
  *,
  with_reference: object,
) -> TrainState:
  """Shapes, dtypes and shardings of the train state, with an empty buffer.

  What an optimizer keeps per parameter is laid out like that parameter.

  Args:
    models: the networks.
    optimizers: of the stage.
    mesh: where the state lives.
    with_reference: whether it holds parameters of a reference policy.

  Returns:
    A `TrainState` of `jax.ShapeDtypeStruct`s.
  """
  shapes = jax.eval_shape(
    lambda: init_state(
      models, optimizers, seed=0, with_reference=with_reference
    )
  )
  whole = partitioning.replicated(mesh)
  axes = (models.adapters or models.policy).logical_axes()
  of_params = partitioning.shardings(axes, shapes.params, mesh)
  of_frozen: Any = {}
  if models.adapters is not None:
    axes = models.policy.logical_axes()
    of_frozen = partitioning.shardings(axes, shapes.frozen, mesh)
  of_critic: Any = {}
  if models.critic is not None:
    axes = models.critic.logical_axes()
    of_critic = partitioning.shardings(axes, shapes.critic_params, mesh)
  shardings = dataclasses.replace(
    jax.tree.map(lambda _: whole, shapes),
    params=of_params,
    opt_state=_like_params(
      optimizers.policy, shapes.opt_state, of_params, whole
    ),
    ref_params=of_params if with_reference else {},
    frozen=of_frozen,
    critic_params=of_critic,
    critic_opt_state=_like_params(
      optimizers.critic, shapes.critic_opt_state, of_critic, whole
    ),
  )
  shardings = _in_host_memory(models, shapes, shardings)
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def _in_host_memory(
  models: Models, shapes: TrainState, shardings: TrainState
) -> TrainState:
  """`shardings`, with what is offloaded in the memory of the host."""
  fields = {
    'optimizer': ('opt_state', 'critic_opt_state'),
    'reference': ('ref_params',),
  }

  def hosted(leaf: Any, sharding: Any) -> Any:
    if not _is_large(leaf):
      return sharding
    return sharding.with_memory_kind('pinned_host')

  changed = {
    field: jax.tree.map(
      hosted, getattr(shapes, field), getattr(shardings, field)
    )
    for name in models.offload
    for field in fields[name]
  }
  return dataclasses.replace(shardings, **changed)


def _like_params(
  optimizer: Any, opt_state: Any, shardings: Any, whole: Any
) -> Any:
  """Shardings of an optimizer's state: what is per parameter, like it."""
  if optimizer is None:
    return {}
  return optax.tree.map_params(
    optimizer,
    lambda _, sharding: sharding,
    opt_state,
    shardings,
    transform_non_params=lambda _: whole,
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
