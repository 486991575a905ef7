"""What the tokens of a call see: a cache, or the prompt that they follow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from selfimprove import partitioning
from selfimprove.models.attention import KeyValue, attend, rotate
from selfimprove.models.attention_kernels import (
  attend_whole,
  choose,
  fills_a_block,
)
from selfimprove.models.config import TransformerConfig
from selfimprove.models.remat import MIXED, kept
from selfimprove.token_parts import Parts

Mix = Callable[
  [Float[Array, 'b n h k'], Float[Array, 'b n kv k'], Float[Array, 'b n kv k']],
  tuple[Float[Array, 'b n h k'], KeyValue | None],
]
"""(queries, keys, values) -> the values that each query sees, mixed; and what
is kept of keys and values."""


class Text(NamedTuple):
  """Rows of tokens that are read at once.

  Attributes:
    tokens: ids.
    positions: -1 in empty slots.
    segments: which of the texts in a row each token belongs to; None for one.
    parts: on which devices they are.
  """

  tokens: Int[Array, 'b c']
  positions: Int[Array, 'b c']
  segments: Int[Array, 'b c'] | None
  parts: Parts

  @classmethod
  def of(
    cls,
    tokens: Int[Array, 'b c'],
    positions: Int[Array, 'b c'],
    segments: Int[Array, 'b c'] | None,
    layout: str,
  ) -> Text:
    """A text with as many empty slots as divide over the mesh in context.

    Args:
      tokens: ids.
      positions: -1 in empty slots.
      segments: of each token, or None.
      layout: of the model; one of `partitioning.TRAINING_LAYOUTS`.
    """
    parts = Parts.of(layout, tokens.shape[0])
    pad = functools.partial(
      jnp.pad, pad_width=((0, 0), (0, parts.missing(tokens.shape[1])))
    )
    if segments is not None:
      segments = pad(segments, constant_values=-1)
    return cls(pad(tokens), pad(positions, constant_values=-1), segments, parts)


def joined(
  arrays: Sequence[Array], texts: Sequence[Text], *names: str | None
) -> Shaped[Array, 'parts n ...']:
  """Arrays of several texts as one, with what a device has of all in a row.

  Args:
    arrays: one per text.
    texts: to which they belong.
    *names: logical names of the axes behind rows and slots.

  Returns:
    One array, in which each part has the tokens of the texts in their order.
  """
  each = zip(arrays, texts, strict=True)
  apart = [text.parts.apart(x, *names) for x, text in each]
  return jnp.concatenate(apart, axis=1)


def separated(
  x: Shaped[Array, 'parts n ...'], texts: Sequence[Text], *names: str | None
) -> list[Array]:
  """Undoes `joined`.

  Args:
    x: what it made.
    texts: that it was given.
    *names: logical names of the axes behind the first two.

  Returns:
    One array per text.
  """
  sizes = [text.tokens.size // x.shape[0] for text in texts]
  ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
  return [
    text.parts.together(part, *names, rows=text.tokens.shape[0])
    for part, text in zip(jnp.split(x, ends, axis=1), texts, strict=True)
  ]


def with_cache(
  config: TransformerConfig,
  layout: str,
  positions: Int[Array, 'b n'],
  frequencies: Float[Array, 'half'],
  window: Int[Array, ''] | int | None,
  shared: Sequence[KeyValue],
  own: KeyValue | None,
  index: Int[Array, ''] | int,
) -> Mix:
  """Tokens that see a cache, and each other.

  Args:
    config: of the model.
    layout: one of `partitioning.LAYOUTS`.
    positions: of the tokens, -1 in empty slots.
    frequencies: rotary angles per position.
    window: number of latest positions seen, the query's own included.
    shared: parts of the cache that are only read.
    own: the part that the tokens are appended to; None to begin one.
    index: its first free slot.

  Returns:
    A function that keeps `own` with the tokens appended.
  """

  def mix(query: Array, keys: Array, values: Array) -> tuple[Array, KeyValue]:
    keys = rotate(keys, positions, frequencies)
    fresh = _fresh(config, layout, keys, values, positions, None)
    now = fresh if own is None else _append(own, fresh, index)
    mixed = _attend(
      config,
      layout,
      rotate(query, positions, frequencies),
      positions,
      (*shared, now),
      window=window,
      whole=own is None,
      segments=None,
    )
    return mixed, now

  return mix


def following(
  config: TransformerConfig,
  texts: Sequence[Text],
  frequencies: Float[Array, 'half'],
  window: Int[Array, ''] | int | None,
) -> Mix:
  """Tokens of prompts and of what follows them, joined.

  Args:
    config: of the model.
    texts: prompts, and what follows them; each sees the one before it.
    frequencies: rotary angles per position.
    window: number of latest positions seen, the query's own included.

  Returns:
    A function of joined arrays that keeps nothing.
  """

  def mix(query: Array, keys: Array, values: Array) -> tuple[Array, None]:
    found, seen = [], tuple[KeyValue, ...]()
    queries = separated(query, texts, 'heads', None)
    of_keys = [separated(x, texts, 'kv_heads', None) for x in (keys, values)]
    for text, q, k, v in zip(texts, queries, *of_keys, strict=True):
      layout, at = text.parts.layout, text.positions
      k = rotate(k, at, frequencies)
      fresh = _fresh(config, layout, k, v, at, text.segments)
      mixed = _attend(
        config,
        layout,
        rotate(q, at, frequencies),
        at,
        (*seen, fresh),
        window=window,
        whole=True,
        segments=text.segments,
      )
      found.append(mixed)
      seen = (fresh,)
    return joined(found, texts, 'heads', None), None

  return mix


def _fresh(
  config: TransformerConfig,
  layout: str,
  keys: Array,
  values: Array,
  positions: Array,
  segments: Array | None,
) -> KeyValue:
  """Queries stay divided along the tokens, and see all keys."""
  names = ('batch', None, 'kv_heads', None)
  rules = partitioning.LAYOUTS[layout]
  keys = partitioning.constrain(keys, *names, rules=rules)
  values = partitioning.constrain(values, *names, rules=rules)
  return KeyValue(
    keys=_as_read(config, keys, 'key'),
    values=_as_read(config, values, 'value'),
    positions=positions,
    segments=segments,
  )


def _as_read(
  config: TransformerConfig, x: Float[Array, 'b n h k'], name: str
) -> Float[Array, 'b h n k']:
  """`x` with its heads apart, as kernels read it, and so kept under `name`.

  The backward pass then neither turns nor copies it again. Norms of queries and
  keys have to be computed again, and those are kept before them (`layers`).
  """
  x = x.swapaxes(1, 2)
  return x if config.qk_norm and name != 'value' else kept(x, name)


def _attend(
  config: TransformerConfig,
  layout: str,
  query: Array,
  positions: Array,
  parts: Sequence[KeyValue],
  *,
  window: Int[Array, ''] | int | None,
  whole: bool,
  segments: Array | None,
) -> Array:
  """By the implementation that serves the call."""
  names = ('batch', 'tokens', 'heads', None)
  rules = partitioning.LAYOUTS[layout]
  query = query * config.scale_of_queries()
  query = partitioning.constrain(query, *names, rules=rules)
  query = _as_read(config, query, 'query').swapaxes(1, 2)
  columns = partitioning.grid(layout)[1]
  implementation = choose(
    config.attention,
    whole=whole,
    window=window is not None,
    packed=segments is not None,
    split=columns > 1,
    few=columns > 1 and not fills_a_block(query.shape[1] // columns),
    soft_cap=config.attention_soft_cap is not None,
    dtype=config.dtype,
  )
  by = attend
  if implementation != 'xla':
    by = functools.partial(
      attend_whole, implementation=implementation, layout=layout
    )
  mixed = by(
    query,
    positions,
    parts,
    window=window,
    soft_cap=config.attention_soft_cap,
    segments=segments,
  )
  return kept(partitioning.constrain(mixed, *names, rules=rules), MIXED)


def _append(
  own: KeyValue, fresh: KeyValue, index: Int[Array, ''] | int
) -> KeyValue:
  """`own` with `fresh` written from slot `index` on."""
  write = jax.lax.dynamic_update_slice_in_dim
  return KeyValue(
    keys=write(own.keys, fresh.keys, index, axis=2),
    values=write(own.values, fresh.values, index, axis=2),
    positions=write(own.positions, fresh.positions, index, axis=1),
  )
