"""Log-probabilities and entropies without an array of `t x v` logits.

The logits of a whole batch are by far its largest array. `chunked_map` computes
what is wanted of them a few rows at a time, and again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


def selected_logprobs(
  logits: Float[Array, 'n v'], targets: Int[Array, 'n']
) -> Float[Array, 'n']:
  """Log-probabilities of the target tokens, at least in float32.

  log π(y) = z_y − log Σ_v exp z_v

  Args:
    logits: unnormalised log-probabilities of any float type; -inf bans a token.
    targets: token ids in [0, v).

  Returns:
    Log-probability of each target, at most 0.

  Source: the definition of the softmax.
  Differs: no.

  >>> selected_logprobs(jnp.zeros((1, 1)), jnp.array([0])).tolist()
  [0.0]
  """
  logits = _at_least_float32(logits)
  # Taken off both summands first: far from 0, their difference loses digits.
  top = jax.lax.stop_gradient(jnp.max(logits, axis=1, keepdims=True))
  chosen = jnp.take_along_axis(logits, targets[:, None], axis=1) - top
  normaliser = jnp.log(jnp.sum(jnp.exp(logits - top), axis=1))
  return chosen[:, 0] - normaliser


def entropy(logits: Float[Array, 'n v']) -> Float[Array, 'n']:
  """Entropies of the next-token distributions, in nats.

  H(π) = −Σ_v π(v) log π(v)

  Args:
    logits: unnormalised log-probabilities of any float type; -inf bans a token.

  Returns:
    Entropy of each row, in [0, log v], at least in float32.

  Source: the definition.
  Differs: no.

  >>> float(entropy(jnp.zeros((1, 2)))[0]) == float(jnp.log(2.0))
  True
  """
  logprobs = jax.nn.log_softmax(_at_least_float32(logits), axis=1)
  # A banned token has probability 0, and 0 · −inf would be NaN.
  finite = jnp.where(jnp.isneginf(logprobs), 0, logprobs)
  return -jnp.sum(jnp.exp(logprobs) * finite, axis=1)


def chunked_map(
  fn: Callable[[PyTree], PyTree],
  inputs: PyTree,
  *,
  chunk_size: int,
  parts: int = 1,
) -> PyTree:
  """Outputs of `fn`, computed and differentiated a few rows at a time.

  The backward pass recomputes each chunk, so what `fn` makes of a chunk (its
  logits) exists for one chunk at a time, in both directions. Gradients reach
  whatever `fn` closes over; they are summed over chunks in the type that the
  closed-over array has, so close over float32 and cast inside `fn`.

  A chunk takes rows that are evenly spread over the batch, not neighbours: if
  rows are sharded over devices, every chunk then is, and none has to move.
  That holds for any number of rows if `parts` says over how many devices.

  Args:
    fn: maps a pytree of [c, ...] arrays to a pytree of [c, ...] arrays, each
      row by itself, for any c.
    inputs: pytree of [n, ...] arrays.
    chunk_size: most rows of a chunk in each part, at least 1; n or more makes
      one chunk without a loop. The n rows are cut into chunks of equal size.
    parts: equal runs of neighbouring rows, such as those that are on different
      devices, of each of which every chunk has equally many; those that do not
      divide n count as one.

  Returns:
    What `fn(inputs)` returns: a pytree of [n, ...] arrays.

  Raises:
    ValueError: if `chunk_size` is below 1 or the inputs differ in length.

  Source: rematerialisation, arXiv:1604.06174 section 4.
  Differs: one segment per chunk of rows rather than of layers.

  >>> chunked_map(jnp.negative, jnp.array([1.0, 2.0]), chunk_size=1).tolist()
  [-1.0, -2.0]
  """
  rows = _row_count(inputs)
  if chunk_size < 1:
    raise ValueError(
      f'chunk_size is {chunk_size}: a chunk has at least one row; pass a '
      'positive number, 512 for instance.'
    )
  parts = 1 if rows % parts else parts
  if chunk_size >= rows // parts:
    return jax.checkpoint(fn)(inputs)
  steps = -(-rows // parts // chunk_size)
  chunks = jax.tree.map(lambda x: _split(x, steps, parts), inputs)
  # Inside a loop nothing can merge the recomputation with the first pass.
  outputs = jax.lax.map(jax.checkpoint(fn, prevent_cse=False), chunks)
  return jax.tree.map(lambda y: _join(y, rows, parts), outputs)


def _at_least_float32(x: Float[Array, '...']) -> Float[Array, '...']:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _row_count(inputs: PyTree) -> int:
  lengths = sorted({x.shape[0] for x in jax.tree.leaves(inputs)})
  if len(lengths) != 1:
    raise ValueError(
      f'chunked_map got inputs of lengths {lengths}: it cuts all of them in '
      'the same places; pass one or more arrays with equally many rows.'
    )
  return lengths[0]


def _split(x: Array, steps: int, parts: int) -> Array:
  """Returns [steps, parts * c, ...]; a part's last row fills what is missing.

  A real row rather than zeros: `fn` need not be differentiable at zero.
  """
  rows = x.shape[0] // parts
  size = -(-rows // steps)
  x = x.reshape(parts, rows, *x.shape[1:])
  missing = size * steps - rows
  if missing:
    widths = [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, widths, mode='edge')
  x = jnp.moveaxis(x.reshape(parts, size, steps, *x.shape[2:]), 2, 0)
  return x.reshape(steps, parts * size, *x.shape[3:])


def _join(y: Array, rows: int, parts: int) -> Array:
  """Undoes `_split`."""
  steps, size = y.shape[0], y.shape[1] // parts
  y = jnp.moveaxis(y.reshape(steps, parts, size, *y.shape[2:]), 0, 2)
  y = y.reshape(parts, size * steps, *y.shape[3:])
  return y[:, : rows // parts].reshape(rows, *y.shape[2:])
