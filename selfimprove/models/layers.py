"""The block of the decoder, as Flax Linen modules."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import partitioning
from selfimprove.models.attention import KeyValue
from selfimprove.models.config import TransformerConfig
from selfimprove.models.mixing import Mix
from selfimprove.models.remat import kept

DOWN, UP = 'lora_a', 'lora_b'
"""What stands beside a kernel that has a low-rank side path (`models.lora`)."""

_ACTIVATIONS = {
  'silu': nn.silu,
  'gelu_tanh': lambda x: nn.gelu(x, approximate=True),
}


def _kernel(
  names: Sequence[str], in_axes: Sequence[int]
) -> nn.initializers.Initializer:
  """Normal initialiser with variance 1 / fan-in and named axes."""
  out_axes = tuple(i for i in range(len(names)) if i not in in_axes)
  init = nn.initializers.variance_scaling(
    1.0, 'fan_in', 'normal', in_axis=tuple(in_axes), out_axis=out_axes
  )
  return nn.with_logical_partitioning(init, tuple(names))


class RMSNorm(nn.Module):
  """x / rms(x) * (offset + scale), computed in f32 (arXiv 1910.07467)."""

  config: TransformerConfig
  axis: str = 'norm'

  @nn.compact
  def __call__(self, x: Float[Array, '... d']) -> Float[Array, '... d']:
    """Returns the normed array, in the dtype of `x`."""
    config = self.config
    init = nn.initializers.constant(1.0 - config.norm_offset)
    scale: Any = self.param(
      'scale',
      nn.with_logical_partitioning(init, (self.axis,)),
      (x.shape[-1],),
      jnp.dtype(config.param_dtype),
    )
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    gain = (scale.astype(jnp.float32) + config.norm_offset).reshape(
      (1,) * (x.ndim - 1) + (-1,)
    )
    normed = wide * jax.lax.rsqrt(mean_square + config.norm_eps) * gain
    return normed.astype(x.dtype)


class Projection(nn.Module):
  """A linear map over the last axes, with named axes and perhaps a bias.

  With a side path x A B among its parameters, that is added: the sum of both
  matrices is never made, and no gradient of its size.
  """

  config: TransformerConfig
  shape: tuple[int, ...]
  names: tuple[str, ...]
  inputs: int = 1
  use_bias: bool = False
  layout: str = 'tensor_parallel'

  @nn.compact
  def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
    """Returns the mapped array, in the dtype of activations."""
    dtype, stored = map(jnp.dtype, (self.config.dtype, self.config.param_dtype))
    init = _kernel(self.names, range(self.inputs))
    kernel: Any = self.param('kernel', init, self.shape, stored)
    outer, fan_in = x.shape[: x.ndim - self.inputs], self.shape[: self.inputs]
    rules = partitioning.LAYOUTS[self.layout]
    kept_by = self.names
    # While tokens are drawn parameters are where they are used already.
    if self.layout not in partitioning.DECODE_LAYOUTS:
      kept_by = partitioning.kept_names(kept_by, self.config.training_layout)
    kernel = partitioning.gather(
      kernel.astype(dtype), *self.names, rules=rules, kept=kept_by
    )
    # As matrices: with more axes the CPU compiler copies both operands of the
    # kernel's gradient into transposed form first. Rows and tokens are one axis
    # then, which cannot be divided over devices along both.
    _, columns = partitioning.grid(self.layout)
    lead = outer if columns > 1 else (-1,)
    flat = x.reshape(*lead, math.prod(fan_in))
    out = flat @ kernel.reshape(flat.shape[-1], -1)
    if self.has_variable('params', DOWN):
      out = out + self._side_path(flat)
    out = out.reshape(*outer, *self.shape[self.inputs :])
    if self.use_bias:
      names = self.names[self.inputs :]
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, names)
      bias: Any = self.param('bias', zeros, self.shape[self.inputs :], stored)
      out = out + bias.astype(dtype)[(None,) * (out.ndim - bias.ndim)]
    return out

  def _side_path(self, flat: Float[Array, '... i']) -> Float[Array, '... o']:
    down: Any = self.get_variable('params', DOWN)
    up: Any = self.get_variable('params', UP)
    rank = down.shape[-1]
    narrow = flat @ down.astype(flat.dtype).reshape(-1, rank)
    return narrow @ up.astype(flat.dtype).reshape(rank, -1)


class Attention(nn.Module):
  """Grouped-query attention; what tokens see is up to its caller."""

  config: TransformerConfig
  layout: str = 'tensor_parallel'

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    mix: Mix,
  ) -> tuple[Float[Array, 'b n d'], KeyValue | None]:
    """Returns the mix of values, and what `mix` keeps."""
    config = self.config
    d, k = config.embed_dim, config.head_dim
    query = self._project('query', config.num_heads, 'heads')(x)
    keys = self._project('key', config.num_kv_heads, 'kv_heads')(x)
    values = self._project('value', config.num_kv_heads, 'kv_heads')(x)
    if config.qk_norm:
      # Kept before the norm, whose slope needs them.
      query, keys = kept(query, 'query'), kept(keys, 'key')
      query = RMSNorm(config, 'head_size', name='query_norm')(query)
      keys = RMSNorm(config, 'head_size', name='key_norm')(keys)
    mixed, cache = mix(query, keys, values)
    names = ('heads', 'head_size', 'embed')
    shape = (config.num_heads, k, d)
    out = Projection(
      config,
      shape,
      names,
      inputs=2,
      use_bias=config.out_bias,
      layout=self.layout,
      name='out',
    )
    return kept(out(mixed), 'out'), cache

  def _project(self, name: str, heads: int, axis: str) -> Projection:
    config = self.config
    return Projection(
      config,
      (config.embed_dim, heads, config.head_dim),
      ('embed', axis, 'head_size'),
      use_bias=config.qkv_bias,
      layout=self.layout,
      name=name,
    )


class FeedForward(nn.Module):
  """The gated layer act(x W_gate) * (x W_up) W_down (arXiv 2002.05202)."""

  config: TransformerConfig
  layout: str = 'tensor_parallel'

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    """Returns what is added to the residual stream."""
    config = self.config
    d, f = config.embed_dim, config.mlp_dim
    into, out_of = ('embed', 'mlp'), ('mlp', 'embed')
    linear = functools.partial(Projection, config, layout=self.layout)
    gate = kept(linear((d, f), into, name='gate')(x), 'gate')
    up = kept(linear((d, f), into, name='up')(x), 'up')
    hidden = _ACTIVATIONS[config.activation](gate) * up
    return kept(linear((f, d), out_of, name='down')(hidden), 'down')


class Block(nn.Module):
  """Attention and feed-forward, each with a residual connection."""

  config: TransformerConfig
  layout: str = 'tensor_parallel'
  residual: tuple[str | None, ...] = ('rows', 'tokens', 'width')

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    mix: Mix,
  ) -> tuple[Float[Array, 'b n d'], KeyValue | None]:
    """Returns the residual stream behind the block, and what `mix` keeps."""
    config = self.config
    constrain = functools.partial(
      partitioning.constrain, rules=partitioning.LAYOUTS[self.layout]
    )
    x = constrain(x, *self.residual)
    normed = RMSNorm(config, name='pre_attention_norm')(x)
    attention = Attention(config, self.layout, name='attention')
    mixed, cache = attention(normed, mix)
    if config.post_norms:
      mixed = RMSNorm(config, name='post_attention_norm')(mixed)
    x = constrain(x + mixed, *self.residual)
    hidden = RMSNorm(config, name='pre_mlp_norm')(x)
    if self.layout not in partitioning.DECODE_LAYOUTS:
      # The compiler for TPUs would fuse the slope of the norm into a product,
      # which then takes twice its time.
      hidden = jax.lax.optimization_barrier(hidden)
    hidden = FeedForward(config, self.layout, name='mlp')(hidden)
    if config.post_norms:
      hidden = RMSNorm(config, name='post_mlp_norm')(hidden)
    return constrain(x + hidden, *self.residual), cache
