"""The samples of a group in fewer rows, for the networks to read.

Samples end where they end, and the slots behind them cost as much as tokens do.
Packed, several samples share a row; each sees the prompt and itself. Only the
networks see packed rows: what they say is put back where it belongs, so that
losses know nothing of packing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from selfimprove.types import Critic, Params, Policy


def first_fit(
  lengths: Int[Array, 'g'], *, rows: int, width: int
) -> tuple[Int[Array, 'g'], Int[Array, 'g']]:
  """Where each sample begins: longest first, in the first row with room.

  Args:
    lengths: tokens of each sample, 0 to `width`.
    rows: how many there are, at least 1.
    width: slots of a row.

  Returns:
    Row and first slot of each sample; row `rows` where none has room.

  Source: the rule "first-fit decreasing" for bin packing.
  Differs: no.

  >>> lengths = jnp.array([1, 4, 3])
  >>> [x.tolist() for x in first_fit(lengths, rows=2, width=4)]
  [[1, 0, 1], [3, 0, 0]]
  """

  def place(used: Array, length: Array) -> tuple[Array, tuple[Array, Array]]:
    room = used + length <= width
    row = jnp.where(room.any(), jnp.argmax(room), rows)
    offset = jnp.take(used, row, mode='fill', fill_value=0)
    return used.at[row].add(length, mode='drop'), (row, offset)

  order = jnp.argsort(-lengths, stable=True)
  empty = jnp.zeros((rows,), lengths.dtype)
  _, (row, offset) = jax.lax.scan(place, empty, lengths[order])
  back = jnp.argsort(order)
  return row[back], offset[back]


def fits(
  positions: Int[Array, 'b n'], *, group_size: int, rows: int
) -> Bool[Array, 'p']:
  """Which groups have room in so many rows.

  Args:
    positions: of the samples' tokens, -1 in empty slots.
    group_size: samples of a group.
    rows: that they are packed into.

  Returns:
    One flag per group.
  """
  row, _ = _places(positions, group_size, rows)
  return (row < rows).all(axis=1)


def read(
  network: Policy | Critic,
  params: Params,
  prompts: tuple[Int[Array, 'p m'], Int[Array, 'p m']],
  tokens: Int[Array, 'b n'],
  positions: Int[Array, 'b n'],
  *,
  rows: int,
) -> tuple[Float[Array, 'p m d'], Float[Array, 'b n d']]:
  """Hidden states of prompts and of the samples that follow them.

  If a group does not fit, all are read a row each: nothing is ever cut off.
  Both ways are compiled, and memory is that of both.

  Args:
    network: the policy or critic.
    params: its parameters.
    prompts: tokens and positions, one row per group.
    tokens: of the samples.
    positions: theirs, -1 in empty slots.
    rows: that the samples of a group are packed into; 0 to read each alone.

  Returns:
    A hidden state per slot of prompts and of samples; arbitrary in empty ones.

  Raises:
    ValueError: so many rows are no fewer than the samples.
  """

  def alone(params: Params) -> tuple[Array, Array]:
    return network.follow(params, prompts, tokens, positions)

  if rows == 0:
    return alone(params)
  group_size = tokens.shape[0] // prompts[0].shape[0]
  if rows >= group_size:
    raise ValueError(
      f'packed_rows={rows} for groups of {group_size} samples packs nothing; '
      'choose fewer, or 0 to read each sample alone.'
    )

  row, offset = _places(positions, group_size, rows)

  def packed(params: Params) -> tuple[Array, Array]:
    begin = row * tokens.shape[1] + offset
    return _read_packed(
      network, params, prompts, tokens, positions, begin, rows
    )

  return jax.lax.cond((row < rows).all(), packed, alone, params)


def _places(
  positions: Array, group_size: int, rows: int
) -> tuple[Array, Array]:
  """Row and first slot of each sample of each group, Int[p g] both."""
  width = positions.shape[1]
  lengths = jnp.sum(positions >= 0, axis=1, dtype=jnp.int32)
  return jax.vmap(lambda one: first_fit(one, rows=rows, width=width))(
    lengths.reshape(-1, group_size)
  )


def _read_packed(
  network: Policy | Critic,
  params: Params,
  prompts: tuple[Array, Array],
  tokens: Array,
  positions: Array,
  begin: Array,
  rows: int,
) -> tuple[Array, Array]:
  """`read` where everything fits: from slot begin[p g] of the group's on."""
  width, group_size = tokens.shape[1], begin.shape[1]
  empty = rows * width
  real = (positions >= 0).reshape(-1, group_size, width)
  place = begin[:, :, None] + jnp.cumsum(real, axis=2) - 1
  # Slots of a group, flat: [p, g * n] places among [p, rows * n].
  place = jnp.where(real, place, empty).reshape(-1, group_size * width)
  samples = jnp.repeat(jnp.arange(group_size, dtype=jnp.int32), width)

  def put(values: Array, blank: int) -> Array:
    flat = jnp.broadcast_to(values.reshape(-1, place.shape[1]), place.shape)
    dense = jnp.full((place.shape[0], empty), blank, values.dtype)
    dense = jax.vmap(lambda d, at, x: d.at[at].set(x, mode='drop'))(
      dense, place, flat
    )
    return dense.reshape(-1, width)

  of_prompts, hidden = network.follow(
    params, prompts, put(tokens, 0), put(positions, -1), put(samples, -1)
  )
  hidden = hidden.reshape(place.shape[0], empty, -1)
  found = jnp.take_along_axis(
    hidden, place[:, :, None], axis=1, mode='fill', fill_value=0
  )
  return of_prompts, found.reshape(*tokens.shape, -1)
