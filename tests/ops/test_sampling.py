from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.ops import sampling

LAST = float(np.nextafter(np.float32(1), np.float32(0)))
"""The largest number that a uniform can be."""


@functools.partial(jax.jit, static_argnames='top_k')
def sample(logits, uniforms, temperature=1.0, top_k=None, top_p=None):
  return sampling.sample_tokens(
    logits, uniforms, temperature=temperature, top_k=top_k, top_p=top_p
  )


def grid(per_axis):
  """The centres of a square grid of cells, as rows of two uniforms."""
  line = (jnp.arange(per_axis) + 0.5) / per_axis
  return jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)


def draw(logits, uniforms, **how):
  """Tokens and log-probabilities of one row of logits, for many uniforms."""
  logits = jnp.asarray(logits, jnp.float32)
  rows = jnp.broadcast_to(logits[None], (uniforms.shape[0], logits.shape[0]))
  tokens, logprobs = sample(rows, uniforms, **how)
  return np.asarray(tokens), np.asarray(logprobs)


def random_logits(vocab, seed=0, scale=2.0):
  return scale * jax.random.normal(jax.random.key(seed), (vocab,))


@pytest.mark.parametrize('vocab', [1, 2, 3, 5, 10, 16, 17])
@pytest.mark.parametrize('temperature', [1.0, 0.5])
def test_each_token_owns_its_probability_of_the_unit_square(vocab, temperature):
  logits = random_logits(vocab)
  tokens, _ = draw(logits, grid(200), temperature=temperature)
  share = np.bincount(tokens, minlength=vocab) / 200**2
  probs = np.asarray(jax.nn.softmax(logits / temperature))
  # A cell of width 1/200 may fall on the wrong side of either boundary.
  np.testing.assert_allclose(share, probs, atol=2 / 200)


# 4480 tokens have 64 blocks, for these divide them; else there would be 67.
@pytest.mark.parametrize(
  ('vocab', 'scale', 'how'),
  [
    (30, 1.0, {}),
    (30, 1.0, {'top_k': 20}),
    (30, 1.0, {'top_p': 0.9}),
    (4480, 0.2, {}),
  ],
)
def test_frequencies_are_those_of_the_softmax(vocab, scale, how):
  logits, draws = random_logits(vocab, scale=scale), 50_000
  keys = jax.random.split(jax.random.key(5), draws)
  uniforms = sampling.keyed_uniforms(keys, jnp.array([7]))[:, 0]
  tokens, logprobs = draw(logits, uniforms, **how)
  seen = np.bincount(tokens, minlength=vocab)
  expected = np.zeros(vocab)
  expected[tokens] = draws * np.exp(logprobs)
  np.testing.assert_allclose(np.sum(expected), draws, rtol=1e-5)
  kept = expected > 0
  chi_square = np.sum((seen - expected)[kept] ** 2 / expected[kept])
  freedom = np.sum(kept) - 1
  # Beyond four standard deviations of chi-square with that many degrees.
  assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_log_probabilities_are_those_of_the_tempered_softmax():
  logits = random_logits(17)
  tokens, logprobs = draw(logits, grid(30), temperature=0.7)
  expected = np.asarray(jax.nn.log_softmax(logits / 0.7))
  np.testing.assert_allclose(logprobs, expected[tokens], atol=1e-5)


def test_log_probabilities_do_not_overflow():
  tokens, logprobs = draw([1e4, 1e4 - 1, -1e4], grid(20))
  expected = -np.log1p(np.exp(-1)) - np.arange(2)
  np.testing.assert_allclose(logprobs, expected[tokens], atol=1e-5)


@pytest.mark.parametrize('temperature', [0.0, jnp.float32(0.0)])
def test_temperature_zero_takes_the_first_likeliest_token(temperature):
  tokens, logprobs = draw([0.0, 3, -1, 3], grid(5), temperature=temperature)
  assert set(tokens.tolist()) == {1}
  assert set(logprobs.tolist()) == {0.0}


def test_a_low_temperature_tends_to_the_likeliest_token():
  tokens, logprobs = draw([0.0, 2.9, -1, 3], grid(5), temperature=1e-4)
  assert set(tokens.tolist()) == {3}
  np.testing.assert_allclose(logprobs, 0, atol=1e-6)


