"""Weights of Hugging Face decoders in the parameter tree of ours."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

# Where each of our per-layer arrays comes from, below `model.layers.<i>.`.
_PROJECTIONS = {
  'query': 'self_attn.q_proj',
  'key': 'self_attn.k_proj',
  'value': 'self_attn.v_proj',
}
_FEED_FORWARD = {
  'gate': 'mlp.gate_proj',
  'up': 'mlp.up_proj',
  'down': 'mlp.down_proj',
}
_HEAD_NORMS = {
  'query_norm': 'self_attn.q_norm',
  'key_norm': 'self_attn.k_norm',
}
_TWO_NORMS = {
  'pre_attention_norm': 'input_layernorm',
  'pre_mlp_norm': 'post_attention_layernorm',
}
# Gemma's `post_attention_layernorm` is behind the attention, as its name says.
_FOUR_NORMS = {
  'pre_attention_norm': 'input_layernorm',
  'post_attention_norm': 'post_attention_layernorm',
  'pre_mlp_norm': 'pre_feedforward_layernorm',
  'post_mlp_norm': 'post_feedforward_layernorm',
}


def to_params(config, weights):
  """Our parameters from `weights`, name -> array; every weight is used."""
  left = dict(weights)

  def take(name):
    return np.asarray(left.pop(name), np.float32)

  params = {
    'embedder': {'table': take('model.embed_tokens.weight')},
    'final_norm': {'scale': take('model.norm.weight')},
  }
  layers = [_layer(config, take, i) for i in range(config.num_layers)]
  params['layers'] = _stack(layers)
  if config.tied_embeddings:
    left.pop('lm_head.weight', None)  # The table under a second name.
  else:
    params['head'] = {'kernel': take('lm_head.weight').T}
  assert not left, f'unused weights: {sorted(left)}'
  return _map(jnp.asarray, params)


def _layer(config, take, i):
  d, k = config.embed_dim, config.head_dim
  start = f'model.layers.{i}.'

  # Torch stores a linear map as [out, in], and heads as one long axis.
  def projection(name):
    kernel = take(f'{start}{name}.weight').T.reshape(d, -1, k)
    if not config.qkv_bias:
      return {'kernel': kernel}
    bias = take(f'{start}{name}.bias').reshape(-1, k)
    return {'kernel': kernel, 'bias': bias}

  def norms(table):
    return {
      ours: {'scale': take(f'{start}{theirs}.weight')}
      for ours, theirs in table.items()
    }

  attention = {o: projection(t) for o, t in _PROJECTIONS.items()}
  out = take(f'{start}self_attn.o_proj.weight').T.reshape(-1, k, d)
  attention['out'] = {'kernel': out}
  if config.out_bias:
    attention['out']['bias'] = take(f'{start}self_attn.o_proj.bias')
  if config.qk_norm:
    attention |= norms(_HEAD_NORMS)
  mlp = {
    ours: {'kernel': take(f'{start}{theirs}.weight').T}
    for ours, theirs in _FEED_FORWARD.items()
  }
  around = norms(_FOUR_NORMS if config.post_norms else _TWO_NORMS)
  return {'attention': attention, 'mlp': mlp, **around}


def _stack(trees):
  if isinstance(trees[0], dict):
    return {name: _stack([t[name] for t in trees]) for name in trees[0]}
  return np.stack(trees)


def _map(function, tree):
  if isinstance(tree, dict):
    return {name: _map(function, t) for name, t in tree.items()}
  return function(tree)
