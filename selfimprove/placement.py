"""Arrays of the host on the devices of a mesh, and back."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from selfimprove import partitioning


def place_rows(arrays: Any, mesh: Mesh) -> Any:
  """Host arrays on the devices, their first axis divided over the batch.

  With several processes each one places the rows of its own devices.

  Args:
    arrays: tree of host arrays, whose first axis is that of the whole batch on
      every process.
    mesh: where they go.

  Returns:
    The tree as global arrays, laid out as `rows` of their number.
  """
  where = jax.tree.map(lambda x: partitioning.rows(mesh, x.shape[0]), arrays)
  if partitioning.rows(mesh).is_fully_addressable:
    return jax.device_put(arrays, where)
  arrays = jax.tree.map(np.asarray, arrays)
  return jax.tree.map(
    lambda x, s: jax.make_array_from_callback(x.shape, s, x.__getitem__),
    arrays,
    where,
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
  for device, (index,) in (
    partitioning.rows(mesh).devices_indices_map((count,)).items()
  ):
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
  if not partitioning.replicated(mesh).is_fully_addressable:
    arrays = jax.jit(lambda x: x, out_shardings=partitioning.replicated(mesh))(
      arrays
    )
  return jax.device_get(arrays)
