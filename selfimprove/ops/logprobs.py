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
  fn: Callable[[PyTree], PyTree], inputs: PyTree, *, chunk_size: int
) -> PyTree:
  """Outputs of `fn`, computed and differentiated a few rows at a time.

  The backward pass recomputes each chunk, so what `fn` makes of a chunk (its
  logits) exists for one chunk at a time, in both directions. Gradients reach
  whatever `fn` closes over; they are summed over chunks in the type that the
  closed-over array has, so close over float32 and cast inside `fn`.

  A chunk takes rows that are evenly spread over the batch, not neighbours: if
  rows are sharded over devices, every chunk then is, and none has to move.

  Args:
    fn: maps a pytree of [c, ...] arrays to a pytree of [c, ...] arrays, each
      row by itself, for any c.
    inputs: pytree of [n, ...] arrays.
    chunk_size: most rows of a chunk, at least 1; n or more makes one chunk
      without a loop. The n rows are cut into chunks of equal size.

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
  if chunk_size >= rows:
    return jax.checkpoint(fn)(inputs)
  steps = -(-rows // chunk_size)
  chunks = jax.tree.map(lambda x: _split(x, steps), inputs)
  # Inside a loop nothing can merge the recomputation with the first pass.
  outputs = jax.lax.map(jax.checkpoint(fn, prevent_cse=False), chunks)
  return jax.tree.map(lambda y: _join(y)[:rows], outputs)


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


def _split(x: Array, steps: int) -> Array:
  """Returns [steps, c, ...]; the last row fills up what is missing.

  A real row rather than zeros: `fn` need not be differentiable at zero.
  """
  size = -(-x.shape[0] // steps)
  missing = size * steps - x.shape[0]
  if missing:
    widths = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
    x = jnp.pad(x, widths, mode='edge')
  return x.reshape(size, steps, *x.shape[1:]).swapaxes(0, 1)


def _join(y: Array) -> Array:
  steps, size = y.shape[:2]
  return y.swapaxes(0, 1).reshape(steps * size, *y.shape[2:])
