"""Attention over a cache whose prompt part is shared by a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from selfimprove import types

# Far below any logit, yet finite: a row that sees nothing (an empty slot) then
# gets a meaningless average rather than a NaN that would spread in gradients.
_UNSEEN = -1e30


@types.record
class KeyValue:
  """Keys and values of one layer for `r` rows of `s` slots.

  Attributes:
    keys: rotated keys.
    values: values.
    positions: position of each slot, -1 where it is empty.
    segments: which of the texts that a row is packed with a slot belongs to;
      None where all that a row reads is its own.
  """

  keys: Float[Array, 'r kv s k']
  values: Float[Array, 'r kv s k']
  positions: Int[Array, 'r s']
  segments: Int[Array, 'r s'] | None = None


def rotate(
  x: Float[Array, 'b n h k'],
  positions: Int[Array, 'b n'],
  frequencies: Float[Array, 'half'],
) -> Float[Array, 'b n h k']:
  """`x` with its pairs (i, i + k/2) turned by position * frequency_i.

  Args:
    x: queries or keys.
    positions: position of each token; empty slots are turned by 0.
    frequencies: angle per position of each pair, in radians, k/2 of them.

  Returns:
    The rotated array, in the dtype of `x`.

  Source: RoFormer, arXiv 2104.09864, eq. 34, in the half-split layout.
  """
  angles = jnp.maximum(positions, 0)[:, :, None] * frequencies[None, None, :]
  cos = jnp.cos(angles)[:, :, None, :]
  sin = jnp.sin(angles)[:, :, None, :]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def attend(
  query: Float[Array, 'b n h k'],
  query_positions: Int[Array, 'b n'],
  parts: Sequence[KeyValue],
  *,
  window: Int[Array, ''] | int | None,
  soft_cap: float | None,
  segments: Int[Array, 'b n'] | None = None,
) -> Float[Array, 'b n h k']:
  """Softmax attention of each query over all parts of the cache.

  A part with fewer rows than the queries serves runs of b / r neighbouring
  rows, and is multiplied once for all of them: the keys of a prompt are never
  repeated for the samples of its group.

  Args:
    query: scaled and rotated queries.
    query_positions: their positions, -1 in empty slots.
    parts: keys and values; a slot is seen if it is not empty and not later.
    window: number of latest positions seen, the query's own included.
    soft_cap: c in c * tanh(logit / c).
    segments: text of each query; of a part with segments, the slots of the
      same text are seen.

  Returns:
    The mix of values for each query head; arbitrary in empty slots.

  Raises:
    ValueError: the rows of a part do not divide those of the queries.

  Source: softmax merged over parts as in arXiv 2205.14135, section 3.1.
  """
  partial = [
    _attend_part(query, query_positions, part, window, soft_cap, segments)
    for part in parts
  ]
  tops, sums, mixes = zip(*partial, strict=True)
  top = jnp.max(jnp.stack(tops), axis=0)
  scales = [jnp.exp(t - top) for t in tops]
  total = sum(s * z for s, z in zip(scales, sums, strict=True))
  mixed: Any = sum(
    (s / total)[..., None] * m for s, m in zip(scales, mixes, strict=True)
  )
  return mixed.astype(query.dtype)


def _attend_part(
  query: Float[Array, 'b n h k'],
  query_positions: Int[Array, 'b n'],
  part: KeyValue,
  window: Int[Array, ''] | int | None,
  soft_cap: float | None,
  segments: Int[Array, 'b n'] | None,
) -> tuple[
  Float[Array, 'b n h'], Float[Array, 'b n h'], Float[Array, 'b n h k']
]:
  """Maximum, sum and unnormalised mix of one part's softmax."""
  rows, kv_heads, _, size = part.keys.shape
  batch, length, heads, _ = query.shape
  if batch % rows:
    raise ValueError(
      f'{batch} rows of queries cannot share {rows} rows of a cache evenly; '
      'give a whole number of rows to each.'
    )
  group, share = batch // rows, heads // kv_heads
  # [r, kv, n * g * share, k]: one matrix product per row and key-value head.
  # Tokens come first, since an axis that is merged into another can be divided
  # over devices where it is the outer one.
  folded = query.reshape(rows, group, length, kv_heads, share, size)
  folded = folded.swapaxes(1, 3)
  folded = folded.reshape(rows, kv_heads, length * group * share, size)
  logits = jnp.einsum(
    'rvmk,rvsk->rvms', folded, part.keys, preferred_element_type=jnp.float32
  )
  if soft_cap is not None:
    logits = soft_cap * jnp.tanh(logits / soft_cap)

  def per_row(x: Array) -> Array:
    x = x.reshape(rows, group, length).swapaxes(1, 2)
    return x.reshape(rows, length * group)

  seen = visible(per_row(query_positions), part.positions, window)
  if segments is not None and part.segments is not None:
    seen &= per_row(segments)[:, :, None] == part.segments[:, None, :]
  logits = logits.reshape(rows, kv_heads, length * group, share, -1)
  logits = jnp.where(seen[:, None, :, None], logits, _UNSEEN)
  top = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  weights = jnp.exp(logits - top[..., None])
  mix = jnp.einsum(
    'rvms,rvsk->rvmk',
    weights.reshape(rows, kv_heads, length * group * share, -1).astype(
      part.values.dtype
    ),
    part.values,
    preferred_element_type=jnp.float32,
  )

  def unfold(x: Array, *last: int) -> Array:
    x = x.reshape(rows, kv_heads, length, group, share, *last).swapaxes(1, 3)
    return x.reshape(batch, length, heads, *last)

  return unfold(top), unfold(jnp.sum(weights, axis=-1)), unfold(mix, size)


def visible(
  query_positions: Int[Array, 'r m'],
  key_positions: Int[Array, 'r s'],
  window: Int[Array, ''] | int | None,
) -> Array:
  """Which slots each query sees.

  Args:
    query_positions: -1 in empty slots.
    key_positions: likewise.
    window: number of latest positions seen, the query's own included.

  Returns:
    Bool[r m s].
  """
  distance = query_positions[:, :, None] - key_positions[:, None, :]
  seen = (distance >= 0) & (key_positions >= 0)[:, None, :]
  return seen if window is None else seen & (distance < window)
