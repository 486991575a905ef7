from __future__ import annotations

import dataclasses
import math
import re

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.models.attention import KeyValue, attend, rotate
from tests.models.attention_inputs import (
  HEADS,
  KV_HEADS,
  SIZE,
  make_part,
  make_queries,
  normal,
)


def naive(query, query_positions, part, window, soft_cap):
  """One query, head and slot at a time, in f64."""
  q, k, v = (np.asarray(x, np.float64) for x in (query, part.keys, part.values))
  out = np.zeros(q.shape)
  for b, i, h in np.ndindex(q.shape[:3]):
    at, shared = int(query_positions[b, i]), h * KV_HEADS // HEADS
    seen = [
      j
      for j, p in enumerate(np.asarray(part.positions[b]))
      if 0 <= p <= at and (window is None or at - p < window)
    ]
    logits = np.array([q[b, i, h] @ k[b, shared, j] for j in seen])
    if soft_cap is not None:
      logits = soft_cap * np.tanh(logits / soft_cap)
    weights = np.exp(logits - logits.max())
    out[b, i, h] = weights / weights.sum() @ v[b, shared, seen]
  return out


def test_a_quarter_turn_moves_each_pair_by_ninety_degrees():
  # Pairs are (0, 2) and (1, 3): (1, 3) turns to (-3, 1), and (2, 4), whose
  # frequency is 0, stays. Neighbours as pairs would turn (1, 2).
  x = jnp.asarray([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
  frequencies = jnp.asarray([math.pi / 2, 0.0], jnp.float32)
  turned = rotate(x, jnp.ones((1, 1), jnp.int32), frequencies)
  np.testing.assert_allclose(turned[0, 0, 0], [-3, 2, 1, 4], atol=1e-6)
  empty = rotate(x, -jnp.ones((1, 1), jnp.int32), frequencies)
  np.testing.assert_array_equal(empty, x)


def test_products_of_rotated_vectors_depend_on_the_distance_alone():
  frequencies = 10.0 ** -jnp.arange(SIZE // 2, dtype=jnp.float32)
  query, key = normal(0, 1, 1, 1, SIZE), normal(1, 1, 1, 1, SIZE)

  def product(m, n):
    turned = [
      rotate(x, jnp.full((1, 1), position, jnp.int32), frequencies)
      for x, position in ((query, m), (key, n))
    ]
    return float(jnp.sum(turned[0] * turned[1]))

  assert product(9, 4) == pytest.approx(product(25, 20), abs=1e-5)
  assert product(9, 4) != pytest.approx(product(9, 5), abs=1e-2)


@pytest.mark.parametrize('window', [None, 2])
@pytest.mark.parametrize('soft_cap', [None, 1.5])
def test_attention_equals_a_loop_over_heads_and_slots(window, soft_cap):
  positions = [[-1, 0, 1, -1, 2], [0, 1, 2, 3, 4]]
  part = make_part(0, positions)
  query, at = make_queries(positions)
  out = attend(query, at, [part], window=window, soft_cap=soft_cap)
  real = np.asarray(positions) >= 0
  # The naive loop cannot average over nothing, so empty queries look at 0.
  expected = naive(query, jnp.maximum(at, 0), part, window, soft_cap)
  np.testing.assert_allclose(out[real], expected[real], atol=1e-5)


def test_parts_are_one_softmax_also_when_logits_are_far_apart():
  first = make_part(0, [[-1, 0, 1], [0, 1, 2]])
  second = make_part(2, [[2, 3], [3, -1]])
  # Without a common maximum exp(300) would overflow.
  first = dataclasses.replace(first, keys=100 * first.keys)
  both = KeyValue(
    keys=jnp.concatenate([first.keys, second.keys], axis=2),
    values=jnp.concatenate([first.values, second.values], axis=2),
    positions=jnp.concatenate([first.positions, second.positions], axis=1),
  )
  query, at = make_queries([[2, 3], [3, 4]])
  options = {'window': None, 'soft_cap': None}
  whole = attend(query, at, [both], **options)
  assert bool(jnp.all(jnp.isfinite(whole)))
  # A logit of 300 is known to 3e-5 in f32, and so is its weight.
  np.testing.assert_allclose(
    attend(query, at, [first, second], **options), whole, atol=3e-4
  )


def test_a_row_of_the_cache_serves_a_run_of_neighbouring_rows():
  shared = make_part(0, [[-1, 0, 1], [0, 1, 2]])
  own = make_part(2, [[2], [2], [2], [3], [3], [3]])
  query, at = make_queries([[2], [2], [2], [3], [3], [3]])
  repeated = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=0), shared)
  options = {'window': 3, 'soft_cap': None}
  np.testing.assert_allclose(
    attend(query, at, [shared, own], **options),
    attend(query, at, [repeated, own], **options),
    atol=1e-6,
  )


def test_rows_that_cannot_be_shared_evenly_are_refused():
  query, at = make_queries([[1], [1], [1]])
  with pytest.raises(ValueError, match='3 rows of queries cannot share 2 rows'):
    attend(query, at, [make_part(0, [[0], [0]])], window=None, soft_cap=None)


@pytest.mark.parametrize('window', [1, 3])
def test_a_window_ends_exactly_behind_its_last_token(window):
  """A key at distance window - 1 counts, the one before it does not."""
  part = make_part(0, [[0, 1, 2, 3, 4]])
  query, at = make_queries([[4]])

  def mixed(values):
    moved = dataclasses.replace(part, values=values)
    return jnp.sum(attend(query, at, [moved], window=window, soft_cap=None))

  reach = jnp.sum(jnp.abs(jax.grad(mixed)(part.values)), axis=(0, 1, 3))
  assert (np.asarray(reach) > 0).tolist() == [i > 4 - window for i in range(5)]


def test_a_query_that_sees_nothing_leaves_values_and_gradients_finite():
  shared = make_part(0, [[-1, -1, -1]])
  own = make_part(2, [[-1, 0]])
  query, at = make_queries([[-1, 0]])

  def total(query, shared_values, own_keys):
    parts = [
      dataclasses.replace(shared, values=shared_values),
      dataclasses.replace(own, keys=own_keys),
    ]
    out = attend(query, at, parts, window=None, soft_cap=2.0)
    return jnp.sum(out[:, 1]), out

  gradient = jax.grad(total, argnums=(0, 1, 2), has_aux=True)
  slopes, out = gradient(query, shared.values, own.keys)
  assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(slopes))
  assert bool(jnp.all(jnp.isfinite(out)))
  # The real query sees slot 1 of its own part alone.
  np.testing.assert_allclose(out[0, 1, 0], own.values[0, 0, 1], atol=1e-6)
  np.testing.assert_array_equal(slopes[1], jnp.zeros_like(shared.values))


