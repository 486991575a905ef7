"""`config.json` of a Hugging Face checkpoint as a `TransformerConfig`."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from selfimprove import hub, json_object
from selfimprove.models.config import DTYPES, TransformerConfig
from selfimprove.models.hf_families import (
  FAMILIES,
  NESTED,
  Fields,
  need,
  refuse_others,
)
from selfimprove.models.hf_fields import checked

CONFIG_FILE = 'config.json'
_ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}
# What another value would change, and no decoder here can do.
_ONLY = {
  'mlp_bias': False,
  'use_bidirectional_attention': False,
  'pretraining_tp': 1,
  'partial_rotary_factor': 1.0,
  'quantization_config': None,
}
# What a checkpoint that reads images too may say about the whole alone.
_OUTER = ('dtype', 'torch_dtype', 'tie_word_embeddings', 'eos_token_id')


def read_config(folder: str | os.PathLike[str]) -> Fields:
  """The fields of a checkpoint's `config.json`.

  Args:
    folder: of the checkpoint, or its name on the hub.

  Returns:
    Field -> value.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no JSON object.
  """
  folder = hub.local_folder(folder)
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
  remat: str = 'full',
  training_layout: str = 'tensor_parallel',
  decode_layout: str = 'gathered',
) -> TransformerConfig:
  """The decoder of a checkpoint.

  Args:
    folder: of the checkpoint, or its name on the hub.
    dtype: of activations and the cache.
    param_dtype: of parameters; None for what the checkpoint stores.
    remat: what the backward pass recomputes, one of `config.REMAT`.
    training_layout: of layers over the mesh, as in `TransformerConfig`.
    decode_layout: the same, while tokens are drawn.

  Returns:
    Its shape and options.

  Raises:
    FileNotFoundError: there is no `config.json`.
    ValueError: the file, or a value in it, cannot be used.
  """
  config = to_transformer(
    read_config(folder), dtype=dtype, param_dtype=param_dtype
  )
  return dataclasses.replace(
    config,
    remat=remat,
    training_layout=training_layout,
    decode_layout=decode_layout,
  )


# How a model is computed, which is not what it computes.
_HOW = (
  'remat',
  'attention',
  'training_layout',
  'decode_layout',
  'scan_layers',
)


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
    if field.name in _HOW:
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
  fields = text_part(checked(fields))
  family = fields.get('model_type')
  if family not in FAMILIES:
    raise ValueError(
      f'model_type={family!r} is no architecture that can be imported; use '
      f'one of {", ".join((*FAMILIES, *NESTED))}.'
    )
  refuse_others(fields, _ONLY)
  return TransformerConfig(
    **_shape(fields),
    **FAMILIES[family](fields),
    dtype=dtype,
    param_dtype=param_dtype or _dtype(stored_dtype(fields)),
  )


def text_part(fields: Fields) -> Fields:
  """The fields of the decoder of a checkpoint that reads images as well.

  Args:
    fields: of its `config.json`.

  Returns:
    The `config.json` of its text part; the same where that is all.

  Raises:
    ValueError: there is no `text_config`.
  """
  family = fields.get('model_type')
  if family not in NESTED:
    return fields
  architecture, defaults = NESTED[family]
  refuse_others(fields, _ONLY)
  inner = need(fields, 'text_config')
  text = {
    **defaults,
    **{name: fields[name] for name in _OUTER if name in fields},
    **{name: value for name, value in inner.items() if value is not None},
  }
  return {**text, 'architectures': [architecture]}


def write_text_part(folder: str | os.PathLike[str]) -> None:
  """Makes the `config.json` in a folder that of its text part.

  Args:
    folder: of an export; a config that is of text alone stays as it is.
  """
  fields = read_config(folder)
  text = text_part(fields)
  if text is not fields:
    path = os.path.join(folder, CONFIG_FILE)
    with open(path, 'w', encoding='utf-8') as file:
      json.dump(text, file, indent=2)


def check_one_score(folder: str | os.PathLike[str]) -> None:
  """Refuses a checkpoint that is no reward model.

  Args:
    folder: of the checkpoint, or its name on the hub.

  Raises:
    ValueError: its `architectures` name no sequence classifier, or it tells
      more than one label apart.
  """
  fields = checked(read_config(folder))
  names = fields.get('architectures', [])
  if not any(name.endswith('ForSequenceClassification') for name in names):
    raise ValueError(
      f'{os.fspath(folder)} has architectures={names} in its config.json; a '
      'reward model is one of ...ForSequenceClassification.'
    )
  # Their config says two labels by saying nothing.
  labels = fields.get('num_labels') or len(fields.get('id2label') or 'ab')
  if labels != 1:
    raise ValueError(
      f'{os.fspath(folder)} tells {labels} labels apart (id2label in its '
      'config.json); a reward is one number: use a checkpoint with one label.'
    )


def stored_dtype(fields: Fields) -> str:
  """The dtype in which a checkpoint stores its parameters.

  Args:
    fields: of its `config.json`.

  Returns:
    A name, such as `bfloat16`; `float32` if it says nothing.
  """
  fields = text_part(fields)
  return fields.get('dtype', fields.get('torch_dtype')) or 'float32'


def _dtype(stored: Any) -> str:
  if stored not in DTYPES:
    raise ValueError(
      f'config.json has dtype={stored!r}; bind hf_config.from_folder.'
      f'param_dtype to {" or ".join(map(repr, DTYPES))}.'
    )
  return stored


def _shape(fields: Fields) -> dict[str, Any]:
  """What all families have."""
  width, heads = (
    need(fields, 'hidden_size'),
    need(fields, 'num_attention_heads'),
  )
  activation = fields.get('hidden_activation') or need(fields, 'hidden_act')
  if activation not in _ACTIVATIONS:
    raise ValueError(
      f'config.json has the activation {activation!r}; supported are '
      f'{", ".join(_ACTIVATIONS)}.'
    )
  return {
    'vocab_size': need(fields, 'vocab_size'),
    'num_layers': need(fields, 'num_hidden_layers'),
    'embed_dim': width,
    'num_heads': heads,
    'num_kv_heads': fields.get('num_key_value_heads') or heads,
    'head_dim': fields.get('head_dim') or width // heads,
    'mlp_dim': need(fields, 'intermediate_size'),
    'activation': _ACTIVATIONS[activation],
    'norm_eps': need(fields, 'rms_norm_eps'),
  }
