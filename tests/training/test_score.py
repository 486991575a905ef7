from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.training.score import score
from selfimprove.types import Policy
from tests.rollout import tiny


@functools.partial(jax.jit, static_argnames=('needs', 'chunk_size'))
def scored(params, rollout, ref_params=None, needs=(), chunk_size=2048):
  return score(
    tiny.POLICY,
    params,
    rollout,
    needs=needs,
    ref_params=ref_params,
    chunk_size=chunk_size,
  )


@pytest.fixture(scope='module')
def rollout():
  return tiny.run(tiny.revise(), tiny.prompts())


def other_params():
  return tiny.params(seed=1)


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
  got = np.asarray(scored(tiny.params(), sampled).logprobs)
  drawn = np.asarray(sampled.sampler_logprobs)
  assert np.std(drawn[trained]) > 0.1
  np.testing.assert_allclose(got[trained], drawn[trained], atol=1e-5, rtol=0)


def test_rows_may_have_different_temperatures(rollout):
  warm = dataclasses.replace(
    rollout, temperature=jnp.linspace(0.5, 2, 16, dtype=jnp.float32)
  )
  got = scored(tiny.params(), warm).logprobs
  for row in (0, 7, 15):
    alike = jnp.full((16,), warm.temperature[row])
    same = dataclasses.replace(rollout, temperature=alike)
    np.testing.assert_allclose(
      got[row], scored(tiny.params(), same).logprobs[row], atol=1e-5
    )


def test_a_row_scores_as_its_text_read_alone(rollout):
  # Without prefix sharing, padding, gaps or neighbours.
  got = scored(tiny.params(), rollout, needs=('entropy',))
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
  got = scored(
    tiny.params(), rollout, other_params(), needs=('exact_kl',)
  ).stream('exact_kl')
  text, slots = tiny.own_tokens(rollout, 5)
  trained = np.flatnonzero(np.asarray(rollout.loss_mask[5])[slots])
  ours = log_softmax(tiny.uncached_logits(text))
  theirs = log_softmax(tiny.uncached_logits(text, seed=1))
  kl = np.sum(np.exp(ours) * (ours - theirs), axis=-1)[trained - 1]
  assert np.min(kl) > 0.01
  np.testing.assert_allclose(got[5, slots[trained]], kl, atol=1e-5)


def test_the_exact_kl_to_itself_and_its_gradient_are_zero(rollout):
  params = tiny.params()

  def total(params):
    kl = scored(params, rollout, tiny.params(), needs=('exact_kl',))
    return jnp.sum(jnp.where(rollout.loss_mask, kl.stream('exact_kl'), 0.0))

  value, grads = jax.value_and_grad(total)(params)
  assert abs(float(value)) < 1e-4
  for leaf in jax.tree.leaves(grads):
    np.testing.assert_allclose(leaf, 0, atol=1e-4)
  moved = jax.grad(total)(other_params())
  assert max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(moved)) > 0.1


def test_no_gradient_reaches_the_reference(rollout):
  def total(ref_params):
    kl = scored(tiny.params(), rollout, ref_params, needs=('exact_kl',))
    return jnp.sum(kl.stream('exact_kl'))

  for leaf in jax.tree.leaves(jax.grad(total)(other_params())):
    assert not np.any(leaf)


def weighted(rollout, params, how):
  """A sum of log-probabilities with weights that tell the slots apart."""
  weights = jnp.sin(jnp.arange(rollout.tokens.size, dtype=jnp.float32))
  weights = weights.reshape(rollout.tokens.shape)
  return jnp.sum(
    jnp.where(rollout.loss_mask, weights * how(params, rollout).logprobs, 0.0)
  )


def test_the_gradient_is_right_by_finite_differences(rollout):
  total = jax.jit(lambda params: weighted(rollout, params, scored))
  params = tiny.params()
  for seed in range(2):
    keys = iter(jax.random.split(jax.random.key(seed), 100))
    way = jax.tree.map(
      lambda x: jax.random.normal(next(keys), x.shape),  # noqa: B023
      params,
    )
    step = 1e-2

    def along(amount):
      return float(
        total(jax.tree.map(lambda x, d: x + amount * d, params, way))  # noqa: B023
      )

    # Fourth order: the truncation error is far below that of f32.
    near = (along(step / 4) - along(-step / 4)) / (step / 2)
    far = (along(step / 2) - along(-step / 2)) / step
    numeric = (4 * near - far) / 3
    grads = jax.grad(total)(params)
    exact = sum(
      float(jnp.sum(g * d))
      for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(way), strict=True)
    )
    assert abs(exact) > 0.5
    assert abs(numeric - exact) < 5e-3 * abs(exact)


