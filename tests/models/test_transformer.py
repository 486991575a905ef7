"""The functions of a decoder `Policy`: what a cache may and may not change."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove import partitioning
from selfimprove.models.config import RopeScaling, TransformerConfig
from selfimprove.models.transformer import make_policy

# Every option at once, so that one forward pass meets them all.
CONFIG = TransformerConfig(
  vocab_size=32,
  num_layers=2,
  embed_dim=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=24,
  activation='gelu_tanh',
  norm_offset=1.0,
  post_norms=True,
  rope_theta=500.0,
  local_rope_theta=100.0,
  rope_scaling=RopeScaling(
    factor=4.0,
    low_frequency_factor=1.0,
    high_frequency_factor=4.0,
    original_context=64,
  ),
  qkv_bias=True,
  qk_norm=True,
  query_scale=0.5,
  attention_soft_cap=3.0,
  final_soft_cap=5.0,
  sliding_window=3,
  global_every=2,
  tied_embeddings=False,
  embed_scale=4.0,
)
POLICY = make_policy(CONFIG)
PROMPTS, GROUP, PROMPT_SLOTS, OWN_SLOTS = 4, 2, 5, 4
FULL = jax.jit(POLICY.apply)


def random_tokens(seed, rows, slots):
  key = jax.random.key(seed)
  return jax.random.randint(key, (rows, slots), 0, 32, jnp.int32)


@pytest.fixture(scope='module')
def params():
  return jax.jit(POLICY.init)(jax.random.key(0))


@pytest.fixture(scope='module')
def rows():
  """Tokens and positions of ragged, left-padded prompts and continuations."""
  padding = jnp.asarray([0, 1, 3, 4])
  slots = jnp.arange(PROMPT_SLOTS)[None, :] - padding[:, None]
  prompts = jnp.repeat(jnp.maximum(slots, -1), GROUP, axis=0)
  first = (PROMPT_SLOTS - jnp.repeat(padding, GROUP))[:, None]
  own = first + jnp.arange(OWN_SLOTS)[None, :]
  positions = jnp.concatenate([prompts, own], axis=1).astype(jnp.int32)
  tokens = random_tokens(1, PROMPTS * GROUP, PROMPT_SLOTS + OWN_SLOTS)
  same = jnp.repeat(tokens[::GROUP, :PROMPT_SLOTS], GROUP, axis=0)
  return tokens.at[:, :PROMPT_SLOTS].set(same), positions


@pytest.fixture(scope='module')
def expected(params, rows):
  """Hidden states behind the prompt, each row with a prompt of its own."""
  hidden, _ = FULL(params, *rows)
  return np.asarray(hidden[:, PROMPT_SLOTS:])


def prompt_of(rows):
  return tuple(x[::GROUP, :PROMPT_SLOTS] for x in rows)


def own_of(rows):
  return tuple(x[:, PROMPT_SLOTS:] for x in rows)


@pytest.mark.slow
@pytest.mark.parametrize('prefill_layout', ['stacked', 'decode'])
@pytest.mark.parametrize('layout', ['stacked', 'decode'])
def test_a_forked_prompt_equals_a_repeated_one(
  prefill_layout, layout, params, rows, expected
):
  layouts = {'stacked': params, 'decode': POLICY.decode_params(params)}

  @jax.jit
  def continued(before, after):
    _, cache = POLICY.apply(before, *prompt_of(rows))
    cache = POLICY.fork(cache, group_size=GROUP, slots=OWN_SLOTS)
    return POLICY.apply(after, *own_of(rows), cache)[0]

  hidden = continued(layouts[prefill_layout], layouts[layout])
  np.testing.assert_allclose(hidden, expected, atol=2e-5)


def test_decoding_token_by_token_equals_one_forward_pass(
  params, rows, expected
):
  decode_params = POLICY.decode_params(params)
  _, cache = FULL(decode_params, *prompt_of(rows))
  cache = POLICY.fork(cache, group_size=GROUP, slots=OWN_SLOTS)
  tokens, positions = own_of(rows)
  step = jax.jit(POLICY.apply)
  for i in range(OWN_SLOTS):
    one = (tokens[:, i : i + 1], positions[:, i : i + 1])
    hidden, cache = step(decode_params, *one, cache)
    np.testing.assert_allclose(hidden[:, 0], expected[:, i], atol=2e-5)
  assert int(cache.index) == OWN_SLOTS


def test_a_fork_of_a_fork_sees_both_prefixes(params, rows, expected):
  """A tree: two prompts' rows, each with two children of its own."""

  @jax.jit
  def continued(params):
    prompt = prompt_of(rows)
    _, cache = POLICY.apply(params, *(x[:, :2] for x in prompt))
    cache = POLICY.fork(cache, group_size=1, slots=PROMPT_SLOTS - 2)
    _, cache = POLICY.apply(params, *(x[:, 2:] for x in prompt), cache)
    cache = POLICY.fork(cache, group_size=GROUP, slots=OWN_SLOTS)
    return POLICY.apply(params, *own_of(rows), cache)[0]

  np.testing.assert_allclose(continued(params), expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize('scan_layers', [True, False])
def test_rows_that_follow_prompts_equal_rows_with_prompts_of_their_own(
  scan_layers, params, rows, expected
):
  policy = make_policy(dataclasses.replace(CONFIG, scan_layers=scan_layers))
  follow = jax.jit(policy.follow)
  prompts, hidden = follow(params, prompt_of(rows), *own_of(rows))
  np.testing.assert_allclose(hidden, expected, atol=2e-5)
  alone, _ = FULL(params, *prompt_of(rows))
  np.testing.assert_allclose(prompts, alone, atol=2e-5)


@pytest.mark.slow
def test_texts_of_one_row_see_the_prompt_and_themselves(params, rows, expected):
  tokens, positions = own_of(rows)
  # Each second row behind the first, as one row of two segments.
  pair = lambda x: x.reshape(PROMPTS, -1)  # noqa: E731
  text = jnp.tile(jnp.repeat(jnp.arange(GROUP), OWN_SLOTS), (PROMPTS, 1))
  _, hidden = jax.jit(POLICY.follow)(
    params,
    prompt_of(rows),
    pair(tokens),
    pair(positions),
    text,
  )
  np.testing.assert_allclose(
    hidden.reshape(expected.shape), expected, atol=2e-5
  )


def test_gaps_in_the_middle_of_rows_change_nothing(params, rows, expected):
  tokens, positions = rows
  # One gap inside the prompt, two of different length behind it.
  columns = [0, 1, 2, -1, 3, 4, -1, -1, 5, 6, -1, 7, 8]
  real = np.asarray(columns) >= 0
  junk = random_tokens(9, tokens.shape[0], len(columns))
  spread = tokens[:, jnp.asarray(columns)]
  tokens = jnp.where(real[None, :], spread, junk)
  positions = jnp.where(real[None, :], positions[:, jnp.asarray(columns)], -1)
  hidden = np.asarray(FULL(params, tokens, positions)[0])[:, real]
  np.testing.assert_allclose(hidden[:, PROMPT_SLOTS:], expected, atol=2e-5)


def loss_and_gradient(policy, params, rows, weight):
  tokens, positions = rows

  def loss(params):
    hidden, _ = policy.apply(params, tokens, positions)
    logits = policy.unembed(params, hidden)
    counted = weight[:, None] * (positions >= 0)
    return jnp.sum(jax.nn.logsumexp(logits, axis=-1) * counted)

  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope='module')
