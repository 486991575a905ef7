from __future__ import annotations

import jax
import numpy as np
import pytest

from selfimprove.ops.keys import named_key

KEY = jax.random.key(11)


def bits(key):
  return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_a_name_always_gives_the_same_key():
  # crc32(b'rollout') = 0x74a0c58f: Python's `hash` would differ by process.
  expected = jax.random.fold_in(KEY, np.uint32(0x74A0C58F))
  assert bits(named_key(KEY, 'rollout')) == bits(expected)


def test_names_and_keys_tell_streams_apart():
  names = ('rollout', 'noise', 'params', 'data', 'evaluate', '')
  keys = [named_key(k, n) for k in (KEY, jax.random.key(12)) for n in names]
  assert len(set(map(bits, keys))) == 12


@pytest.mark.parametrize('count', [2, 8, 64])
def test_no_named_stream_is_one_made_by_counting_or_splitting(count):
  counted = [bits(jax.random.fold_in(KEY, i)) for i in range(count)]
  split = list(map(bits, jax.random.split(KEY, count)))
  for name in ('rollout', 'noise', 'evaluate'):
    assert bits(named_key(KEY, name)) not in counted + split


def test_it_works_inside_jit():
  inside = jax.jit(lambda key: named_key(key, 'noise'))(KEY)
  assert bits(inside) == bits(named_key(KEY, 'noise'))