def _sizes(jaxpr):
  """Elements of every array that a program computes, sub-programs included."""
  for equation in jaxpr.eqns:
    yield from (math.prod(v.aval.shape) for v in equation.outvars)
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from _sizes(inner)


def test_keys_of_a_shared_prompt_are_never_repeated():
  """No array is as large as the group's copies of the prompt would be."""
  rows, group, slots = 2, 6, 64
  shared = make_part(0, [range(slots)] * rows)
  query, at = make_queries([[slots]] * (rows * group))
  copies = rows * group * KV_HEADS * slots * SIZE

  def mixed(query, keys, values):
    part = dataclasses.replace(shared, keys=keys, values=values)
    return jnp.sum(attend(query, at, [part], window=None, soft_cap=None))

  forward_and_back = jax.value_and_grad(mixed, argnums=(0, 1, 2))
  arguments = (query, shared.keys, shared.values)
  traced = jax.make_jaxpr(forward_and_back)(*arguments)
  assert shared.keys.size <= max(_sizes(traced.jaxpr)) < copies

  hlo = jax.jit(forward_and_back).lower(*arguments).compile().as_text()
  shapes = re.findall(r'\b(?:f32|bf16|pred|s32)\[([\d,]+)\]', hlo)
  largest = max(math.prod(map(int, s.split(','))) for s in shapes)
  assert shared.keys.size <= largest < copies
