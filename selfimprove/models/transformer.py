"""A decoder as a `Policy`: pure functions over a stacked parameter tree."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from selfimprove import partitioning, types
from selfimprove.models.attention import KeyValue
from selfimprove.models.config import TransformerConfig
from selfimprove.models.layers import Block, RMSNorm
from selfimprove.models.logits import logits_of
from selfimprove.models.lora import merge
from selfimprove.models.mixing import (
  Text,
  following,
  joined,
  separated,
  with_cache,
)
from selfimprove.models.remat import recomputed
from selfimprove.types import Params, Policy


@types.record
class Cache:
  """Keys and values of all layers.

  Attributes:
    shared: parts that are only read; a part's rows each serve a run of
      neighbouring rows. Each is a tuple of one `KeyValue` per layer.
    own: the part that calls append to, in the same form; of a cache that was
      not forked also one `KeyValue` whose arrays have a leading layer axis.
    index: first free slot of `own`.
  """

  shared: tuple[Any, ...]
  own: Any
  index: Int[Array, ''] | int


def make_policy(config: TransformerConfig) -> Policy:
  """The pure functions of a decoder.

  Args:
    config: its shape.

  Returns:
    A `Policy`; its parameters are `{'embedder', 'layers', 'final_norm'}` and,
    with untied embeddings, `'head'`; arrays under `layers` have a leading
    layer axis.
  """
  return Policy(
    init=functools.partial(_init, config),
    apply=functools.partial(_apply, config),
    follow=functools.partial(_follow, config),
    unembed=functools.partial(_unembed, config),
    fork=functools.partial(_fork, config),
    decode_params=functools.partial(_decode_params, config),
    logical_axes=functools.partial(_kept_axes, config),
  )


def _init_boxed(config: TransformerConfig, key: jax.Array) -> Params:
  """Parameters in boxes that carry the names of their axes."""
  embed_key, layer_key, head_key = jax.random.split(key, 3)
  x = jnp.zeros((1, 1, config.embed_dim), jnp.dtype(config.dtype))
  position = jnp.zeros((1, 1), jnp.int32)
  frequencies = jnp.ones((config.head_dim // 2,), jnp.float32)

  def init_layer(k: jax.Array) -> Params:
    seen = (position, frequencies, None, (), None, 0)
    mix = with_cache(config, 'tensor_parallel', *seen)
    return Block(config).init(k, x, mix)['params']

  stored = jnp.dtype(config.param_dtype)
  shape = (config.vocab_size, config.embed_dim)

  def matrix(k: jax.Array, names: tuple[str, str]) -> Any:
    init = nn.initializers.normal(config.embed_dim**-0.5)
    dims = shape if names[0] == 'vocab' else shape[::-1]
    return nn.with_logical_partitioning(init, names)(k, dims, stored)

  params = {
    'embedder': {'table': matrix(embed_key, ('vocab', 'embed'))},
    'layers': jax.vmap(init_layer)(
      jax.random.split(layer_key, config.num_layers)
    ),
    'final_norm': RMSNorm(config).init(layer_key, x)['params'],
  }
  if not config.tied_embeddings:
    params['head'] = {'kernel': matrix(head_key, ('embed', 'vocab'))}
  return params


def _init(config: TransformerConfig, key: jax.Array) -> Params:
  return nn.meta.unbox(_init_boxed(config, key))


def _logical_axes(config: TransformerConfig) -> Any:
  boxed = jax.eval_shape(
    functools.partial(_init_boxed, config), jax.random.key(0)
  )
  is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
  axes = jax.tree.map(lambda box: box.names, boxed, is_leaf=is_box)
  axes['layers'] = jax.tree.map(
    lambda names: ('layers', *names), axes['layers'], is_leaf=_is_names
  )
  return axes


def _kept_axes(config: TransformerConfig) -> Any:
  """Names by which parameters are kept between programs."""
  axes = _logical_axes(config)
  kept = functools.partial(
    partitioning.kept_names, layout=config.training_layout
  )
  layers = jax.tree.map(kept, axes['layers'], is_leaf=_is_names)
  return {**axes, 'layers': layers}


def _apply(
  config: TransformerConfig,
  params: Params,
  tokens: Int[Array, 'b n'],
  positions: Int[Array, 'b n'],
  cache: Cache | None = None,
) -> tuple[Float[Array, 'b n d'], Cache]:
  if cache is None:
    cache = Cache(shared=(), own=None, index=0)
  layout = partitioning.layout_of_rows(
    _layout_of(config, params), tokens.shape[0]
  )
  if not config.scan_layers:
    params = _unstack_params(config, params)
  x = _embed(config, params, tokens, layout)
  block, layers = _run_block(config, layout), params['layers']
  if cache.own is None and not isinstance(layers, tuple):
    x, own = _run_scan(config, block, layers, x, positions)
  else:
    x, own = _run_loop(config, block, layers, x, positions, cache)
  index = cache.index + tokens.shape[1]
  cache = Cache(shared=cache.shared, own=own, index=index)
  return _final_norm(config, params, x), cache


def _follow(
  config: TransformerConfig,
  params: Params,
  prompts: tuple[Int[Array, 'p m'], Int[Array, 'p m']],
  tokens: Int[Array, 'b n'],
  positions: Int[Array, 'b n'],
  segments: Int[Array, 'b n'] | None = None,
) -> tuple[Float[Array, 'p m d'], Float[Array, 'b n d']]:
  """Each layer reads the prompts, and then the rows that see its keys."""
  layout = config.training_layout
  texts = (
    Text.of(*prompts, None, layout),
    Text.of(tokens, positions, segments, layout),
  )
  block = Block(config, layout, residual=('flat', None, 'width'))

  def run(layer: Params, x: Array, frequencies: Array, window: Any) -> Array:
    mix = following(config, texts, frequencies, window)
    return block.apply({'params': layer}, x, mix)[0]

  x = joined(
    [_embed(config, params, text.tokens, text.parts.layout) for text in texts],
    texts,
    'width',
  )
  x = _final_norm(config, params, _through_layers(config, params, run, x))
  of_prompts, of_rows = separated(x, texts, 'width')
  return of_prompts[:, : prompts[0].shape[1]], of_rows[:, : tokens.shape[1]]


def _through_layers(
  config: TransformerConfig,
  params: Params,
  run: Callable[..., Array],
  x: Array,
) -> Array:
  """`run`(layer, x, frequencies, window) -> x, of all layers."""
  run = recomputed(run, config.remat)
  frequencies, windows = _frequencies(config), _windows(config)
  if config.scan_layers:
    step = lambda x, of: (run(of[0], x, *of[1:]), None)  # noqa: E731
    stacked = (params['layers'], frequencies, windows)
    return jax.lax.scan(step, x, stacked)[0]
  for i, layer in enumerate(_unstack(params['layers'], config.num_layers)):
    window = None if windows is None else windows[i]
    x = run(layer, x, frequencies[i], window)
  return x


def _embed(
  config: TransformerConfig, params: Params, tokens: Array, layout: str
) -> Float[Array, 'b n d']:
  x = partitioning.take_rows(
    params['embedder']['table'],
    tokens,
    dtype=jnp.dtype(config.dtype),
    rules=partitioning.LAYOUTS[_layout_of_tables(layout, tokens.shape[0])],
  )
  return x * jnp.asarray(config.embed_scale, x.dtype)


def _final_norm(
  config: TransformerConfig, params: Params, x: Float[Array, 'b n d']
) -> Float[Array, 'b n d']:
  norm: Any = RMSNorm(config).apply
  return norm({'params': params['final_norm']}, x)


def _layout_of(config: TransformerConfig, params: Params) -> str:
  """Which of `partitioning.LAYOUTS` the parameters are in, by their form."""
  in_decode_layout = isinstance(params['layers'], tuple)
  return config.decode_layout if in_decode_layout else config.training_layout


def _layout_of_tables(layout: str, rows: int) -> str:
  """That of the embedding, whose vocabulary is always divided."""
  if layout in partitioning.DECODE_LAYOUTS:
    return layout
  return partitioning.layout_of_rows('tensor_parallel', rows)


def _run_block(
  config: TransformerConfig, layout: str
) -> Callable[..., tuple[Array, KeyValue]]:
  """The function of one layer: (params, x, positions, ...) -> x, cache."""

  def run(params: Params, x: Array, *seen: Any) -> Any:
    mix = with_cache(config, layout, *seen)
    return Block(config, layout).apply({'params': params}, x, mix)

  return recomputed(run, config.remat)


def _run_scan(
  config: TransformerConfig,
  run: Callable[..., Any],
  layers: Any,
  x: Array,
  positions: Array,
) -> tuple[Array, Any]:
  """All layers as one scan over the stacked parameters, without a cache."""

  def step(x: Array, layer: Any) -> tuple[Array, KeyValue]:
    params, frequencies, window = layer
    return run(params, x, positions, frequencies, window, (), None, 0)

  stacked = (layers, _frequencies(config), _windows(config))
  return jax.lax.scan(step, x, stacked)


def _run_loop(
  config: TransformerConfig,
  run: Callable[..., Any],
  layers: Any,
  x: Array,
  positions: Array,
  cache: Cache,
) -> tuple[Array, Any]:
  """All layers one after the other: no slicing of stacked arrays per call."""
  frequencies, windows = _frequencies(config), _windows(config)
  own = []
  for i in range(config.num_layers):
    shared = tuple(_layer(part, i) for part in cache.shared)
    x, own_i = run(
      _layer(layers, i),
      x,
      positions,
      frequencies[i],
      None if windows is None else windows[i],
      shared,
      _layer(cache.own, i),
      cache.index,
    )
    own.append(own_i)
  return x, tuple(own)


def _frequencies(config: TransformerConfig) -> Float[Array, 'l half']:
  """Rotary frequencies theta^(-2i/k) of each layer."""
  exponents = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32)
  exponents = exponents / config.head_dim
  local = config.local_rope_theta or config.rope_theta
  everywhere = config.rope_theta**-exponents
  if config.rope_scaling is not None:
    everywhere = config.rope_scaling.stretch(
      everywhere, theta=config.rope_theta
    )
  nearby = local**-exponents
  return jnp.stack(
    [everywhere if w is None else nearby for w in config.windows()]
  )


def _windows(config: TransformerConfig) -> Int[Array, 'l'] | None:
  """Window of each layer as an array, None if no layer has one."""
  if config.sliding_window is None:
    return None
  everything = jnp.iinfo(jnp.int32).max
  return jnp.asarray([w or everything for w in config.windows()], jnp.int32)


def _unembed(
  config: TransformerConfig, params: Params, hidden: Float[Array, '... d']
) -> Float[Array, '... v']:
  if config.tied_embeddings:
    kernel, names = params['embedder']['table'], ('vocab', 'embed')
  else:
    kernel, names = params['head']['kernel'], ('embed', 'vocab')
  layout = _layout_of(config, params)
  if layout not in partitioning.DECODE_LAYOUTS:
    layout = 'tensor_parallel'  # The vocabulary is always divided.
  rules = partitioning.LAYOUTS[layout]
  kernel = partitioning.gather(kernel.astype(hidden.dtype), *names, rules=rules)
  logits = logits_of(hidden, kernel, names.index('embed'))
  if logits.ndim == 2:
    logits = partitioning.constrain(logits, 'flat', 'vocab', rules=rules)
  if config.final_soft_cap is not None:
    logits = config.final_soft_cap * jnp.tanh(logits / config.final_soft_cap)
  return logits


def _unstack_params(config: TransformerConfig, params: Params) -> Params:
  """Parameters with `layers` a tuple of one tree per layer."""
  return {**params, 'layers': _unstack(params['layers'], config.num_layers)}


def _decode_params(config: TransformerConfig, params: Params) -> Params:
  """Parameters of one tree per layer, without side paths.

  A layer is copied out of its stack anyway, so that adding the side path to it
  costs no memory, and many small calls have less to do. What layers multiply
  with is in their dtype from here on, and where they read it.
  """
  merged = merge(_unstack_params(config, params), dtype=config.dtype)
  axes = _logical_axes(config)
  of_layer = jax.tree.map(
    lambda names: names[1:], axes['layers'], is_leaf=_is_names
  )
  axes = {**axes, 'layers': (of_layer,) * config.num_layers}
  rules = partitioning.LAYOUTS[config.decode_layout]

  def place(path: Any, names: tuple[str, ...], x: Array) -> Array:
    if path[-1].key != 'scale':  # Norms are computed in f32.
      x = x.astype(jnp.dtype(config.dtype))
    return partitioning.constrain(x, *names, rules=rules)

  return jax.tree.map_with_path(place, axes, merged, is_leaf=_is_names)


def _is_names(x: Any) -> bool:
  """Whether it is the names of an array's axes, not a tuple of layers."""
  return isinstance(x, tuple) and not any(isinstance(n, dict) for n in x)


