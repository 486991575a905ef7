"""Drawing tokens from logits.

A token is drawn by inverting the cumulative distribution with two uniform
numbers, one choosing a block of the vocabulary and one a token of the block:
one exponential per logit, where the Gumbel trick also needs a random number
per logit. All the uniforms of a row can be made before the decode loop.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

# Fewer would be long: of GPT-2's 50257 tokens, one block is all that divides.
_FEW_BLOCKS = 64


def keyed_uniforms(
  row_keys: Key[Array, 'b'], positions: Int[Array, 'n']
) -> Float[Array, 'b n 2']:
  """The random numbers of tokens, a function of row key and position alone.

  Args:
    row_keys: one key per row, unique to the sample.
    positions: what tells the tokens of one row apart.

  Returns:
    Uniform numbers in [0, 1), f32.

  >>> keyed_uniforms(
  ...   jax.random.split(jax.random.key(0), 2), jnp.arange(3)
  ... ).shape
  (2, 3, 2)
  """

  def of_token(key: jax.Array, position: jax.Array) -> jax.Array:
    return jax.random.uniform(jax.random.fold_in(key, position), (2,))

  per_row = jax.vmap(of_token, in_axes=(None, 0))
  return jax.vmap(per_row, in_axes=(0, None))(row_keys, positions)


def sample_tokens(
  logits: Float[Array, 'b v'],
  uniforms: Float[Array, 'b 2'],
  *,
  temperature: Float[Array, ''] | float = 1.0,
  top_k: int | None = None,
  top_p: Float[Array, ''] | float | None = None,
) -> tuple[Int[Array, 'b'], Float[Array, 'b']]:
  """Tokens drawn from softmax(logits / temperature), perhaps truncated.

  Truncation first keeps the `top_k` likeliest tokens, then the smallest set of
  likeliest tokens whose probability reaches `top_p`, and renormalises.

  Args:
    logits: unnormalised log-probabilities, f32; -inf forbids a token.
    uniforms: numbers in [0, 1) that decide the draw.
    temperature: >= 0; 0 takes the likeliest token.
    top_k: tokens kept, in [1, v]; None keeps all.
    top_p: probability kept, in (0, 1]; None keeps all.

  Returns:
    Token ids i32, and the log-probability of each in the distribution that it
    was drawn from (0 when temperature is 0: that draw is certain).

  Raises:
    ValueError: top_k outside [1, v].

  Source: top-k arXiv 1805.04833; top-p arXiv 1904.09751.
  Differs: no.

  >>> float(sample_tokens(jnp.zeros((1, 4)), jnp.zeros((1, 2)))[1][0])
  -1.3862943649291992
  """
  vocab = logits.shape[-1]
  if top_k is not None and not 1 <= top_k <= vocab:
    raise ValueError(
      f'top_k={top_k} is outside [1, {vocab}]; use None to keep all tokens.'
    )
  greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  cold = jnp.asarray(temperature, logits.dtype) <= 0
  scaled = logits / jnp.where(cold, 1.0, temperature)
  if top_k is None and top_p is None:
    drawn, logprobs = _invert_cdf(scaled, uniforms)
  else:
    kept, ids = jax.lax.top_k(scaled, top_k or vocab)
    if top_p is not None:
      kept = _nucleus(kept, top_p)
    rank, logprobs = _invert_cdf(kept, uniforms)
    drawn = jnp.take_along_axis(ids, rank[:, None], axis=-1)[:, 0]
  return jnp.where(cold, greedy, drawn), jnp.where(cold, 0.0, logprobs)


def _nucleus(
  sorted_logits: Float[Array, 'b n'], top_p: Float[Array, ''] | float
) -> Float[Array, 'b n']:
  """Sorted logits with those outside the nucleus set to -inf."""
  probs = jax.nn.softmax(sorted_logits, axis=-1)
  before = jnp.cumsum(probs, axis=-1) - probs
  # The likeliest token stays whatever rounding does to its `before` of zero.
  keep = (before < top_p) | (jnp.arange(probs.shape[-1]) == 0)[None, :]
  return jnp.where(keep, sorted_logits, -jnp.inf)


def _blocks(vocab: int) -> tuple[int, int]:
  """How many blocks of how many tokens, near the root of the vocabulary each.

  Those of a large vocabulary are a power of two that divides it, so that they
  divide over the devices that share its logits, and nobody gathers these.
  """
  width = math.isqrt(vocab - 1) + 1
  blocks = math.gcd(vocab, 1 << (width.bit_length() - 1))
  if blocks < _FEW_BLOCKS:
    return -(-vocab // width), width
  return blocks, vocab // blocks


def _invert_cdf(
  logits: Float[Array, 'b v'], uniforms: Float[Array, 'b 2']
) -> tuple[Int[Array, 'b'], Float[Array, 'b']]:
  """Tokens by two-level inversion, and their log-probabilities."""
  rows, vocab = logits.shape
  blocks, width = _blocks(vocab)
  top = jnp.max(logits, axis=-1, keepdims=True)
  mass = jnp.exp(logits - top)
  mass = jnp.pad(mass, ((0, 0), (0, blocks * width - vocab)))
  mass = mass.reshape(rows, blocks, width)
  block = _first_above(mass.sum(axis=-1), uniforms[:, 0])
  chosen = jnp.take_along_axis(mass, block[:, None, None], axis=1)[:, 0]
  token = block * width + _first_above(chosen, uniforms[:, 1])
  picked = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
  # Not picked - (top + log ...): large logits would round that sum away.
  logprobs = (picked - top[:, 0]) - jnp.log(mass.sum(axis=(1, 2)))
  return token.astype(jnp.int32), logprobs


def _first_above(
  mass: Float[Array, 'b n'], uniform: Float[Array, 'b']
) -> Int[Array, 'b']:
  """First index with mass whose cumulative mass exceeds uniform * total."""
  cumulative = jnp.cumsum(mass, axis=-1)
  target = (uniform * cumulative[:, -1])[:, None]
  index = jnp.arange(mass.shape[-1], dtype=jnp.int32)[None, :]
  # A long cumulative sum is added up in parallel: rounding makes it grow, or
  # even shrink, on entries without mass, so they are left out by name. It may
  # also put the target on the total: the last entry with mass is then right.
  last = jnp.max(jnp.where(mass > 0, index, 0), axis=-1, keepdims=True)
  above = (cumulative > target) & (mass > 0)
  return jnp.min(jnp.where(above, index, last), axis=-1)
