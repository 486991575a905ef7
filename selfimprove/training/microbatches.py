"""Cutting a batch into parts of whole groups, and putting them together."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def split(batch: Any, *, parts: int, group_size: int) -> Any:
  """Whole groups dealt out in turn, so that no device runs out of rows.

  Args:
    batch: pytree of arrays with a leading axis of rows.
    parts: how many; divides the number of groups.
    group_size: rows of a group, which are neighbours.

  Returns:
    The same pytree with a leading axis of parts.

  Raises:
    ValueError: the groups do not divide into so many parts.
  """

  def deal(x: Array) -> Array:
    groups = x.shape[0] // group_size
    if groups % parts:
      raise ValueError(
        f'{groups} prompts per step do not divide into {parts} '
        'micro-batches; choose a divisor.'
      )
    dealt = x.reshape(groups // parts, parts, group_size, *x.shape[1:])
    return jnp.moveaxis(dealt, 1, 0).reshape(parts, -1, *x.shape[1:])

  return jax.tree.map(deal, batch)


def join(dealt: Any, *, group_size: int) -> Any:
  """The batch that `split` took apart.

  Args:
    dealt: pytree of arrays with axes of parts and rows.
    group_size: rows of a group.

  Returns:
    The pytree with the rows in their first order.
  """

  def collect(x: Array) -> Array:
    parts, rows = x.shape[:2]
    groups = x.reshape(parts, rows // group_size, group_size, *x.shape[2:])
    return jnp.moveaxis(groups, 0, 1).reshape(parts * rows, *x.shape[2:])

  return jax.tree.map(collect, dealt)


def take_groups(batch: Any, groups: Int[Array, 'n'], *, group_size: int) -> Any:
  """Some groups of a batch, in the order in which they are named.

  Args:
    batch: pytree of arrays with a leading axis of rows.
    groups: indices of the groups.
    group_size: rows of a group.

  Returns:
    The same pytree with `n * group_size` rows.
  """

  def take(x: Array) -> Array:
    grouped = x.reshape(-1, group_size, *x.shape[1:])
    return grouped[groups].reshape(-1, *x.shape[1:])

  return jax.tree.map(take, batch)
