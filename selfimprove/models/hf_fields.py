"""Of what kind the fields of a `config.json` are, which strangers wrote."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Fields = Mapping[str, Any]

_LARGEST = 2**31 - 1


def _is_int(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
  return _is_int(value) and 0 < value <= _LARGEST


def _is_count(value: Any) -> bool:
  return _is_int(value) and 0 <= value <= _LARGEST


def _is_positive(value: Any) -> bool:
  number = _is_int(value) or isinstance(value, float)
  # Integers may be larger than any float.
  return number and 0 < value <= 1e30 and math.isfinite(value)


def _is_names(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(x, str) for x in value)


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
  'size': (f'a whole number from 1 to {_LARGEST}', _is_size),
  'count': (f'a whole number from 0 to {_LARGEST}', _is_count),
  'positive': ('a number above 0 and up to 1e30', _is_positive),
  'switch': ('true or false', lambda value: isinstance(value, bool)),
  'name': ('a text', lambda value: isinstance(value, str)),
  'names': ('a list of texts', _is_names),
  'part': ('an object', lambda value: isinstance(value, dict)),
  'table': ('an object', lambda value: isinstance(value, dict)),
}
_FIELDS = {
  'size': (
    'head_dim',
    'hidden_size',
    'intermediate_size',
    'num_attention_heads',
    'num_hidden_layers',
    'num_key_value_heads',
    'original_max_position_embeddings',
    'sliding_window',
    'sliding_window_pattern',
    'vocab_size',
  ),
  'count': ('max_window_layers', 'num_labels'),
  'positive': (
    'attention_factor',
    'attn_logit_softcapping',
    'beta_fast',
    'beta_slow',
    'factor',
    'final_logit_softcapping',
    'high_freq_factor',
    'low_freq_factor',
    'query_pre_attn_scalar',
    'rms_norm_eps',
    'rope_local_base_freq',
    'rope_theta',
  ),
  'switch': (
    'attention_bias',
    'tie_word_embeddings',
    'truncate',
    'use_sliding_window',
  ),
  'name': (
    'dtype',
    'hidden_act',
    'hidden_activation',
    'model_type',
    'rope_type',
    'torch_dtype',
    'type',
  ),
  'names': ('architectures', 'layer_types'),
  # Its keys are not fields.
  'table': ('id2label',),
  'part': (
    'full_attention',
    'rope_parameters',
    'rope_scaling',
    'sliding_attention',
    'text_config',
  ),
}
_KIND_OF = {name: kind for kind, names in _FIELDS.items() for name in names}


def checked(fields: Fields) -> dict[str, Any]:
  """The fields that say something, each of its kind.

  Args:
    fields: of a `config.json`, or of a part of it.

  Returns:
    The same without those that are null; parts inside likewise.

  Raises:
    ValueError: a field that is read here holds something else than it should.
  """
  made = {}
  for name, value in fields.items():
    if value is None:
      continue
    if name in _KIND_OF:
      expected, holds = _KINDS[_KIND_OF[name]]
      if not holds(value):
        raise ValueError(
          f'config.json has {name}={value!r:.80}, which is not {expected}; '
          'download the checkpoint again.'
        )
    is_part = _KIND_OF.get(name) == 'part'
    made[name] = checked(value) if is_part else value
  return made