def _unstack(tree: Any, length: int) -> tuple[Any, ...]:
  return tuple(_layer(tree, i) for i in range(length))


def _layer(tree: Any, i: int) -> Any:
  """Layer `i` of a tuple of layers or of a tree of stacked arrays."""
  if isinstance(tree, tuple):
    return tree[i]
  return jax.tree.map(lambda a: a[i], tree)


def _fork(
  config: TransformerConfig, cache: Cache, *, group_size: int, slots: int
) -> Cache:
  """The cache of `group_size` continuations of each row of `cache`."""
  shared = (*cache.shared, cache.own)
  shared = tuple(_unstack(part, config.num_layers) for part in shared)
  own = _empty(config, shared[-1][0].positions.shape[0] * group_size, slots)
  return Cache(
    shared=shared, own=(own,) * config.num_layers, index=jnp.int32(0)
  )


def _empty(config: TransformerConfig, rows: int, slots: int) -> KeyValue:
  """Room for `slots` tokens of `rows` rows in one layer."""
  shape = (rows, config.num_kv_heads, slots, config.head_dim)
  rules = partitioning.LAYOUTS[config.decode_layout]
  zeros = jnp.zeros(shape, jnp.dtype(config.dtype))
  zeros = partitioning.constrain(
    zeros, 'batch', 'kv_heads', None, None, rules=rules
  )
  positions = jnp.full((rows, slots), -1, jnp.int32)
  return KeyValue(
    keys=zeros,
    values=zeros,
    positions=partitioning.constrain(positions, 'batch', None, rules=rules),
  )
