"""A training state as nested dictionaries of plain arrays, and back.

Checkpoints hold names and arrays only: which Python classes held the arrays is
known to the code that restores them, so that renaming a class, or another
optimizer version, does not make old files unreadable.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

Tree = Any
"""A pytree of arrays, or of their shapes and dtypes."""


def to_named(state: Tree) -> dict[str, Any]:
  """The arrays of `state` as nested dictionaries keyed by field and key names.

  Args:
    state: pytree of arrays; typed PRNG keys become their uint32 data.

  Returns:
    Nested dictionaries of arrays without a copy; empty nodes are left out.

  Raises:
    TypeError: a leaf is not an array.
  """
  named = {}
  for path, leaf in jax.tree.leaves_with_path(state):
    if not isinstance(leaf, (jax.Array, np.ndarray)):
      raise TypeError(
        f'Leaf `{_join(path)}` of the state is a {type(leaf).__name__}, but '
        'checkpoints hold arrays only; wrap it in `jnp.asarray` or pass it '
        'in `extra`.'
      )
    _put(named, path, jax.random.key_data(leaf) if _is_key(leaf) else leaf)
  return named


def to_abstract(like: Tree) -> dict[str, Any]:
  """The shapes, dtypes and shardings in which `like` is to be read.

  Args:
    like: pytree of arrays or `jax.ShapeDtypeStruct`; leaves without a sharding
      go to the first device.

  Returns:
    Nested dictionaries as `to_named` makes them, of `jax.ShapeDtypeStruct`.
  """
  named = {}
  for path, leaf in jax.tree.leaves_with_path(like):
    stored = leaf
    if _is_key(leaf):
      stored = jax.eval_shape(jax.random.key_data, _shape_of(leaf))
    _put(
      named,
      path,
      jax.ShapeDtypeStruct(
        stored.shape, stored.dtype, sharding=_sharding_of(leaf)
      ),
    )
  return named


def without_placement(tree: Tree) -> Tree:
  """The shapes and dtypes of `tree`, without the devices it was on.

  Args:
    tree: pytree of things with `shape` and `dtype`.

  Returns:
    The same pytree of `jax.ShapeDtypeStruct`.
  """
  return jax.tree.map(_shape_of, tree)


def from_named(named: dict[str, Any], like: Tree) -> Tree:
  """The state that `to_named` took apart.

  Args:
    named: nested dictionaries of arrays.
    like: pytree of the wanted structure; its leaves tell keys from arrays.

  Returns:
    A pytree with the structure of `like`.
  """
  paths, treedef = jax.tree.flatten_with_path(like)
  leaves = [_rebuild(_get(named, path), leaf) for path, leaf in paths]
  return jax.tree.unflatten(treedef, leaves)


def first_difference(saved: Tree, wanted: Tree) -> str | None:
  """The first leaf, in order of names, that two trees do not agree on.

  Args:
    saved: nested dictionaries of things with `shape` and `dtype`.
    wanted: the same.

  Returns:
    'leaf `name` is f32[2,3] there and f32[2,4] here', or None.
  """
  there, here = _described(saved), _described(wanted)
  for name in sorted(there.keys() | here.keys()):
    left, right = there.get(name, 'absent'), here.get(name, 'absent')
    if left != right:
      return f'leaf `{name}` is {left} there and {right} here'
  return None


def fingerprint(tree: Tree) -> str:
  """What tells the arrays of a tree from others, bit for bit.

  It is summed over integers on the devices where the arrays are, so that it
  does not depend on their layout. It tells accidents, not forgeries.

  Args:
    tree: pytree of arrays of 16 or 32 bits an element.

  Returns:
    16 hexadecimal digits, of values, names, shapes and dtypes.
  """
  sums = jax.device_get(jax.jit(lambda tree: jax.tree.map(_sums, tree))(tree))
  text = '\n'.join(
    f'{name} {there} {found.tolist()}'
    for (name, there), found in zip(
      _described(tree).items(), jax.tree.leaves(sums), strict=True
    )
  )
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sums(leaf: jax.Array) -> jax.Array:
  """Two sums modulo 2^32 of scrambled pairs of place and bits."""
  width = {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)
  place = jnp.zeros(leaf.shape, jnp.uint32)
  for axis, size in enumerate(leaf.shape):
    along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    place = place * np.uint32(size) + along

  def total(odd: int) -> jax.Array:
    mixed = (bits ^ (place * np.uint32(odd))) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 15)) * np.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)

  return jnp.stack([total(0x9E3779B1), total(0x7FEB352D)])


def _described(tree: Tree) -> dict[str, str]:
  return {
    _join(path): f'{np.dtype(leaf.dtype).name}{list(leaf.shape)}'
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


def _rebuild(stored: Any, like: Any) -> Any:
  if not _is_key(like):
    return stored
  wrap = functools.partial(jax.random.wrap_key_data, impl=_key_impl(like))
  return jax.jit(wrap, out_shardings=_sharding_of(like))(stored)


def _key_impl(key: Any) -> Hashable:
  """The generator of a key that may be abstract: known while tracing only."""
  found = []

  def read(traced: jax.Array) -> jax.Array:
    found.append(jax.random.key_impl(traced))
    return traced

  jax.eval_shape(read, _shape_of(key))
  return found[0]


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _sharding_of(leaf: Any) -> jax.sharding.Sharding:
  sharding = getattr(leaf, 'sharding', None)
  return sharding or SingleDeviceSharding(jax.devices()[0])


def _names(path: tuple[Any, ...]) -> list[str]:
  return [jax.tree_util.keystr((entry,), simple=True) for entry in path]


def _join(path: tuple[Any, ...]) -> str:
  return '/'.join(_names(path))


def _put(named: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
  *parents, last = _names(path)
  for name in parents:
    named = named.setdefault(name, {})
  named[last] = value


def _get(named: dict[str, Any], path: tuple[Any, ...]) -> Any:
  for name in _names(path):
    named = named[name]
  return named