def slopes(params, rows):
  return loss_and_gradient(POLICY, params, rows, jnp.ones(PROMPTS * GROUP))


def assert_close(got, want, atol):
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, atol=atol, rtol=1e-4),
    got,
    want,
  )


@pytest.mark.slow
def test_rematerialisation_changes_neither_loss_nor_gradient(
  params, rows, slopes
):
  policy = make_policy(dataclasses.replace(CONFIG, remat='full'))
  weight = jnp.ones(PROMPTS * GROUP)
  got = loss_and_gradient(policy, params, rows, weight)
  assert_close(got, slopes, 1e-4)
  tokens, positions = rows
  traced = jax.make_jaxpr(policy.apply)(params, tokens, positions)
  assert 'remat' in str(traced) or 'checkpoint' in str(traced)


def test_an_empty_row_of_weight_zero_leaves_the_gradient_as_it_was(
  params, rows, slopes
):
  """It sees no slot at all: a NaN there would spread to every parameter."""
  tokens, positions = rows
  tokens = jnp.concatenate([tokens, tokens[:1]])
  positions = jnp.concatenate([positions, -jnp.ones_like(positions[:1])])
  weight = jnp.ones(PROMPTS * GROUP + 1).at[-1].set(0.0)
  got = loss_and_gradient(POLICY, params, (tokens, positions), weight)
  assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(got))
  assert_close(got, slopes, 1e-4)


