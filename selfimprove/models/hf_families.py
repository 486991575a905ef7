"""What each family of Hugging Face checkpoints says in its `config.json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfimprove.models.rope import (
  RopeScaling,
  YarnScaling,
  evenly_scaled,
  yarn_attention_factor,
)

Fields = Mapping[str, Any]


def need(fields: Fields, name: str) -> Any:
  """The value of a field that must be there.

  Args:
    fields: of a `config.json`, or of a part of it.
    name: of the field.

  Returns:
    Its value.

  Raises:
    ValueError: it is missing.
  """
  if fields.get(name) is None:
    raise ValueError(
      f'config.json lacks {name}; the checkpoint is not complete.'
    )
  return fields[name]


def refuse_others(fields: Fields, only: Fields) -> None:
  """Refuses values that no decoder here can compute.

  Args:
    fields: of a `config.json`, or of a part of it.
    only: field -> the value that is supported, besides none.

  Raises:
    ValueError: a field has another value.
  """
  for name, value in only.items():
    if fields.get(name) not in (None, value):
      raise ValueError(
        f'config.json has {name}={fields[name]!r}, and only {value!r} is '
        'supported; use another checkpoint.'
      )


def _rope(fields: Fields, layers: str = 'full_attention') -> Fields:
  """Rotary options, of new files and of old ones."""
  new = fields.get('rope_parameters')
  if new:
    return new.get(layers, new)
  return {
    'rope_theta': fields.get('rope_theta', 10_000.0),
    **(fields.get('rope_scaling') or {}),
  }


def _scaling(rope: Fields) -> RopeScaling | YarnScaling | None:
  refuse_others(rope, {'partial_rotary_factor': 1.0})
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind not in _SCALINGS:
    raise ValueError(
      f'config.json has rope_type={kind!r}; supported are '
      f'{", ".join(_SCALINGS)}.'
    )
  return _SCALINGS[kind](rope)


def _llama3(rope: Fields) -> RopeScaling:
  return RopeScaling(
    factor=need(rope, 'factor'),
    low_frequency_factor=need(rope, 'low_freq_factor'),
    high_frequency_factor=need(rope, 'high_freq_factor'),
    original_context=need(rope, 'original_max_position_embeddings'),
  )


def _yarn(rope: Fields) -> YarnScaling:
  refuse_others(rope, {'mscale': None, 'mscale_all_dim': None})
  factor = need(rope, 'factor')
  sharper = rope.get('attention_factor')
  return YarnScaling(
    factor=factor,
    original_context=need(rope, 'original_max_position_embeddings'),
    fast_turns=rope.get('beta_fast') or 32.0,
    slow_turns=rope.get('beta_slow') or 1.0,
    attention_factor=(
      yarn_attention_factor(factor) if sharper is None else sharper
    ),
    whole_pairs=rope.get('truncate', True),
  )


_SCALINGS: Mapping[str, Callable[[Fields], RopeScaling | YarnScaling | None]]
_SCALINGS = {
  'default': lambda _: None,
  'linear': lambda rope: evenly_scaled(need(rope, 'factor')),
  'llama3': _llama3,
  'yarn': _yarn,
}


def _full_rope(fields: Fields) -> dict[str, Any]:
  rope = _rope(fields)
  theta = need(rope, 'rope_theta')
  return {'rope_theta': theta, 'rope_scaling': _scaling(rope)}


def _unscaled(rope: Fields, where: str) -> None:
  """Refuses stretched frequencies in layers with a sliding window."""
  if _scaling(rope) is not None:
    raise ValueError(
      f'config.json has rope_type={rope.get("rope_type", rope.get("type"))!r} '
      f'{where}, which is not supported for layers with a sliding window; use '
      'another checkpoint.'
    )


def _windows(fields: Fields, kinds: Sequence[str]) -> dict[str, int]:
  """Which layers see everything, said as `TransformerConfig` says it."""
  count = need(fields, 'num_hidden_layers')
  known = {'full_attention', 'sliding_attention'}
  if len(kinds) != count or not {*kinds} <= known:
    raise ValueError(
      f'config.json has layer_types={list(kinds)} for num_hidden_layers='
      f'{count}; supported are full_attention and sliding_attention, one for '
      'each layer.'
    )
  full = [i for i, kind in enumerate(kinds, 1) if kind == 'full_attention']
  every = full[0] if full else 0
  if not full or full == list(range(every, count + 1, every)):
    return {'global_every': every}
  if full == list(range(1, len(full) + 1)):
    return {'global_first': len(full)}
  raise ValueError(
    f'config.json has full_attention in layers {full} of layer_types, which '
    'are neither every n-th nor the first ones; that is not supported.'
  )


def _periodic(fields: Fields, default: int) -> dict[str, int]:
  """`_windows`, of files that may say the period alone."""
  count = need(fields, 'num_hidden_layers')
  every = fields.get('sliding_window_pattern', default)
  kinds = fields.get('layer_types') or [
    'sliding_attention' if i % every else 'full_attention'
    for i in range(1, count + 1)
  ]
  return _windows(fields, kinds)


def _biases(fields: Fields) -> dict[str, bool]:
  biased = bool(fields.get('attention_bias'))
  return {'qkv_bias': biased, 'out_bias': biased}


def _llama(fields: Fields) -> dict[str, Any]:
  tied = fields.get('tie_word_embeddings', False)
  return {'tied_embeddings': tied, **_biases(fields), **_full_rope(fields)}


def _qwen(fields: Fields) -> dict[str, Any]:
  tied = fields.get('tie_word_embeddings', False)
  found = {'tied_embeddings': tied, **_full_rope(fields)}
  window = fields.get('sliding_window')
  if not fields.get('use_sliding_window') or window is None:
    return found
  first = need(fields, 'max_window_layers')
  kinds = fields.get('layer_types') or [
    'full_attention' if i < first else 'sliding_attention'
    for i in range(need(fields, 'num_hidden_layers'))
  ]
  if 'sliding_attention' not in kinds:
    return found
  _unscaled(_rope(fields), 'with use_sliding_window=True')
  return {**found, 'sliding_window': window, **_windows(fields, kinds)}


def _qwen2(fields: Fields) -> dict[str, Any]:
  refuse_others(fields, {'attention_bias': False})
  return {**_qwen(fields), 'qkv_bias': True}


def _qwen3(fields: Fields) -> dict[str, Any]:
  need(fields, 'head_dim')
  return {**_qwen(fields), **_biases(fields), 'qk_norm': True}


def _gemma(fields: Fields) -> dict[str, Any]:
  """What Gemma 2 and 3 share."""
  need(fields, 'head_dim')
  return {
    'norm_offset': 1.0,
    'post_norms': True,
    'embed_scale': math.sqrt(need(fields, 'hidden_size')),
    'query_scale': need(fields, 'query_pre_attn_scalar') ** -0.5,
    'attention_soft_cap': fields.get('attn_logit_softcapping'),
    'final_soft_cap': fields.get('final_logit_softcapping'),
    'tied_embeddings': fields.get('tie_word_embeddings', True),
    'sliding_window': need(fields, 'sliding_window'),
    **_biases(fields),
    **_full_rope(fields),
  }


def _gemma2(fields: Fields) -> dict[str, Any]:
  _unscaled(_rope(fields), 'in all layers')
  return {**_gemma(fields), **_periodic(fields, 2)}


def _gemma3(fields: Fields) -> dict[str, Any]:
  local = fields.get('rope_local_base_freq', 10_000.0)
  if 'rope_parameters' in fields:
    ropes = need(fields, 'rope_parameters')
    need(ropes, 'full_attention')
    nearby = need(ropes, 'sliding_attention')
    _unscaled(nearby, 'for sliding_attention')
    local = need(nearby, 'rope_theta')
  return {
    **_gemma(fields),
    'qk_norm': True,
    'local_rope_theta': local,
    **_periodic(fields, 6),
  }


FAMILIES: Mapping[str, Callable[[Fields], dict[str, Any]]] = {
  'llama': _llama,
  'qwen2': _qwen2,
  'qwen3': _qwen3,
  'gemma2': _gemma2,
  'gemma3_text': _gemma3,
}
"""`model_type` -> what its family has besides a shape."""

NESTED: Mapping[str, tuple[str, Fields]] = {
  # The text part of a multimodal checkpoint leaves out what its library takes
  # for granted: published files of the 4B model have six fields.
  'gemma3': (
    'Gemma3ForCausalLM',
    {
      'model_type': 'gemma3_text',
      'vocab_size': 262_208,
      'hidden_size': 2304,
      'intermediate_size': 9216,
      'num_hidden_layers': 26,
      'num_attention_heads': 8,
      'num_key_value_heads': 4,
      'head_dim': 256,
      'hidden_activation': 'gelu_pytorch_tanh',
      'rms_norm_eps': 1e-6,
      'query_pre_attn_scalar': 256,
      'sliding_window': 4096,
      'rope_theta': 1_000_000.0,
    },
  ),
}
"""`model_type` -> class of its text part, and what that has by default."""
