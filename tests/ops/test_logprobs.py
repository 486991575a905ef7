from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads

from selfimprove.ops import logprobs


def _logits(rows=5, vocabulary=7, seed=0):
  return 3 * jax.random.normal(jax.random.key(seed), (rows, vocabulary))


def test_probabilities_of_all_targets_sum_to_one():
  logits = _logits(rows=1)
  every = jnp.repeat(logits, 7, axis=0)
  selected = logprobs.selected_logprobs(every, jnp.arange(7))
  np.testing.assert_allclose(jnp.sum(jnp.exp(selected)), 1, rtol=1e-6)


def test_a_logprob_is_its_logit_less_the_log_of_the_normaliser():
  # log(1 + 2 + 5) = log 8, so the targets have log(1/8) and log(5/8).
  logits = jnp.log(jnp.array([[1.0, 2, 5], [1, 2, 5]]))
  selected = logprobs.selected_logprobs(logits, jnp.array([0, 2]))
  np.testing.assert_allclose(
    selected, [math.log(1 / 8), math.log(5 / 8)], rtol=1e-6
  )


@pytest.mark.parametrize('shift', [-1e4, 1e4])
def test_huge_logits_neither_overflow_nor_change_the_result(shift):
  # Multiples of 1/64: adding the shift then loses nothing in float32.
  logits = jnp.round(_logits() * 64) / 64
  targets = jnp.arange(5)
  np.testing.assert_array_equal(
    logprobs.selected_logprobs(logits + shift, targets),
    logprobs.selected_logprobs(logits, targets),
  )
  np.testing.assert_allclose(
    logprobs.entropy(logits + shift), logprobs.entropy(logits), rtol=1e-6
  )


def test_bfloat16_logits_are_normalised_in_float32():
  logits = _logits(vocabulary=2000).astype(jnp.bfloat16)
  targets = jnp.arange(5)
  selected = logprobs.selected_logprobs(logits, targets)
  assert selected.dtype == jnp.float32
  np.testing.assert_array_equal(
    selected, logprobs.selected_logprobs(logits.astype(jnp.float32), targets)
  )
  assert logprobs.entropy(logits).dtype == jnp.float32


def test_entropy_of_a_uniform_choice_is_the_log_of_its_size():
  np.testing.assert_allclose(
    logprobs.entropy(jnp.zeros((1, 7))), [math.log(7)], rtol=1e-6
  )


def test_entropy_is_the_mean_surprisal():
  logits = _logits()
  surprisal = jnp.stack(
    [-logprobs.selected_logprobs(logits, jnp.full(5, v)) for v in range(7)],
    axis=1,
  )
  np.testing.assert_allclose(
    logprobs.entropy(logits),
    jnp.sum(jnp.exp(-surprisal) * surprisal, axis=1),
    rtol=1e-5,
  )


def test_a_banned_token_is_as_good_as_absent():
  def total(logits):
    return jnp.sum(logprobs.entropy(logits))

  logits = _logits()
  banned = jnp.pad(logits, ((0, 0), (0, 1)), constant_values=-jnp.inf)
  expected, expected_gradient = jax.value_and_grad(total)(logits)
  value, gradient = jax.value_and_grad(total)(banned)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient[:, :7], expected_gradient, atol=1e-6)
  np.testing.assert_array_equal(gradient[:, 7], jnp.zeros(5))


def test_gradients_agree_with_finite_differences():
  with jax.enable_x64(True):
    logits = _logits().astype(jnp.float64)
    targets = jnp.arange(5)
    selected = jax.jit(lambda z: logprobs.selected_logprobs(z, targets))
    check_grads(selected, (logits,), 1, ['rev'])
    check_grads(jax.jit(logprobs.entropy), (logits,), 1, ['rev'])


# Chunks --------------------------------------------------------------------


def _inputs(rows, width=4, vocabulary=11):
  keys = jax.random.split(jax.random.key(3), 3)
  hidden = jax.random.normal(keys[0], (rows, width))
  targets = jax.random.randint(keys[1], (rows,), 0, vocabulary)
  unembedding = jax.random.normal(keys[2], (width, vocabulary))
  return hidden, targets, unembedding


def _score(unembedding):
  def score(inputs):
    hidden, targets = inputs
    logits = hidden @ unembedding
    return {
      'logprobs': logprobs.selected_logprobs(logits, targets),
      'entropy': logprobs.entropy(logits),
    }

  return score


def _loss(outputs):
  weights = jnp.arange(1.0, outputs['entropy'].shape[0] + 1)
  return jnp.sum(
    weights * (outputs['logprobs'] + 0.1 * outputs['entropy'] ** 2)
  )


def _chunked(chunk_size):
  def loss(hidden, targets, unembedding):
    return _loss(
      logprobs.chunked_map(
        _score(unembedding), (hidden, targets), chunk_size=chunk_size
      )
    )

  return loss


def _direct(hidden, targets, unembedding):
  return _loss(_score(unembedding)((hidden, targets)))


