"""What tests of attention attend to: random keys, values and queries."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from selfimprove.models.attention import KeyValue

HEADS, KV_HEADS, SIZE = 4, 2, 8


def normal(seed, *shape):
  """Returns standard normal numbers."""
  return jax.random.normal(jax.random.key(seed), shape)


def make_part(seed, positions):
  """Returns keys and values of slots with such positions; -1 is empty."""
  positions = jnp.asarray(positions, jnp.int32)
  rows, slots = positions.shape
  return KeyValue(
    keys=normal(seed, rows, KV_HEADS, slots, SIZE),
    values=normal(seed + 1, rows, KV_HEADS, slots, SIZE),
    positions=positions,
  )


def make_queries(positions):
  """Returns queries of such positions, and these as an array."""
  positions = jnp.asarray(positions, jnp.int32)
  return normal(7, *positions.shape, HEADS, SIZE), positions
