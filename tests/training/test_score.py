from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove import partitioning
from selfimprove.training.score import score
from tests.rollout import tiny

EVERYTHING = ('entropy', 'exact_kl')


@functools.partial(jax.jit, static_argnames='chunk_size')
def compiled(params, ref_params, rollout, chunk_size):
  return score(
    tiny.POLICY,
    params,
    rollout,
    needs=EVERYTHING,
    ref_params=ref_params,
    chunk_size=chunk_size,
  )


def scored(rollout, *, params=None, ref_params=None, chunk_size=2048):
  """Scores with all streams; one program per shape for all the tests."""
  params = tiny.params() if params is None else params
  ref_params = tiny.params(seed=1) if ref_params is None else ref_params
  return compiled(params, ref_params, rollout, chunk_size)


@pytest.fixture(scope='module')
def rollout():
  return tiny.run(tiny.revise(), tiny.prompts())


def log_softmax(logits):
  return np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))


@pytest.mark.parametrize(
  'temperature', [1.0, 0.7, 1.9], ids=lambda t: f'temperature {t}'
)
def test_sampler_and_trainer_agree_in_both_turns(temperature):
  sampled = tiny.run(tiny.revise(temperature=temperature), tiny.prompts())
  turn = np.asarray(sampled.turn)
  for attempt in (0, 1):
    # Ragged ends, in both turns; the prompts are ragged by construction.
    assert len(set(np.sum(turn == attempt, axis=1).tolist())) >= 4
  trained = np.asarray(sampled.loss_mask)
  got = np.asarray(scored(sampled).logprobs)
  drawn = np.asarray(sampled.sampler_logprobs)
  assert np.std(drawn[trained]) > 0.1
  np.testing.assert_allclose(got[trained], drawn[trained], atol=1e-5, rtol=0)


def test_rows_may_have_different_temperatures(rollout):
  warm = dataclasses.replace(
    rollout, temperature=jnp.linspace(0.5, 2, 16, dtype=jnp.float32)
  )
  got = scored(warm).logprobs
  for row in (0, 7, 15):
    alike = jnp.full((16,), warm.temperature[row])
    same = dataclasses.replace(rollout, temperature=alike)
    np.testing.assert_allclose(got[row], scored(same).logprobs[row], atol=1e-5)


def test_a_row_scores_as_its_text_read_alone(rollout):
  # Without prefix sharing, padding, gaps or neighbours.
  got = scored(rollout)
  for row in range(0, 16, 3):
    text, slots = tiny.own_tokens(rollout, row)
    logs = log_softmax(tiny.uncached_logits(text))
    trained = np.flatnonzero(np.asarray(rollout.loss_mask[row])[slots])
    before, at = logs[trained - 1], slots[trained]
    np.testing.assert_allclose(
      got.logprobs[row, at],
      before[np.arange(len(at)), text[trained]],
      atol=1e-5,
    )
    np.testing.assert_allclose(
      got.stream('entropy')[row, at],
      -np.sum(np.exp(before) * before, axis=-1),
      atol=1e-5,
    )


def test_the_exact_kl_is_that_of_the_two_texts_read_alone(rollout):
  got = scored(rollout).stream('exact_kl')
  text, slots = tiny.own_tokens(rollout, 5)
  trained = np.flatnonzero(np.asarray(rollout.loss_mask[5])[slots])
  ours = log_softmax(tiny.uncached_logits(text))
  theirs = log_softmax(tiny.uncached_logits(text, seed=1))
  kl = np.sum(np.exp(ours) * (ours - theirs), axis=-1)[trained - 1]
  assert np.min(kl) > 0.01
  np.testing.assert_allclose(got[5, slots[trained]], kl, atol=1e-5)


@jax.jit
def total(params, ref_params, rollout, on_logprobs, on_kl):
  """A sum of scores with weights that tell the slots apart."""
  got = compiled(params, ref_params, rollout, 2048)
  weights = jnp.sin(jnp.arange(rollout.tokens.size, dtype=jnp.float32))
  weights = 1.5 + weights.reshape(rollout.tokens.shape)
  values = on_logprobs * got.logprobs + on_kl * got.stream('exact_kl')
  return jnp.sum(jnp.where(rollout.loss_mask, weights * values, 0.0))


gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))


def largest(tree):
  return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))


def test_the_exact_kl_to_itself_and_its_gradient_are_zero(rollout):
  params = tiny.params()
  value, (grads, _) = gradients(params, params, rollout, 0.0, 1.0)
  assert abs(float(value)) < 1e-4
  assert largest(grads) < 1e-4
  value, (grads, _) = gradients(params, tiny.params(1), rollout, 0.0, 1.0)
  assert float(value) > 1
  assert largest(grads) > 0.1


def test_no_gradient_reaches_the_reference(rollout):
  given = (tiny.params(), tiny.params(1), rollout)
  _, (ours, theirs) = gradients(*given, 1.0, 1.0)
  assert largest(ours) > 0.1
  assert largest(theirs) == 0