@pytest.mark.parametrize('chunk_size', [1, 5, 6, 13, 100])
def test_chunks_change_no_value_and_no_gradient(chunk_size):
  inputs = _inputs(rows=13)
  expected, expected_gradients = jax.jit(jax.value_and_grad(_direct, (0, 2)))(
    *inputs
  )
  value, gradients = jax.jit(jax.value_and_grad(_chunked(chunk_size), (0, 2)))(
    *inputs
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for gradient, reference in zip(gradients, expected_gradients):
    np.testing.assert_allclose(gradient, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('chunk_size', [1, 3, 5, 7])
def test_rows_come_back_in_their_order(chunk_size):
  rows = jnp.arange(7.0)
  doubled = logprobs.chunked_map(lambda x: 2 * x, rows, chunk_size=chunk_size)
  np.testing.assert_array_equal(doubled, 2 * rows)


def test_no_chunk_is_larger_than_asked():
  seen = []

  def record_size(x):
    seen.append(x.shape[0])
    return x

  logprobs.chunked_map(record_size, jnp.zeros((13, 2)), chunk_size=6)
  assert set(seen) == {5}  # Three equal chunks, 15 rows: 6 each would be 18.


def test_the_rows_that_fill_the_last_chunk_do_not_poison_gradients():
  # The derivative of √x at 0 is infinite: filling up with zeros would give NaN.
  gradient = jax.grad(
    lambda scale: jnp.sum(
      logprobs.chunked_map(
        lambda x: jnp.sqrt(scale * x), jnp.arange(1.0, 6), chunk_size=2
      )
    )
  )(1.0)
  # d/ds Σ √(s x) = Σ √x / 2 at s = 1.
  expected = sum(math.sqrt(x) for x in range(1, 6)) / 2
  np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_one_chunk_needs_no_loop():
  inputs = _inputs(rows=13)
  assert 'scan[' not in str(jax.make_jaxpr(_chunked(13))(*inputs))
  assert 'scan[' in str(jax.make_jaxpr(_chunked(12))(*inputs))


def _largest_array(hlo):
  shapes = re.findall(r'\b(?:f|bf|s|u|pred)\d*\[([\d,]+)\]', hlo)
  return max(math.prod(map(int, shape.split(','))) for shape in shapes)


@pytest.fixture(scope='module')
def large_programs():
  """Programs for 1024 tokens, v = 32768: direct logits take 128 MiB."""
  shapes = jax.eval_shape(lambda: _inputs(1024, width=16, vocabulary=2**15))
  return {
    name: jax.jit(jax.value_and_grad(loss, (0, 2))).lower(*shapes).compile()
    for name, loss in {
      'direct': _direct,
      'chunked': _chunked(16),
    }.items()
  }


def test_memory_grows_with_the_chunk_and_not_with_the_batch(large_programs):
  temporary = {
    name: program.memory_analysis().temp_size_in_bytes
    for name, program in large_programs.items()
  }
  logits_bytes = 1024 * 2**15 * 4
  assert temporary['direct'] >= logits_bytes
  assert temporary['chunked'] < logits_bytes / 8


def test_no_array_of_all_logits_is_ever_made(large_programs):
  logits_size = 1024 * 2**15
  assert _largest_array(large_programs['direct'].as_text()) >= logits_size
  # The largest arrays left: the unembedding, and the logits of one chunk.
  assert _largest_array(large_programs['chunked'].as_text()) == 16 * 2**15


def test_the_backward_pass_recomputes_even_a_single_chunk(large_programs):
  # Kept from the forward pass are the inputs and per-row numbers alone.
  shapes = jax.eval_shape(lambda: _inputs(1024, width=16, vocabulary=2**15))
  _, backward = jax.eval_shape(
    lambda *inputs: jax.vjp(
      lambda u: _chunked(1024)(*inputs[:2], u), inputs[2]
    ),
    *shapes,
  )
  kept = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(backward))
  assert kept < 2 * 16 * 2**15


def test_sharded_rows_stay_on_their_devices():
  hidden, targets, unembedding = _inputs(rows=64)
  mesh = jax.make_mesh((8,), ('data',))
  split = NamedSharding(mesh, PartitionSpec('data'))
  whole = NamedSharding(mesh, PartitionSpec())
  program = (
    jax.jit(
      jax.value_and_grad(_chunked(16), (0, 2)),
      in_shardings=(split, split, whole),
      out_shardings=(whole, (split, whole)),
    )
    .lower(hidden, targets, unembedding)
    .compile()
  )
  hlo = program.as_text()
  assert 'all-reduce' in hlo  # Of the loss and of the table's gradient.
  for moving in ('all-gather', 'all-to-all', 'collective-permute'):
    assert moving not in hlo


def test_a_chunk_without_rows_is_refused():
  with pytest.raises(ValueError, match='chunk_size is 0'):
    logprobs.chunked_map(jnp.negative, jnp.zeros(3), chunk_size=0)


def test_inputs_of_unequal_length_are_refused():
  with pytest.raises(ValueError, match=r'lengths \[2, 3\]'):
    logprobs.chunked_map(
      lambda xs: xs[0], (jnp.zeros(3), jnp.zeros(2)), chunk_size=2
    )
