"""Attention of whole passes by kernels that never hold a matrix of weights.

They serve passes in which every query's own tokens are read at once: scoring,
training and the reading of a prompt. Tokens that are appended to a cache, as in
decoding, are few, and `attention.attend` serves them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from selfimprove import partitioning
from selfimprove.models.attention import KeyValue, visible
from selfimprove.models.remat import MIXED

_OWN = {'tpu': 'splash', 'gpu': 'cudnn', 'cuda': 'cudnn'}
_LANES = 128
_MOST = 512
"""Most slots of a block of the kernel for TPUs."""
_PADDING = 1 / 16
"""Slots that larger blocks may add, over those with the smallest blocks."""


def choose(
  implementation: str,
  *,
  whole: bool,
  window: bool,
  packed: bool,
  split: bool,
  few: bool,
  soft_cap: bool,
  dtype: str,
) -> str:
  """The implementation that serves a call.

  Args:
    implementation: one of `config.ATTENTION`; `auto` takes the platform's own
      kernel where it applies.
    whole: whether the call's own tokens are read at once.
    window: whether there are sliding windows.
    packed: whether rows hold several texts.
    split: whether the tokens of a row are divided over devices, as of prompts
      that are fewer than these; cuDNN leaves them to `xla`.
    few: whether a device has too few of a row for a block of a kernel, which
      would be mostly padding; `auto` leaves them to `xla`.
    soft_cap: whether logits are capped.
    dtype: of queries.

  Returns:
    `xla`, `splash` or `cudnn`.

  Raises:
    ValueError: the named kernel cannot do what is asked.
  """
  if not whole or implementation == 'xla':
    return 'xla'
  obstacles = {
    'splash': [
      (window, 'sliding windows, which it counts in slots, not in tokens'),
      (packed, 'packed rows that share a prompt; set packed_rows to 0'),
    ],
    'cudnn': [
      (soft_cap, 'soft caps on logits'),
      (dtype != 'bfloat16', f'dtype {dtype}; set bfloat16'),
    ],
  }
  named = implementation
  if named == 'auto':
    named = _OWN.get(_platform(), 'xla')
  found = [text for there, text in obstacles.get(named, []) if there]
  if named == 'xla' or (implementation == 'auto' and (found or few)):
    return 'xla'
  if found:
    raise ValueError(
      f'attention={named!r} does not support {found[0]}; or set attention to '
      "'auto' or 'xla'."
    )
  if named == 'cudnn' and _platform() not in ('gpu', 'cuda'):
    raise ValueError(
      f"attention='cudnn' needs an NVIDIA GPU and this is {_platform()!r}; set "
      "attention to 'auto'."
    )
  return 'xla' if named == 'cudnn' and split else named


def fills_a_block(tokens: int) -> bool:
  """Returns whether so many tokens of a row on a device fill a block.

  Args:
    tokens: on one device.
  """
  return tokens >= _LANES


def _platform() -> str:
  """Where the program is to run: that of the mesh in context, if any."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  found = getattr(device, 'platform', None) or jax.default_backend()
  return found.lower()


def attend_whole(
  query: Float[Array, 'b n h k'],
  query_positions: Int[Array, 'b n'],
  parts: Sequence[KeyValue],
  *,
  implementation: str,
  window: Int[Array, ''] | int | None,
  soft_cap: float | None,
  segments: Int[Array, 'b n'] | None = None,
  layout: str = 'tensor_parallel',
) -> Float[Array, 'b n h k']:
  """What `attention.attend` returns, by a kernel.

  Keys that rows share are repeated for each of them, for one layer at a time.

  Args:
    query: scaled and rotated queries.
    query_positions: their positions, -1 in empty slots.
    parts: keys and values in the order of their slots; the last part holds the
      slots of the queries.
    implementation: `splash` or `cudnn`.
    window: number of latest positions seen; `cudnn` only.
    soft_cap: c in c * tanh(logit / c); `splash` only.
    segments: text of each query; `cudnn` only.
    layout: of queries, keys and values; one of `partitioning.LAYOUTS`.

  Returns:
    The mix of values for each query head; arbitrary in empty slots.
  """
  whole = _joined(parts, query.shape[0])
  if implementation == 'cudnn':
    return _cudnn(query, query_positions, whole, window, segments)
  return _splash(query, whole, soft_cap, layout)


