"""Logical axes of arrays and the one table that maps them to mesh axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ('data', 'fsdp', 'model')

RULES: Mapping[str, str | tuple[str, ...] | None] = {
  'batch': ('data', 'fsdp'),
  'vocab': 'model',
  'embed': 'fsdp',
  'heads': 'model',
  'kv_heads': 'model',
  'head_size': None,
  'mlp': 'model',
  'layers': None,
  'norm': None,
}
"""Logical axis -> mesh axes; None replicates."""


def make_mesh(
  *,
  data: int = -1,
  fsdp: int = 1,
  model: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """The device mesh of a run.

  Args:
    data: devices along the batch that hold whole replicas; -1 for all that the
      other axes leave.
    fsdp: devices along the batch that also split the parameters.
    model: devices that split heads, feed-forward and vocabulary.
    devices: which devices; default all.

  Returns:
    A mesh with axes `data`, `fsdp`, `model`.

  Raises:
    ValueError: a size is not positive, or they do not multiply to the number
      of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  if min(fsdp, model) < 1 or (data < 1 and data != -1):
    raise ValueError(
      f'mesh data={data}, fsdp={fsdp}, model={model} has an axis without '
      'devices; give sizes from 1 on (data=-1 takes the rest).'
    )
  if data == -1:
    data = max(1, len(devices) // (fsdp * model))
  if data * fsdp * model != len(devices):
    raise ValueError(
      f'mesh data={data} x fsdp={fsdp} x model={model} needs '
      f'{data * fsdp * model} devices but {len(devices)} are there; '
      'set sizes whose product is the device count (data=-1 takes the rest).'
    )
  grid = np.asarray(devices).reshape(data, fsdp, model)
  return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def partition_spec(
  names: Sequence[str | None],
  shape: Sequence[int],
  mesh_shape: Mapping[str, int],
) -> PartitionSpec:
  """The partition of an array from the names of its axes.

  An axis whose size the mesh axes do not divide is replicated: three key-value
  heads over two devices have no even split.

  Args:
    names: logical name of each axis, None to replicate it.
    shape: size of each axis.
    mesh_shape: mesh axis -> devices along it.

  Returns:
    The `PartitionSpec`.

  Raises:
    KeyError: a name that `RULES` does not have.
    ValueError: not one name per axis.
  """
  if len(names) != len(shape):
    raise ValueError(
      f'{len(names)} names {tuple(names)} for {len(shape)} axes of shape '
      f'{tuple(shape)}; give one name, or None, for each axis.'
    )
  spec = []
  for name, size in zip(names, shape, strict=True):
    if name is not None and name not in RULES:
      raise KeyError(
        f'logical axis {name!r} has no rule; known: {sorted(RULES)}.'
      )
    axes = RULES[name] if name is not None else None
    axes = (axes,) if isinstance(axes, str) else axes or ()
    devices = int(np.prod([mesh_shape[a] for a in axes], dtype=np.int64))
    spec.append(axes if axes and size % devices == 0 else None)
  return PartitionSpec(*spec)


def shardings(logical_axes: Any, shapes: Any, mesh: Mesh) -> Any:
  """The shardings of a tree of arrays.

  Args:
    logical_axes: tree of tuples of logical names.
    shapes: tree of arrays or `ShapeDtypeStruct`s of the same structure.
    mesh: where the arrays live.

  Returns:
    A tree of `NamedSharding`s.
  """
  return jax.tree.map(
    lambda names, leaf: NamedSharding(
      mesh, partition_spec(names, leaf.shape, mesh.shape)
    ),
    logical_axes,
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding that puts a whole copy on every device of `mesh`."""
  return NamedSharding(mesh, PartitionSpec())


def row_shards(mesh: Mesh) -> int:
  """How many parts `rows` makes of an array.

  Args:
    mesh: where the array lives.

  Returns:
    The number of devices along the batch.

  >>> row_shards(make_mesh(data=2, fsdp=2, model=2))
  4
  """
  return mesh.shape['data'] * mesh.shape['fsdp']


def rows(mesh: Mesh) -> NamedSharding:
  """The sharding that splits the first axis of a batch over `mesh`."""
  return NamedSharding(mesh, PartitionSpec(RULES['batch']))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """`x`, asked to be laid out by the names of its axes.

  Without a mesh in context (`jax.set_mesh`) it is the identity, so that model
  code runs unchanged on one device.

  Args:
    x: array inside jit.
    *names: logical name of each of its axes.

  Returns:
    The same values.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  spec = partition_spec(names, x.shape, mesh.shape)
  return jax.lax.with_sharding_constraint(x, spec)
