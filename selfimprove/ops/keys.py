"""Keys for named uses of randomness."""

from __future__ import annotations

import zlib

import jax
from jaxtyping import Array, Key


def named_key(key: Key[Array, ''], name: str) -> Key[Array, '']:
  """The key of one named use of randomness.

  Names keep streams apart: `fold_in(key, 3)` can equal `split(key, 8)[3]`, so
  keys derived here by counting and there by splitting could coincide.

  Args:
    key: of the run or the step.
    name: of the use, such as `'rollout'`.

  Returns:
    A key that another name does not yield.

  >>> jax.random.bits(named_key(jax.random.key(0), 'rollout')).shape
  ()
  """
  return jax.random.fold_in(key, zlib.crc32(name.encode()))