def _joined(parts: Sequence[KeyValue], rows: int) -> KeyValue:
  """All parts as one, with a row for each row of queries."""

  def join(name: str, axis: int) -> Array:
    arrays = [getattr(part, name) for part in parts]
    return jnp.concatenate(
      [jnp.repeat(x, rows // x.shape[0], axis=0) for x in arrays], axis=axis
    )

  return KeyValue(
    keys=join('keys', 2),
    values=join('values', 2),
    positions=join('positions', 1),
    segments=_segments(parts, rows),
  )


def _segments(parts: Sequence[KeyValue], rows: int) -> Array | None:
  """Text of each slot; -1 where all texts of a row see it."""
  if parts[-1].segments is None:
    return None
  found = []
  for part in parts:
    of_part = part.segments
    if of_part is None:
      of_part = jnp.full(part.positions.shape, -1, jnp.int32)
    found.append(jnp.repeat(of_part, rows // of_part.shape[0], axis=0))
  return jnp.concatenate(found, axis=1)


def _cudnn(
  query: Float[Array, 'b n h k'],
  query_positions: Int[Array, 'b n'],
  whole: KeyValue,
  window: Int[Array, ''] | int | None,
  segments: Int[Array, 'b n'] | None,
) -> Float[Array, 'b n h k']:
  return jax.nn.dot_product_attention(
    query,
    whole.keys.swapaxes(1, 2),
    whole.values.swapaxes(1, 2),
    mask=_mask(query_positions, whole, window, segments)[:, None],
    scale=1.0,
    implementation='cudnn',
  )


def _mask(
  query_positions: Int[Array, 'b n'],
  whole: KeyValue,
  window: Int[Array, ''] | int | None,
  segments: Int[Array, 'b n'] | None,
) -> Bool[Array, 'b n s']:
  seen = visible(query_positions, whole.positions, window)
  if segments is not None and whole.segments is not None:
    theirs = whole.segments[:, None, :]
    seen &= (segments[:, :, None] == theirs) | (theirs == -1)
  return seen


def _splash(
  query: Float[Array, 'b n h k'],
  whole: KeyValue,
  soft_cap: float | None,
  layout: str,
) -> Float[Array, 'b n h k']:
  """Within a row positions grow with slots, so that a causal mask serves."""
  rules = partitioning.LAYOUTS[layout]
  rows, length, heads, _ = query.shape
  kv_heads, slots = whole.keys.shape[1:3]
  shape = jax.sharding.get_abstract_mesh().shape
  _, along = partitioning.grid(layout)
  across = shape.get('model', 1) if rules['heads'] else 1
  across = across if heads % across == 0 else 1
  # Key-value heads that do not divide over devices are repeated until they do.
  share = heads // kv_heads if kv_heads % across else 1
  of_query, of_key = block_of(length, along), block_of(slots)
  width, breadth = _rounded(length, along * of_query), _rounded(slots, of_key)
  kernel = _kernel(
    heads,
    (width, breadth),
    blocks=(of_query, of_key),
    offset=slots - length,
    shards=(across, along),
    soft_cap=soft_cap,
  )
  mixed = _over_devices(
    kernel,
    rules,
    _padded(query.swapaxes(1, 2), 2, width),
    _padded(jnp.repeat(whole.keys, share, axis=1), 2, breadth),
    _padded(jnp.repeat(whole.values, share, axis=1), 2, breadth),
    jnp.zeros((rows, width), jnp.int32),
    _padded((whole.positions < 0).astype(jnp.int32), 1, breadth, 1),
  )
  return mixed[:, :, :length].swapaxes(1, 2).astype(query.dtype)


def _kernel(
  heads: int,
  shape: tuple[int, int],
  *,
  blocks: tuple[int, int],
  offset: int,
  shards: tuple[int, int],
  soft_cap: float | None,
) -> Any:
  """The kernel of `heads` causal heads; query i stands at slot i + offset."""
  across, along = shards
  mask = splash_attention.CausalMask(shape, offset, shard_count=along)
  of_query, of_key = blocks
  return splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask([mask] * heads),
    block_sizes=splash_attention.BlockSizes(
      block_q=of_query,
      block_kv=of_key,
      block_q_dkv=of_query,
      block_kv_dkv=of_key,
      block_q_dq=of_query,
      block_kv_dq=of_key,
    ),
    attn_logits_soft_cap=soft_cap,
    head_shards=across,
    q_seq_shards=along,
    residual_checkpoint_name=MIXED,
    interpret=_platform() == 'cpu',
  )


def _over_devices(
  kernel: Any, rules: Any, query: Array, keys: Array, *others: Any
) -> Any:
  """`kernel` of each row, on each device for the rows and heads it has.

  The ids of slots are 0 but for empty keys: a text of their own that nobody
  reads.
  """

  def run(kernel: Any, *arrays: Array) -> Array:
    def of_row(
      query: Array, keys: Array, values: Array, mine: Array, theirs: Array
    ) -> Array:
      ids = splash_attention.SegmentIds(q=mine, kv=theirs)
      return kernel(query, keys, values, ids)

    return jax.vmap(of_row)(*arrays)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return run(kernel, query, keys, *others)

  def spec(x: Array, *names: str | None) -> PartitionSpec:
    return partitioning.partition_spec(names, x.shape, mesh.shape, rules)

  of_query = spec(query, 'batch', 'heads', 'tokens', None)
  of_keys = spec(keys, 'batch', 'kv_heads', None, None)
  blocks = NamedSharding(mesh, PartitionSpec(of_query[1], of_query[2]))
  return jax.shard_map(
    run,
    mesh=mesh,
    in_specs=(
      kernel.manual_sharding_spec(blocks),
      of_query,
      of_keys,
      of_keys,
      PartitionSpec(of_query[0], of_query[2]),
      PartitionSpec(of_query[0]),
    ),
    out_specs=of_query,
    check_vma=False,
  )(kernel, query, keys, *others)


def _rounded(length: int, unit: int) -> int:
  return -(-length // unit) * unit


def block_of(length: int, parts: int = 1) -> int:
  """Slots of a block of the kernel for TPUs.

  Args:
    length: slots that are there.
    parts: devices that they are divided over.

  Returns:
    The largest block that pads them to little more than the smallest does.

  >>> block_of(1024)
  512
  """
  # The kernel's mask wants the square of the parts to divide the slots.
  unit = math.lcm(_LANES, parts)
  least = _rounded(length, parts * unit)
  sizes = range(max(unit, _MOST // unit * unit), 0, -unit)
  return next(
    size
    for size in sizes
    if _rounded(length, parts * size) <= (1 + _PADDING) * least
  )


def _padded(x: Array, axis: int, length: int, value: int = 0) -> Array:
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, length - x.shape[axis])
  return jnp.pad(x, widths, constant_values=value)