def test_bfloat16_stays_finite_and_near_float32(params, rows, expected):
  narrow = dataclasses.replace(CONFIG, dtype='bfloat16', param_dtype='bfloat16')
  policy = make_policy(narrow)
  cast = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  assert jax.tree.map(lambda x: x.dtype, cast) == jax.tree.map(
    lambda x: x.dtype, shapes
  )
  hidden, cache = jax.jit(policy.apply)(cast, *rows)
  logits = policy.unembed(cast, hidden)
  assert hidden.dtype == cache.own.keys.dtype == jnp.bfloat16
  assert logits.dtype == jnp.float32
  assert bool(jnp.all(jnp.isfinite(logits)))
  # Eight bits of mantissa through two layers: a few per cent of the norm.
  error = np.asarray(hidden[:, PROMPT_SLOTS:], np.float32) - expected
  assert np.linalg.norm(error) < 0.05 * np.linalg.norm(expected)


def is_names(x):
  return isinstance(x, tuple)


@pytest.mark.parametrize('tied', [True, False])
def test_logical_axes_name_every_axis_of_every_parameter(tied):
  policy = make_policy(dataclasses.replace(CONFIG, tied_embeddings=tied))
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  axes = policy.logical_axes()
  ranks = jax.tree.map(len, axes, is_leaf=is_names)
  assert ranks == jax.tree.map(lambda x: x.ndim, shapes)
  assert ('head' in axes) == (not tied)
  names = jax.tree.leaves(axes, is_leaf=is_names)
  assert {n for each in names for n in each} <= set(partitioning.RULES)
  in_layers = jax.tree.leaves(axes['layers'], is_leaf=is_names)
  assert {each[0] for each in in_layers} == {'layers'}


def test_layers_start_out_different(params):
  kernel = params['layers']['attention']['query']['kernel']
  assert not np.allclose(kernel[0], kernel[1])


def test_final_soft_cap_bounds_the_logits(params):
  hidden = 1e3 * jnp.ones((1, CONFIG.embed_dim))
  logits = np.abs(POLICY.unembed(params, hidden))
  assert 4.9 < logits.max() <= 5.0


@pytest.mark.slow
@pytest.mark.parametrize(
  'layouts',
  [
    {'decode_layout': 'gathered'},
    {'decode_layout': 'stationary'},
    {'training_layout': 'fully_sharded'},
  ],
  ids=lambda layouts: ''.join(layouts.values()),
)
@pytest.mark.parametrize(
  'sizes',
  [
    {'data': 4, 'model': 2},
    {'data': 2, 'fsdp': 2, 'model': 2},
    {'fsdp': 2, 'sequence': 2, 'model': 2},
  ],
  ids=['4x2', '2x2x2', 'sequence'],
)
def test_a_sharded_forward_pass_equals_that_of_one_device(
  sizes, layouts, params, rows, expected
):
  policy = make_policy(dataclasses.replace(CONFIG, **layouts))
  mesh = partitioning.make_mesh(**sizes)
  placement = partitioning.shardings(policy.logical_axes(), params, mesh)
  placed = jax.device_put(params, placement)
  table = placed['embedder']['table']
  assert table.addressable_shards[0].data.shape[0] == 32 // sizes['model']
  batch = partitioning.rows(mesh)

  def continued(params, prompt, own):
    params = policy.decode_params(params)
    _, cache = policy.apply(params, *prompt)
    cache = policy.fork(cache, group_size=GROUP, slots=OWN_SLOTS)
    return policy.apply(params, *own, cache)[0]

  with jax.set_mesh(mesh):
    full, _ = jax.jit(policy.apply)(placed, *jax.device_put(rows, batch))
    _, behind = jax.jit(policy.follow)(
      placed,
      jax.device_put(prompt_of(rows), batch),
      *jax.device_put(own_of(rows), batch),
    )
    forked = jax.jit(continued)(
      placed,
      jax.device_put(prompt_of(rows), batch),
      jax.device_put(own_of(rows), batch),
    )
  assert not full.sharding.is_fully_replicated
  np.testing.assert_allclose(full[:, PROMPT_SLOTS:], expected, atol=1e-5)
  np.testing.assert_allclose(forked, expected, atol=1e-5)
  np.testing.assert_allclose(behind, expected, atol=1e-5)