@pytest.mark.parametrize('chunk_size', [1, 7, 100_000])
def test_the_chunk_size_changes_no_result(rollout, chunk_size):
  needs = ('entropy', 'exact_kl')
  expected = scored(tiny.params(), rollout, other_params(), needs=needs)
  got = scored(
    tiny.params(), rollout, other_params(), needs=needs, chunk_size=chunk_size
  )
  assert set(got.streams) == set(needs)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected
  )


def test_only_what_is_needed_is_computed(rollout):
  assert not scored(tiny.params(), rollout).streams
  with pytest.raises(KeyError, match="Add 'entropy' to"):
    scored(tiny.params(), rollout).stream('entropy')
  # Streams that are not computed here are somebody else's.
  assert not scored(tiny.params(), rollout, needs=('values',)).streams


def test_prompt_slots_score_zero(rollout):
  got = scored(tiny.params(), rollout, other_params(), ('entropy', 'exact_kl'))
  for leaf in jax.tree.leaves(got):
    assert leaf.shape == rollout.tokens.shape
    assert leaf.dtype == jnp.float32
    assert not np.any(leaf[:, :5])


def test_groups_score_alike_in_any_order_and_number(rollout):
  rows = [2 * p + i for p in (6, 0, 3) for i in range(2)]
  some = tiny.take(rollout, rows)
  trained = np.asarray(some.loss_mask)
  expected = np.asarray(scored(tiny.params(), rollout).logprobs)[rows]
  got = np.asarray(scored(tiny.params(), some).logprobs)
  np.testing.assert_allclose(got[trained], expected[trained], atol=1e-5)


def test_what_fills_empty_slots_changes_no_score(rollout):
  filled = dataclasses.replace(
    rollout, tokens=jnp.where(rollout.positions >= 0, rollout.tokens, 11)
  )
  trained = np.asarray(rollout.loss_mask)
  assert np.any(np.asarray(filled.tokens) != np.asarray(rollout.tokens))
  np.testing.assert_allclose(
    np.asarray(scored(tiny.params(), filled).logprobs)[trained],
    np.asarray(scored(tiny.params(), rollout).logprobs)[trained],
    atol=1e-6,
  )


def test_a_single_token_is_predicted_by_the_prompt_alone():
  one = tiny.run(
    dataclasses.replace(tiny.revise(), max_new_tokens=(1, 1)), tiny.prompts()
  )
  cut = {
    name: getattr(one, name)[:, :6]
    for name in ('tokens', 'positions', 'loss_mask', 'turn', 'sampler_logprobs')
  }
  one = dataclasses.replace(one, **cut, spans=((5, 6),))
  got = scored(tiny.params(), one).logprobs
  np.testing.assert_allclose(got, one.sampler_logprobs, atol=1e-5)


def test_truncated_samples_score_lower_than_they_were_drawn():
  # The trainer scores the whole distribution, the sampler what was left of it.
  sampled = tiny.run(tiny.revise(top_k=4), tiny.prompts())
  trained = np.asarray(sampled.loss_mask)
  gap = np.asarray(
    sampled.sampler_logprobs - scored(tiny.params(), sampled).logprobs
  )[trained]
  assert np.min(gap) > 1e-3
  # What top-4 kept of the softmax, at least 4 / 14.
  assert np.max(gap) < np.log(14 / 4)


def test_a_prompt_is_read_once_for_its_group(rollout):
  read = []

  def apply(params, tokens, positions, cache):
    read.append(tokens.shape)
    return tiny.POLICY.apply(params, tokens, positions, cache)

  watched = Policy(**{**tiny.POLICY._asdict(), 'apply': apply})
  jax.eval_shape(functools.partial(score, watched), tiny.params(), rollout)
  # 8 prompts of 5 slots; 16 rows of 14 more, of which the last predicts none.
  assert read == [(8, 5), (16, 13)]
