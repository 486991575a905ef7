"""Logical axes of arrays and the one table that maps them to mesh axes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ('data', 'fsdp', 'sequence', 'model')

Rules = Mapping[str, str | tuple[str, ...] | None]
"""Logical axis -> mesh axes; None replicates."""

RULES: Rules = {
  'batch': ('data', 'fsdp'),
  'rows': ('data', 'fsdp'),
  'tokens': 'sequence',
  'flat': ('data', 'fsdp', 'sequence'),
  'width': None,
  'vocab': 'model',
  'embed': 'fsdp',
  'heads': 'model',
  'kv_heads': 'model',
  'head_size': None,
  'mlp': 'model',
  'layers': None,
  'norm': None,
  'spread': ('fsdp', 'model'),
}
"""How arrays are kept between programs; the other tables say what differs.

`batch` are rows of attention and its cache, `rows` those of the residual
stream, `tokens` and `width` its other axes, `flat` both rows and tokens; the
rest are axes of parameters: `spread` is the one along which a parameter is
divided that is used whole (`kept_names`).
"""


def _training_layouts() -> dict[str, Rules]:
  """Layouts in which rollouts are read, in each form that rows may ask for.

  `name/k` is that of rows which divide over the first `k` axes alone: over the
  others their tokens are divided, and nothing but keys and values is sent.
  """
  # Parameters are gathered over `fsdp` where they are used, a layer at a time.
  split = {**RULES, 'embed': None}
  # Layers are gathered over `model` too, and rows divided over it: no
  # activation is sent, nor computed twice.
  used_whole = dict.fromkeys(('heads', 'kv_heads', 'mlp', 'spread'))
  layouts: dict[str, Rules] = {}
  for name, axes, rules in (
    ('tensor_parallel', ('data', 'fsdp'), split),
    ('fully_sharded', ('data', 'fsdp', 'model'), {**split, **used_whole}),
  ):
    for k in range(len(axes) + 1):
      layouts[name if k == len(axes) else f'{name}/{k}'] = {
        **rules,
        'batch': axes[:k],
        'rows': axes[:k],
        'tokens': (*axes[k:], 'sequence'),
        'flat': (*axes, 'sequence'),
      }
  return layouts


LAYOUTS: Mapping[str, Rules] = {
  **_training_layouts(),
  # The same, once for a whole rollout: nothing but activations is sent for a
  # token, and a device holds 1/model of all parameters while it lasts.
  'gathered': {
    **RULES,
    'embed': None,
    'batch': ('data', 'fsdp', 'sequence'),
    'rows': ('data', 'fsdp', 'sequence'),
    'tokens': None,
  },
  # Parameters stay where they are kept and the residual stream comes to them:
  # for models of which 1/model does not fit beside the cache.
  'stationary': {
    **RULES,
    'batch': ('data', 'fsdp', 'sequence'),
    'rows': ('data', 'sequence'),
    'tokens': None,
    'width': 'fsdp',
  },
}
"""How arrays are laid out within a program, by what it does with them."""

TRAINING_LAYOUTS = ('tensor_parallel', 'fully_sharded')
"""Those of `LAYOUTS` in which rollouts are read and learned from, without forms
for fewer rows."""

DECODE_LAYOUTS = ('gathered', 'stationary')
"""Those of `LAYOUTS` in which tokens are drawn."""


def make_mesh(
  *,
  data: int = -1,
  fsdp: int = 1,
  sequence: int = 1,
  model: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """The device mesh of a run.

  Args:
    data: devices along the batch that hold whole replicas; -1 for all that the
      other axes leave.
    fsdp: devices along the batch that also split the parameters.
    sequence: devices that split the tokens of a row in training.
    model: devices that split heads, feed-forward and vocabulary.
    devices: which devices; default all.

  Returns:
    A mesh with axes `data`, `fsdp`, `sequence`, `model`.

  Raises:
    ValueError: a size is not positive, or they do not multiply to the number
      of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  if min(fsdp, sequence, model) < 1 or (data < 1 and data != -1):
    raise ValueError(
      f'mesh data={data}, fsdp={fsdp}, sequence={sequence}, model={model} has '
      'an axis without devices; give sizes from 1 on (data=-1 takes the rest).'
    )
  others = fsdp * sequence * model
  if data == -1:
    data = max(1, len(devices) // others)
  if data * others != len(devices):
    raise ValueError(
      f'mesh data={data} x fsdp={fsdp} x sequence={sequence} x model={model} '
      f'needs {data * others} devices but {len(devices)} are there; '
      'set sizes whose product is the device count (data=-1 takes the rest).'
    )
  grid = np.asarray(devices).reshape(data, fsdp, sequence, model)
  return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def partition_spec(
  names: Sequence[str | None],
  shape: Sequence[int],
  mesh_shape: Mapping[str, int],
  rules: Rules = RULES,
) -> PartitionSpec:
  """The partition of an array from the names of its axes.

  An axis is divided over as many of its mesh axes, from the first on, as divide
  its size: three key-value heads over two devices have no even split.

  Args:
    names: logical name of each axis, None to replicate it.
    shape: size of each axis.
    mesh_shape: mesh axis -> devices along it.
    rules: the table; one of `LAYOUTS` within a program.

  Returns:
    The `PartitionSpec`.

  Raises:
    KeyError: a name that `rules` does not have.
    ValueError: not one name per axis.
  """
  if len(names) != len(shape):
    raise ValueError(
      f'{len(names)} names {tuple(names)} for {len(shape)} axes of shape '
      f'{tuple(shape)}; give one name, or None, for each axis.'
    )
  spec = []
  for name, size in zip(names, shape, strict=True):
    if name is not None and name not in rules:
      raise KeyError(
        f'logical axis {name!r} has no rule; known: {sorted(rules)}.'
      )
    axes = rules[name] if name is not None else None
    spec.append(
      _dividing(
        (axes,) if isinstance(axes, str) else axes or (), size, mesh_shape
      )
    )
  return PartitionSpec(*spec)


def _dividing(
  axes: Sequence[str], size: int, mesh_shape: Mapping[str, int]
) -> tuple[str, ...] | None:
  """The first of `axes` that together divide `size`; None for none."""
  chosen, devices = [], 1
  for axis in axes:
    devices *= mesh_shape.get(axis, 1)
    if size % devices:
      break
    chosen.append(axis)
  return tuple(chosen) or None


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


def row_shards(mesh: Mesh, layout: str = 'tensor_parallel') -> int:
  """How many parts `rows` makes of an array.

  Args:
    mesh: where the array lives.
    layout: one of `LAYOUTS`, for the residual stream within a program.

  Returns:
    The number of devices along the batch.

  >>> row_shards(make_mesh(data=2, fsdp=2, model=2))
  4
  """
  return _devices_along(mesh.shape, 'rows', layout)


def _devices_along(
  mesh_shape: Mapping[str, int], name: str, layout: str
) -> int:
  over = LAYOUTS[layout][name] or ()
  over = (over,) if isinstance(over, str) else over
  return math.prod(mesh_shape.get(axis, 1) for axis in over)


def rows(mesh: Mesh, count: int | None = None) -> NamedSharding:
  """The sharding that splits the first axis of a batch over `mesh`.

  Args:
    mesh: where the batch lives.
    count: size of that axis, which is then divided over as many of the batch
      axes as divide it, as prompts are that are fewer than the devices of their
      samples; None if all do.

  Returns:
    The sharding of any array of the batch.
  """
  if count is None:
    return NamedSharding(mesh, PartitionSpec(RULES['batch']))
  return NamedSharding(mesh, partition_spec(('batch',), (count,), mesh.shape))


def grid(layout: str) -> tuple[int, int]:
  """How many parts the mesh in context makes of rows and of their tokens.

  Args:
    layout: one of `LAYOUTS`.

  Returns:
    The numbers of devices along rows and along tokens; 1 without a mesh.
  """
  shape = jax.sharding.get_abstract_mesh().shape
  along = functools.partial(_devices_along, shape, layout=layout)
  return along('rows'), along('tokens')


def parts_of_vocabulary() -> int:
  """How many parts the mesh in context makes of logits; 1 without a mesh."""
  return jax.sharding.get_abstract_mesh().shape.get('model', 1)


def _one_device() -> bool:
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.empty or mesh.size == 1


def kept_names(
  names: Sequence[str | None], layout: str
) -> tuple[str | None, ...]:
  """The names of a layer's parameter by which it is kept.

  What is used whole is divided along one axis: put together from parts along
  two, it would be copied once more.

  Args:
    names: of its axes.
    layout: in which it is used; one of `TRAINING_LAYOUTS`.

  Returns:
    Names for `RULES`.

  >>> kept_names(('layers', 'mlp', 'embed'), 'fully_sharded')
  ('layers', 'spread', None)
  """
  names = tuple(names)
  if layout != 'fully_sharded' or 'embed' not in names:
    return names
  # The parts of the first axis are neighbours in memory; heads are too few.
  along = 'embed'
  if 'mlp' in names and names.index('mlp') < names.index('embed'):
    along = 'mlp'
  kept = {along: 'spread', 'layers': 'layers'}
  return tuple(kept.get(str(name)) for name in names)


def layout_of_rows(layout: str, count: int) -> str:
  """The layout in which so many rows are read and learned from.

  Args:
    layout: one of `LAYOUTS`.
    count: of rows.

  Returns:
    `layout`; of a layout for training, if the rows do not divide over all of
    its devices, the form that divides their tokens over the others.
  """
  if layout not in TRAINING_LAYOUTS:
    return layout
  shape = jax.sharding.get_abstract_mesh().shape
  forms = [form for form in LAYOUTS if form.partition('/')[0] == layout]
  # The form for most devices along the rows is the last.
  return next(
    form
    for form in reversed(forms)
    if count % _devices_along(shape, 'rows', form) == 0
  )


def constrain(
  x: jax.Array, *names: str | None, rules: Rules = RULES
) -> jax.Array:
  """`x`, asked to be laid out by the names of its axes.

  Without a mesh in context (`jax.set_mesh`) it is the identity, so that model
  code runs unchanged on one device.

  Args:
    x: array inside jit.
    *names: logical name of each of its axes.
    rules: the table; one of `LAYOUTS`.

  Returns:
    The same values.
  """
  if _one_device():
    return x
  mesh = jax.sharding.get_abstract_mesh()
  spec = partition_spec(names, x.shape, mesh.shape, rules)
  return jax.lax.with_sharding_constraint(x, spec)


def take_rows(
  table: jax.Array, rows: jax.Array, *, dtype: Any, rules: Rules
) -> jax.Array:
  """Rows of a table whose rows are divided over devices.

  Each device looks up what it has; the gradient is summed in the dtype of the
  table, and only at last put into its layout.

  Args:
    table: f[v d] inside jit, laid out by `RULES`.
    rows: i32[b n], which rows.
    dtype: of what is returned.
    rules: the table of layouts; one of `LAYOUTS`.

  Returns:
    f[b n d].
  """
  if _one_device():
    return _taken(table, rows).astype(dtype)
  return _take_rows(table, rows, dtype, tuple(rules.items()))


def _taken(table: jax.Array, rows: jax.Array) -> jax.Array:
  return jnp.take(table, rows, axis=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _take_rows(
  table: jax.Array, rows: jax.Array, dtype: Any, rules: Any
) -> jax.Array:
  layout = dict(rules)
  narrow = constrain(table.astype(dtype), 'vocab', 'embed', rules=layout)
  rows = constrain(rows, 'rows', 'tokens', rules=layout)
  return constrain(
    _taken(narrow, rows), 'rows', 'tokens', 'width', rules=layout
  )


def _take_rows_forward(
  table: jax.Array, rows: jax.Array, dtype: Any, rules: Any
) -> tuple[jax.Array, Any]:
  return _take_rows(table, rows, dtype, rules), (table, rows)


def _take_rows_backward(dtype: Any, rules: Any, saved: Any, slope: Any) -> Any:
  del dtype
  (table, rows), layout = saved, dict(rules)
  rows = constrain(rows, 'rows', 'tokens', rules=layout)
  slope = constrain(slope, 'rows', 'tokens', 'width', rules=layout)
  zeros = constrain(jnp.zeros_like(table), 'vocab', 'embed', rules=layout)
  summed = zeros.at[rows].add(slope.astype(table.dtype), mode='drop')
  return constrain(summed, 'vocab', 'embed'), None


_take_rows.defvjp(_take_rows_forward, _take_rows_backward)


def gather(
  x: jax.Array,
  *names: str | None,
  rules: Rules,
  kept: Sequence[str | None] | None = None,
) -> jax.Array:
  """A parameter in the layout in which it is used.

  Its gradient goes back to the layout in which it is kept as soon as it is
  there: summed over devices and divided among them in one step.

  Args:
    x: array inside jit, laid out by `RULES`.
    *names: logical name of each of its axes.
    rules: the table; one of `LAYOUTS`.
    kept: names by which it is kept, if others.

  Returns:
    The same values.
  """
  if _one_device():
    return x
  return _gather(x, names, tuple(rules.items()), tuple(kept or names))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(x: jax.Array, names: Any, rules: Any, kept: Any) -> jax.Array:
  if kept != names:
    # From parts along one axis to parts along another the compiler would send
    # all layers at once, for each of them.
    x = constrain(x, *(None,) * x.ndim)
  return constrain(x, *names, rules=dict(rules))


def _gather_forward(x: jax.Array, *how: Any) -> tuple[Any, None]:
  return _gather(x, *how), None


def _gather_backward(
  names: Any, rules: Any, kept: Any, _: None, slope: Any
) -> Any:
  del names, rules
  return (constrain(slope, *kept),)


_gather.defvjp(_gather_forward, _gather_backward)
