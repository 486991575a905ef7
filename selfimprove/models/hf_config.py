"""`config.json` of a Hugging Face checkpoint as a `TransformerConfig`."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from selfimprove import json_object
from selfimprove.models.config import (
  DTYPES,
  RopeScaling,
  TransformerConfig,
  evenly_scaled,
)

Fields = Mapping[str, Any]

CONFIG_FILE = 'config.json'
_ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}
# What another value would change, and no decoder here can do.
_ONLY = {
  'attention_bias': False,
  'mlp_bias': False,
  'use_bidirectional_attention': False,
  'pretraining_tp': 1,
}


def read_config(folder: str | os.PathLike[str]) -> Fields:
  """The fields of a checkpoint's `config.json`.

  Args:
    folder: of the checkpoint.

  Returns:
    Field -> value.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no JSON object.
  """
  path = os.path.join(folder, CONFIG_FILE)
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'There is no {path}; name the folder of a Hugging Face checkpoint.'
    )
  return json_object.read(path)


def from_folder(
  *,
  folder: str | os.PathLike[str],
  dtype: str = 'bfloat16',
  param_dtype: str | None = None,
  remat: bool = True,
) -> TransformerConfig:
  """The decoder of a checkpoint.

  Args:
    folder: of the checkpoint.
    dtype: of activations and the cache.
    param_dtype: of parameters; None for what the checkpoint stores.
    remat: recompute each block in the backward pass.

  Returns:
    Its shape and options.

  Raises:
    FileNotFoundError: there is no `config.json`.
    ValueError: the file, or a value in it, cannot be used.
  """
  config = to_transformer(
    read_config(folder), dtype=dtype, param_dtype=param_dtype
  )
  return dataclasses.replace(config, remat=remat)


def check_same(
  folder: str | os.PathLike[str], model: TransformerConfig
) -> None:
  """Refuses a checkpoint that is not of a model's architecture.

  How it is stored and computed (dtypes, rematerialisation) may differ.

  Args:
    folder: of the checkpoint.
    model: what its weights are to be computed with.

  Raises:
    ValueError: an option or a size differs.
  """
  theirs = from_folder(
    folder=folder, dtype=model.dtype, param_dtype=model.param_dtype
  )
  for field in dataclasses.fields(model):
    if field.name in ('remat', 'scan_layers'):
      continue
    one, other = getattr(theirs, field.name), getattr(model, field.name)
    if one != other:
      raise ValueError(
        f'The checkpoint {os.fspath(folder)} has {field.name}={one!r}, the '
        f'model {other!r}; bind MODEL to @hf_config.from_folder() of this '
        'folder, or name another checkpoint.'
      )


def to_transformer(
  fields: Fields, *, dtype: str = 'bfloat16', param_dtype: str | None = None
) -> TransformerConfig:
  """The decoder that a `config.json` describes.

  Args:
    fields: of the file.
    dtype: of activations and the cache.
    param_dtype: of parameters; None for what the checkpoint stores.

  Returns:
    Its shape and options.

  Raises:
    ValueError: a field is missing, or has a value that no decoder here can
      compute.
  """
  family = fields.get('model_type')
  if family not in FAMILIES:
    raise ValueError(
      f'model_type={family!r} is no architecture that can be imported; use '
      f'one of {", ".join(FAMILIES)}.'
    )
  for name, value in _ONLY.items():
    if fields.get(name) not in (None, value):
      raise ValueError(
        f'config.json has {name}={fields[name]!r}, and only {value!r} is '
        'supported; use another checkpoint.'
      )
  return TransformerConfig(
    **_shape(fields),
    **FAMILIES[family](fields),
    dtype=dtype,
    param_dtype=param_dtype or _dtype(stored_dtype(fields)),
  )


def stored_dtype(fields: Fields) -> str:
  """The dtype in which a checkpoint stores its parameters.

  Args:
    fields: of its `config.json`.

  Returns:
    A name, such as `bfloat16`; `float32` if it says nothing.
  """
  return fields.get('dtype', fields.get('torch_dtype')) or 'float32'


def _dtype(stored: Any) -> str:
  if stored not in DTYPES:
    raise ValueError(
      f'config.json has dtype={stored!r}; bind hf_config.from_folder.'
      f'param_dtype to {" or ".join(map(repr, DTYPES))}.'
    )
  return stored


def _need(fields: Fields, name: str) -> Any:
  if fields.get(name) is None:
    raise ValueError(
      f'config.json lacks {name}; the checkpoint is not complete.'
    )
  return fields[name]


def _shape(fields: Fields) -> dict[str, Any]:
  """What all families have."""
  width, heads = (
    _need(fields, 'hidden_size'),
    _need(fields, 'num_attention_heads'),
  )
  activation = fields.get('hidden_activation') or _need(fields, 'hidden_act')
  if activation not in _ACTIVATIONS:
    raise ValueError(
      f'config.json has the activation {activation!r}; supported are '
      f'{", ".join(_ACTIVATIONS)}.'
    )
  return {
    'vocab_size': _need(fields, 'vocab_size'),
    'num_layers': _need(fields, 'num_hidden_layers'),
    'embed_dim': width,
    'num_heads': heads,
    'num_kv_heads': fields.get('num_key_value_heads') or heads,
    'head_dim': fields.get('head_dim') or width // heads,
    'mlp_dim': _need(fields, 'intermediate_size'),
    'activation': _ACTIVATIONS[activation],
    'norm_eps': _need(fields, 'rms_norm_eps'),
  }


def _tied(fields: Fields, default: bool) -> bool:
  return fields.get('tie_word_embeddings', default)


def _rope(fields: Fields, layers: str = 'full_attention') -> Fields:
  """Rotary options, of new files and of old ones."""
  new = fields.get('rope_parameters')
  if new:
    return new.get(layers, new)
  return {
    'rope_theta': fields.get('rope_theta', 10_000.0),
    **(fields.get('rope_scaling') or {}),
  }


def _scaling(rope: Fields) -> RopeScaling | None:
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind == 'default':
    return None
  if kind == 'linear':
    return evenly_scaled(_need(rope, 'factor'))
  if kind == 'llama3':
    return RopeScaling(
      factor=_need(rope, 'factor'),
      low_frequency_factor=_need(rope, 'low_freq_factor'),
      high_frequency_factor=_need(rope, 'high_freq_factor'),
      original_context=_need(rope, 'original_max_position_embeddings'),
    )
  raise ValueError(
    f'config.json has rope_type={kind!r}; supported are default, linear and '
    'llama3.'
  )


def _full_rope(fields: Fields) -> dict[str, Any]:
  rope = _rope(fields)
  theta = _need(rope, 'rope_theta')
  return {'rope_theta': theta, 'rope_scaling': _scaling(rope)}


def _llama(fields: Fields) -> dict[str, Any]:
  return {'tied_embeddings': _tied(fields, False), **_full_rope(fields)}


def _qwen(fields: Fields) -> dict[str, Any]:
  if fields.get('use_sliding_window'):
    raise ValueError(
      'config.json has use_sliding_window=True, which is not supported for '
      'Qwen; set it to false if no prompt is longer than the window.'
    )
  return {'tied_embeddings': _tied(fields, False), **_full_rope(fields)}


def _gemma(fields: Fields) -> dict[str, Any]:
  """What Gemma 2 and 3 share."""
  return {
    'norm_offset': 1.0,
    'post_norms': True,
    'embed_scale': math.sqrt(fields['hidden_size']),
    'query_scale': _need(fields, 'query_pre_attn_scalar') ** -0.5,
    'attention_soft_cap': fields.get('attn_logit_softcapping'),
    'final_soft_cap': fields.get('final_logit_softcapping'),
    'tied_embeddings': _tied(fields, True),
    'sliding_window': _need(fields, 'sliding_window'),
    **_full_rope(fields),
  }


def _global_every(fields: Fields, default: int) -> int:
  """One in how many layers sees everything, 0 where none does."""
  layers = fields.get('layer_types')
  if layers is None:
    return fields.get('sliding_window_pattern', default)
  if len(layers) != fields['num_hidden_layers'] or (
    not {*layers} <= {'full_attention', 'sliding_attention'}
  ):
    raise ValueError(
      f'config.json has layer_types={layers} for num_hidden_layers='
      f'{fields["num_hidden_layers"]}; supported are full_attention and '
      'sliding_attention, one for each layer.'
    )
  full = [i for i, kind in enumerate(layers, 1) if kind == 'full_attention']
  every = full[0] if full else 0
  if full != list(range(every, len(layers) + 1, every or 1))[: len(full)] or (
    every and len(full) != len(layers) // every
  ):
    raise ValueError(
      f'config.json has full_attention in layers {full}, which are not every '
      'n-th; that is not supported.'
    )
  return every


def _gemma2(fields: Fields) -> dict[str, Any]:
  return {**_gemma(fields), 'global_every': _global_every(fields, 2)}


def _gemma3(fields: Fields) -> dict[str, Any]:
  local = fields.get('rope_local_base_freq', 10_000.0)
  if 'rope_parameters' in fields:
    ropes = _need(fields, 'rope_parameters')
    local = _need(_need(ropes, 'sliding_attention'), 'rope_theta')
    _need(ropes, 'full_attention')
  return {
    **_gemma(fields),
    'qk_norm': True,
    'local_rope_theta': local,
    'global_every': _global_every(fields, 6),
  }


FAMILIES: Mapping[str, Callable[[Fields], dict[str, Any]]] = {
  'llama': _llama,
  'qwen2': lambda fields: {**_qwen(fields), 'qkv_bias': True},
  'qwen3': lambda fields: {**_qwen(fields), 'qk_norm': True},
  'gemma2': _gemma2,
  'gemma3_text': _gemma3,
}
"""`model_type` -> what its family has besides a shape."""
