from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove.models.config import TransformerConfig
from selfimprove.models.layers import (
  Attention,
  FeedForward,
  Projection,
  RMSNorm,
)
from selfimprove.models.mixing import with_cache

SHAPE = {
  'vocab_size': 11,
  'num_layers': 1,
  'embed_dim': 2,
  'num_heads': 2,
  'num_kv_heads': 1,
  'head_dim': 4,
  'mlp_dim': 1,
}


def make_config(**changes):
  return TransformerConfig(**{**SHAPE, **changes})


def test_rms_norm_divides_by_the_root_of_the_mean_square():
  # Of (3, 4) the mean square is 12.5, its root 3.5355; the mean stays in.
  norm = RMSNorm(make_config(norm_eps=1e-12))
  x = jnp.asarray([[3.0, 4.0]])
  scale = {'params': {'scale': jnp.asarray([1.0, 10.0])}}
  np.testing.assert_allclose(
    norm.apply(scale, x), [[0.848528, 11.31371]], rtol=1e-6
  )


def test_a_norm_offset_is_added_to_the_scale_and_gain_starts_at_one():
  x = jnp.asarray([[3.0, 4.0]])
  plain = RMSNorm(make_config())
  offset = RMSNorm(make_config(norm_offset=1.0))
  key = jax.random.key(0)
  start = nn.meta.unbox(offset.init(key, x))
  np.testing.assert_array_equal(start['params']['scale'], jnp.zeros(2))
  np.testing.assert_allclose(
    offset.apply(start, x), plain.apply(nn.meta.unbox(plain.init(key, x)), x)
  )


def test_rms_norm_of_bfloat16_is_computed_in_float32():
  # Added one by one to 16^2 = 256, ones vanish in bfloat16: the mean square
  # would be 1 rather than 511 / 256.
  x = jnp.concatenate([jnp.full((1, 1), 16.0), jnp.ones((1, 255))], axis=1)
  norm = RMSNorm(make_config(embed_dim=256))
  params = {'params': {'scale': jnp.ones(256)}}
  wide = norm.apply(params, x)
  narrow = norm.apply(params, x.astype(jnp.bfloat16))
  assert narrow.dtype == jnp.bfloat16
  np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize(
  ('activation', 'gated'),
  # silu(1) = 1 / (1 + e^-1); gelu_tanh(1) = (1 + tanh(sqrt(2/pi) * 1.044715))/2
  [('silu', 0.7310586), ('gelu_tanh', 0.841192)],
)
def test_feed_forward_gates_one_projection_with_the_other(activation, gated):
  layer = FeedForward(make_config(activation=activation))
  params = {
    'gate': {'kernel': jnp.asarray([[1.0], [0.0]])},
    'up': {'kernel': jnp.asarray([[0.0], [1.0]])},
    'down': {'kernel': jnp.asarray([[1.0, -2.0]])},
  }
  # gate = 1 and up = 5: the activation is on the gate, not on up.
  out = layer.apply({'params': params}, jnp.asarray([[[1.0, 5.0]]]))
  np.testing.assert_allclose(out[0, 0], [5 * gated, -10 * gated], rtol=1e-5)


def test_kernels_start_with_variance_one_over_fan_in():
  config = make_config(embed_dim=32)
  x = jnp.ones((1, 1, 8, 4))
  names = ('heads', 'head_size', 'embed')
  layer = Projection(config, (8, 4, 512), names, inputs=2)
  box = layer.init(jax.random.key(0), x)['params']['kernel']
  assert box.names == names
  # 8 * 4 inputs; over 16,384 draws the deviation is known to 0.6 %.
  assert float(jnp.std(box.value)) == pytest.approx(32**-0.5, rel=0.03)


def test_only_query_key_and_value_have_a_bias():
  layer = Attention(make_config(qkv_bias=True))
  x, zeros = jnp.ones((1, 1, 2)), jnp.zeros((1, 1), jnp.int32)
  seen = (zeros, jnp.ones(2), None, (), None, 0)
  mix = with_cache(layer.config, 'tensor_parallel', *seen)
  init = layer.init(jax.random.key(0), x, mix)
  shapes = jax.tree.map(jnp.shape, nn.meta.unbox(init)['params'])
  assert shapes == {
    'query': {'kernel': (2, 2, 4), 'bias': (2, 4)},
    'key': {'kernel': (2, 1, 4), 'bias': (1, 4)},
    'value': {'kernel': (2, 1, 4), 'bias': (1, 4)},
    'out': {'kernel': (2, 4, 2)},
  }


def test_attention_to_one_token_returns_its_projected_value():
  """Softmax over a single slot is 1, whatever query and key say."""
  config = make_config(qk_norm=True, attention_soft_cap=3.0)
  layer = Attention(config)
  x, positions = jnp.asarray([[[2.0, -1.0]]]), jnp.full((1, 1), 5, jnp.int32)
  seen = (positions, jnp.ones(2), None, (), None, 0)
  mix = with_cache(config, 'tensor_parallel', *seen)
  params = nn.meta.unbox(layer.init(jax.random.key(0), x, mix))
  out, cache = layer.apply(params, x, mix)
  kernels = params['params']
  value = jnp.einsum('d,dvk->vk', x[0, 0], kernels['value']['kernel'])
  both = jnp.repeat(value, 2, axis=0)
  expected = jnp.einsum('hk,hkd->d', both, kernels['out']['kernel'])
  np.testing.assert_allclose(out[0, 0], expected, rtol=1e-5)
  np.testing.assert_allclose(cache.values[0, :, 0], value, rtol=1e-5)