@pytest.mark.slow
@pytest.mark.parametrize('weights', [(1.0, 0.0), (0.0, 1.0)])
def test_the_gradient_is_right_by_finite_differences(rollout, weights):
  params, ref_params = tiny.params(), tiny.params(1)
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(0), len(leaves))
  way = structure.unflatten(
    [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
  )

  def along(amount):
    moved = jax.tree.map(lambda x, d: x + amount * d, params, way)
    return float(total(moved, ref_params, rollout, *weights))

  # Fourth order, so that steps can be large beside the rounding of f32.
  step = 1e-3
  near = (along(step) - along(-step)) / (2 * step)
  far = (along(2 * step) - along(-2 * step)) / (4 * step)
  numeric = (4 * near - far) / 3
  _, (grads, _) = gradients(params, ref_params, rollout, *weights)
  slopes = jax.tree.map(lambda g, d: jnp.sum(g * d), grads, way)
  exact = float(sum(jax.tree.leaves(slopes)))
  assert abs(exact) > 0.5
  assert abs(numeric - exact) < 1e-2 * abs(exact)


@pytest.mark.parametrize('chunk_size', [1, 9])
def test_the_chunk_size_changes_no_result(rollout, chunk_size):
  got = scored(rollout, chunk_size=chunk_size)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    got,
    scored(rollout),
  )


def test_only_what_is_needed_is_computed(rollout):
  # A stream that is not computed here is somebody else's.
  for needs, names in (
    ((), set()),
    (('entropy', 'values'), {'entropy'}),
  ):
    shapes = jax.eval_shape(
      functools.partial(score, tiny.POLICY, needs=needs),
      tiny.params(),
      rollout,
    )
    assert set(shapes.streams) == names
  with pytest.raises(KeyError, match="Add 'exact_kl' to"):
    shapes.stream('exact_kl')


def test_prompt_slots_score_zero(rollout):
  got = scored(rollout)
  for leaf in jax.tree.leaves(got):
    assert leaf.shape == rollout.tokens.shape
    assert leaf.dtype == jnp.float32
    assert not np.any(leaf[:, :5])


def test_groups_score_alike_in_any_order_and_number(rollout):
  rows = [2 * p + i for p in (6, 0, 3) for i in range(2)]
  some = tiny.take(rollout, rows)
  trained = np.asarray(some.loss_mask)
  expected = np.asarray(scored(rollout).logprobs)[rows]
  got = np.asarray(scored(some).logprobs)
  np.testing.assert_allclose(got[trained], expected[trained], atol=1e-5)


def test_what_fills_empty_slots_changes_no_score(rollout):
  filled = dataclasses.replace(
    rollout, tokens=jnp.where(rollout.positions >= 0, rollout.tokens, 11)
  )
  trained = np.asarray(rollout.loss_mask)
  assert np.any(np.asarray(filled.tokens) != np.asarray(rollout.tokens))
  np.testing.assert_allclose(
    np.asarray(scored(filled).logprobs)[trained],
    np.asarray(scored(rollout).logprobs)[trained],
    atol=1e-6,
  )


def test_a_single_token_is_predicted_by_the_prompt_alone(rollout):
  cut = {
    name: getattr(rollout, name)[:, :6]
    for name in ('tokens', 'positions', 'loss_mask', 'turn', 'sampler_logprobs')
  }
  one = dataclasses.replace(rollout, **cut, spans=((5, 6),))
  got = scored(one).logprobs
  np.testing.assert_allclose(got, one.sampler_logprobs, atol=1e-5)


def test_truncated_samples_score_lower_than_they_were_drawn():
  # The trainer scores the whole distribution, the sampler what was left of it.
  sampled = tiny.run(tiny.revise(top_k=4), tiny.prompts())
  trained = np.asarray(sampled.loss_mask)
  gap = np.asarray(sampled.sampler_logprobs - scored(sampled).logprobs)[trained]
  assert np.min(gap) > 1e-3
  # What top-4 kept of the softmax, at least 4 / 14.
  assert np.max(gap) < np.log(14 / 4)


def test_a_prompt_is_read_once_for_its_group(rollout):
  read = []

  def follow(params, prompts, tokens, *others):
    read.extend([prompts[0].shape, tokens.shape])
    return tiny.POLICY.follow(params, prompts, tokens, *others)

  watched = tiny.POLICY._replace(follow=follow)
  jax.eval_shape(functools.partial(score, watched), tiny.params(), rollout)
  # 8 prompts of 5 slots; 16 rows of 14 more.
  assert read == [(8, 5), (16, 14)]


@pytest.mark.slow
@pytest.mark.parametrize(
  'sizes',
  [{'data': 2, 'fsdp': 2, 'model': 2}, {'fsdp': 2, 'sequence': 4}],
  ids=['2x2x2', 'sequence'],
)
def test_scores_and_slopes_over_a_mesh_are_those_of_one_device(rollout, sizes):
  def total(params, rollout):
    got = score(tiny.POLICY, params, rollout, needs=('entropy',), chunk_size=3)
    weights = jnp.arange(got.logprobs.size).reshape(got.logprobs.shape) % 7
    said = got.logprobs + got.stream('entropy')
    # In empty slots they are arbitrary.
    said = jnp.where(rollout.loss_mask, said, 0)
    return jnp.sum(weights * said), said

  gradient = jax.grad(total, has_aux=True)
  wanted = jax.jit(gradient)(tiny.params(), rollout)
  mesh = partitioning.make_mesh(**sizes)
  params = jax.device_put(
    tiny.params(),
    partitioning.shardings(tiny.POLICY.logical_axes(), tiny.params(), mesh),
  )
  placed = jax.device_put(rollout, partitioning.rows(mesh))
  with jax.set_mesh(mesh):
    got = jax.jit(gradient)(params, placed)
  largest = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(wanted[0]))
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, atol=1e-5 * largest),
    got,
    wanted,
  )