def test_top_k_draws_only_the_k_likeliest_renormalised():
  probs = np.array([0.1, 0.4, 0.05, 0.3, 0.15])
  tokens, logprobs = draw(np.log(probs), grid(60), top_k=3)
  assert set(tokens.tolist()) == {1, 3, 4}
  # 0.4, 0.3 and 0.15 of 0.85.
  np.testing.assert_allclose(logprobs, np.log(probs / 0.85)[tokens], atol=1e-5)
  share = np.bincount(tokens, minlength=5) / 3600
  np.testing.assert_allclose(
    share, [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85], atol=2 / 60
  )


@pytest.mark.parametrize(
  ('top_p', 'kept'),
  [
    (1e-6, {1}),  # The likeliest token always stays.
    (0.39, {1}),
    (0.41, {1, 3}),  # 0.4 does not reach it.
    (0.69, {1, 3}),
    (0.84, {1, 3, 4}),
    (0.94, {0, 1, 3, 4}),
    (1.0, {0, 1, 2, 3, 4}),
  ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p, kept):
  probs = np.array([0.1, 0.4, 0.05, 0.3, 0.15])
  tokens, logprobs = draw(np.log(probs), grid(60), top_p=top_p)
  assert set(tokens.tolist()) == kept
  expected = np.log(probs / sum(probs[list(kept)]))
  np.testing.assert_allclose(logprobs, expected[tokens], atol=1e-5)


def test_top_p_counts_the_probability_that_top_k_has_left():
  # Of the three likeliest 0.4/0.85 = 0.47 and 0.3/0.85 = 0.35: they reach 0.8
  # together; before truncation they would not (0.7).
  logits = np.log([0.1, 0.4, 0.05, 0.3, 0.15])
  tokens, _ = draw(logits, grid(60), top_k=3, top_p=0.8)
  assert set(tokens.tolist()) == {1, 3}


def test_truncation_sees_the_tempered_distribution():
  # At temperature 2: weights 1 : 2 : 3, so {3} reaches 0.45 alone and at
  # temperature 1 (1 : 4 : 9) it would reach 0.6.
  logits = np.log([1.0, 4.0, 9.0])
  assert set(draw(logits, grid(20), top_p=0.6)[0].tolist()) == {2}
  hot, _ = draw(logits, grid(20), top_p=0.6, temperature=2.0)
  assert set(hot.tolist()) == {1, 2}


def test_keeping_everything_is_no_truncation():
  logits = random_logits(17)
  plain = draw(logits, grid(40))
  for how in ({'top_k': 17}, {'top_p': 1.0}):
    tokens, logprobs = draw(logits, grid(40), **how)
    share = np.bincount(tokens, minlength=17) / 1600
    expected = np.bincount(plain[0], minlength=17) / 1600
    np.testing.assert_allclose(share, expected, atol=2 / 40)
    by_token = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(logprobs, by_token[tokens], atol=1e-5)


@pytest.mark.parametrize('how', [{}, {'top_k': 6}, {'top_p': 1.0}])
def test_a_forbidden_token_is_never_drawn(how):
  # First and last of the vocabulary, and a whole block of the inversion.
  logits = np.array(random_logits(16))
  allowed = np.array([2, 3, 8, 9, 11, 13])
  forbidden = np.setdiff1d(np.arange(16), allowed)
  logits[forbidden] = -np.inf
  edges = jnp.array([0.0, 1e-7, 0.3, 0.999, LAST])
  corners = jnp.stack(jnp.meshgrid(edges, edges), axis=-1).reshape(-1, 2)
  uniforms = jnp.concatenate([grid(40), corners])
  tokens, logprobs = draw(logits, uniforms, **how)
  assert set(tokens.tolist()) <= set(allowed.tolist())
  assert np.all(np.isfinite(logprobs))


@pytest.mark.parametrize('vocab', [32000, 128256, 151936, 256000, 262144])
def test_blocks_of_a_published_vocabulary_divide_over_devices(vocab):
  blocks, width = sampling._blocks(vocab)
  assert blocks * width == vocab
  assert blocks % 64 == 0


@pytest.mark.parametrize(
  ('vocab', 'blocks'),
  [
    (1, (1, 1)),
    (16, (4, 4)),
    (3968, (63, 63)),
    (4031, (63, 64)),
    (4032, (64, 63)),
    (50257, (224, 225)),
  ],
)
def test_other_vocabularies_have_blocks_as_long_as_their_root(vocab, blocks):
  assert sampling._blocks(vocab) == blocks


@pytest.mark.parametrize('vocab', [1, 2, 7, 16, 100, 4480, 8191, 8256])
def test_the_smallest_and_largest_uniforms_stay_in_the_vocabulary(vocab):
  ends = jnp.array([[0.0, 0.0], [LAST, LAST], [0.0, LAST], [LAST, 0.0]])
  for seed in range(5):
    tokens, logprobs = draw(random_logits(vocab, seed), ends)
    assert tokens[0] == 0
    assert tokens[1] == vocab - 1
    assert np.all((tokens >= 0) & (tokens < vocab))
    assert np.all(np.isfinite(logprobs))


def test_rounding_of_a_long_cumulative_sum_draws_no_token_without_mass():
  # Blocks of 501 tokens (of Llama's 128,256) are summed in parallel: the sum
  # then changes, by rounding, on entries that have no mass.
  rng = np.random.default_rng(0)
  mass = (rng.random((100, 501)) ** 4).astype(np.float32)
  mass[rng.random(mass.shape) < 0.5] = 0
  cumulative = np.asarray(jnp.cumsum(mass, axis=-1))
  empty = mass[:, 1:] == 0
  assert np.any(np.diff(cumulative)[empty] != 0)
  # Aim at each boundary, and at the float on either side of it.
  rows, columns = np.nonzero(mass == 0)
  exact = cumulative[rows, columns] / cumulative[rows, -1]
  drawn = jax.jit(sampling._first_above)
  for shift in (-1, 0, 1):
    aimed = np.clip(exact + np.float32(shift * 2**-24), 0, LAST)
    index = drawn(mass[rows], jnp.asarray(aimed, jnp.float32))
    assert np.all(mass[rows, np.asarray(index)] > 0)


def test_rows_are_drawn_independently_of_each_other():
  logits = jax.random.normal(jax.random.key(0), (12, 20))
  uniforms = jax.random.uniform(jax.random.key(1), (12, 2))
  tokens, logprobs = sample(logits, uniforms)
  order = jnp.array([4, 0, 11])
  some, their = sample(logits[order], uniforms[order])
  np.testing.assert_array_equal(some, tokens[order])
  np.testing.assert_allclose(their, logprobs[order], atol=1e-6)


@pytest.mark.parametrize('top_k', [0, -1, 5])
def test_a_top_k_that_the_vocabulary_does_not_have_is_refused(top_k):
  with pytest.raises(ValueError, match=rf'top_k={top_k} is outside \[1, 4\]'):
    draw([0.0, 1, 2, 3], grid(2), top_k=top_k)


def test_uniforms_are_a_function_of_row_key_and_position():
  keys = jax.random.split(jax.random.key(0), 4)
  positions = jnp.array([0, 3, 9, 4])
  uniforms = sampling.keyed_uniforms(keys, positions)
  alone = sampling.keyed_uniforms(keys[2:3], positions[1:2])
  np.testing.assert_array_equal(alone[0, 0], uniforms[2, 1])
  assert uniforms.dtype == jnp.float32


def test_uniforms_of_different_tokens_are_independent():
  keys = jax.random.split(jax.random.key(0), 300)
  uniforms = np.asarray(sampling.keyed_uniforms(keys, jnp.arange(20)))
  assert np.min(uniforms) >= 0
  assert np.max(uniforms) < 1
  assert len(np.unique(uniforms)) > 0.99 * uniforms.size
  # 12,000 of them: standard error of the mean 0.0026, of a correlation 0.013.
  assert abs(np.mean(uniforms) - 0.5) < 0.011
  for one, other in (
    (uniforms[..., 0], uniforms[..., 1]),
    (uniforms[:, 1:, 0], uniforms[:, :-1, 0]),
    (uniforms[1:, :, 1], uniforms[:-1, :, 1]),
  ):
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.06
