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


def place_rows(arrays: Any, mesh: Mesh) -> Any:
  """Host arrays on the devices, their first axis divided over the batch.

  With several processes each one places the rows of its own devices.

  Args:
    arrays: tree of host arrays, whose first axis is that of the whole batch on
      every process.
    mesh: where they go; its batch axes divide that axis.

  Returns:
    The tree as global arrays, laid out as `rows`.
  """
  where = rows(mesh)
  if where.is_fully_addressable:
    return jax.device_put(arrays, where)
  arrays = jax.tree.map(np.asarray, arrays)
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(x.shape, where, x.__getitem__),
    arrays,
  )


def own_rows(mesh: Mesh, count: int) -> np.ndarray:
  """The rows of a batch that are this process's to read on the host.

  Each row belongs to one process: where several hold it, as when the `model`
  axis spans hosts, they share what they hold in equal parts.

  Args:
    mesh: over whose batch axes the rows are divided.
    count: rows of the whole batch.

  Returns:
    Row numbers, ascending.
  """
  holders: dict[tuple[int, int], set[int]] = {}
  for device, (index,) in rows(mesh).devices_indices_map((count,)).items():
    start, stop, _ = index.indices(count)
    holders.setdefault((start, stop), set()).add(device.process_index)
  me, mine = jax.process_index(), [np.arange(0)]
  for (start, stop), held in sorted(holders.items()):
    if me in held:
      parts = np.array_split(np.arange(start, stop), len(held))
      mine.append(parts[sorted(held).index(me)])
  return np.concatenate(mine)


def read_rows(arrays: Any, chosen: np.ndarray) -> Any:
  """Rows of global arrays that this process holds, on the host.

  Args:
    arrays: tree of arrays laid out as `rows`.
    chosen: numbers of rows, such as `own_rows`.

  Returns:
    The tree as NumPy arrays of these rows.
  """

  def read(array: jax.Array) -> np.ndarray:
    shards = {
      shard.index[0].indices(len(array))[:2]: shard.data
      for shard in array.addressable_shards
    }
    held = sorted(shards)
    numbers = np.concatenate([np.arange(*ends) for ends in held])
    data = np.concatenate([np.asarray(shards[ends]) for ends in held])
    return data[np.searchsorted(numbers, chosen)]

  return jax.tree.map(read, arrays)


def gathered(arrays: Any, mesh: Mesh) -> Any:
  """Global arrays whole on the host, on every process.

  Args:
    arrays: tree of arrays on the devices of `mesh`; all processes ask together.
    mesh: of the run.

  Returns:
    The tree as NumPy arrays.
  """
  if not replicated(mesh).is_fully_addressable:
    arrays = jax.jit(lambda x: x, out_shardings=replicated(mesh))(arrays)
  return jax.device_get(arrays)


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
