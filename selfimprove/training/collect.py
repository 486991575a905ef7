"""Groups that wait until a batch is full of those that teach something."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from selfimprove import partitioning, types
from selfimprove.algorithms.base import Algorithm
from selfimprove.training.microbatches import take_groups
from selfimprove.training.state import TrainState
from selfimprove.types import Params, Policy, Prompts, Rollout


@types.record
class Buffer:
  """Judged groups, the first `count` of which are real.

  Attributes:
    rollout: room for two batches: a batch that is nearly full, and the next.
    rewards: of each attempt.
    count: groups in it.
  """

  rollout: Rollout
  rewards: Float[Array, 'b turns']
  count: Int[Array, '']


def retry_of(algorithm: Algorithm) -> Any:
  """How an algorithm samples its failed groups again.

  Args:
    algorithm: it need not collect.

  Returns:
    Its `base.Retry`; None if it has none.
  """
  return algorithm.collect and algorithm.collect.retry


def abstract_buffer(
  policy: Policy,
  algorithm: Algorithm,
  params: Params,
  prompts: Prompts,
  mesh: Mesh,
) -> Buffer:
  """Shapes, dtypes and shardings of the buffer of an algorithm.

  Args:
    policy: the model.
    algorithm: whose groups are kept.
    params: of the policy, or their shapes.
    prompts: of one batch, or their shapes.
    mesh: where the buffer lives.

  Returns:
    A `Buffer` of `jax.ShapeDtypeStruct`s.
  """
  twice = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((2 * x.shape[0], *x.shape[1:]), x.dtype),
    prompts,
  )

  def make(sample: Any, params: Params, prompts: Prompts) -> Buffer:
    rollout = sample(policy, params, prompts, jax.random.key(0))
    rewards = jnp.zeros(rollout.finished.shape, jnp.float32)
    return Buffer(rollout=rollout, rewards=rewards, count=jnp.int32(0))

  buffer = jax.eval_shape(make, algorithm.rollout, params, twice)
  rows, whole = partitioning.rows(mesh), partitioning.replicated(mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=rows if x.ndim else whole
    ),
    buffer,
  )


def empty(like: Buffer) -> Buffer:
  """A buffer without groups.

  Args:
    like: what `abstract_buffer` returned.

  Returns:
    Zeros, laid out over the mesh.
  """
  shardings = jax.tree.map(lambda x: x.sharding, like)
  make = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)  # noqa: E731
  return jax.jit(make, out_shardings=shardings)()


def put(
  state: TrainState,
  rollout: Rollout,
  rewards: Float[Array, 'b turns'],
  keep: Bool[Array, 'p'],
) -> TrainState:
  """The state with some groups of a batch behind those that wait.

  Args:
    state: whose buffer holds less than one batch.
    rollout: the batch.
    rewards: of each attempt.
    keep: which of its groups.

  Returns:
    The state with a fuller buffer.
  """
  buffer: Buffer = state.buffer
  group = rollout.group_size
  room = buffer.rewards.shape[0] // group
  old = jnp.arange(room) < buffer.count
  valid = jnp.concatenate([old, keep])
  order = jnp.argsort(~valid, stable=True)[:room]
  # Prompts are numbered anew within a batch; only neighbours share a number.
  joined = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b]),
    (buffer.rollout, buffer.rewards),
    (rollout, rewards),
  )
  kept, judged = take_groups(joined, order, group_size=group)
  kept = dataclasses.replace(
    kept, group_id=jnp.repeat(jnp.arange(room, dtype=jnp.int32), group)
  )
  count = buffer.count + jnp.sum(keep, dtype=jnp.int32)
  return dataclasses.replace(
    state, buffer=Buffer(rollout=kept, rewards=judged, count=count)
  )


def take(
  state: TrainState, *, groups: int
) -> tuple[TrainState, Rollout, Float[Array, 'b turns'], Float[Array, 'b']]:
  """The oldest groups, and the state without them.

  Args:
    state: whose buffer is read.
    groups: how many.

  Returns:
    The state; rollout and rewards of `groups` groups; and 1.0 for each row
    that is real, 0.0 where the buffer did not hold so many.
  """
  buffer: Buffer = state.buffer
  size = buffer.rollout.group_size
  rows = groups * size
  head: Any = jax.tree.map(lambda x: x[:rows], (buffer.rollout, buffer.rewards))
  rest = jax.tree.map(
    lambda x: jnp.roll(x, -rows, axis=0), (buffer.rollout, buffer.rewards)
  )
  left = jnp.maximum(buffer.count - groups, 0)
  real = jnp.repeat(jnp.arange(groups) < buffer.count, size)
  state = dataclasses.replace(
    state, buffer=Buffer(rollout=rest[0], rewards=rest[1], count=left)
  )
  # A weight of 0 drops a row, but not the NaN of a temperature of 0.
  rollout = dataclasses.replace(
    head[0],
    temperature=jnp.where(real, head[0].temperature, 1.0),
    loss_mask=head[0].loss_mask & real[:, None],
  )
  return state, rollout, head[1], real.astype(jnp.float32)


def teaches(
  algorithm: Algorithm, rollout: Rollout, rewards: Float[Array, 'b turns']
) -> Bool[Array, 'p']:
  """Groups of which a sample has a positive weight.

  Args:
    algorithm: whose label decides.
    rollout: the samples.
    rewards: of each attempt.

  Returns:
    One truth value per group.
  """
  weight = algorithm.label(rollout, rewards)
  return jnp.any(weight.reshape(-1, rollout.group_size) > 0, axis=1)


def failed(
  rewards: Float[Array, 'b turns'],
  *,
  group_size: int,
  threshold: float | Float[Array, ''],
) -> Bool[Array, 'p']:
  """Groups in which no last attempt was rewarded.

  Args:
    rewards: of each attempt.
    group_size: rows of a group.
    threshold: a reward above it is a success.

  Returns:
    One truth value per group.

  Source: arXiv 2506.13923 (Guide), section 4.
  """
  best = jnp.max(rewards[:, -1].reshape(-1, group_size), axis=1)
  return best <= threshold


def merge(
  algorithm: Algorithm,
  first: tuple[Rollout, Float[Array, 'b turns']],
  second: tuple[Rollout, Float[Array, 'n turns']],
  groups: Int[Array, 'q'],
) -> tuple[Rollout, Float[Array, 'b turns']]:
  """A batch in which failed groups have rows of their second try.

  Args:
    algorithm: whose `collect.retry.merge` chooses the rows.
    first: rollout and rewards of the batch.
    second: rollout and rewards of second tries.
    groups: which group each second try replaces; one behind the last where it
      replaces none.

  Returns:
    Rollout and rewards of the batch.
  """
  size = first[0].group_size
  rows = (groups[:, None] * size + jnp.arange(size)[None, :]).reshape(-1)
  retry = retry_of(algorithm)
  before = jnp.take(first[1], rows, axis=0, mode='clip')
  chosen = retry.merge(before, second[1])

  def put_rows(old: Array, new: Array) -> Array:
    kept = jnp.take(old, rows, axis=0, mode='clip')
    where = chosen.reshape((-1,) + (1,) * (new.ndim - 1))
    return old.at[rows].set(jnp.where(where, new, kept), mode='drop')

  group_id = first[0].group_id
  rollout, rewards = jax.tree.map(put_rows, first, second)
  return dataclasses.replace(rollout, group_id=group_id), rewards
