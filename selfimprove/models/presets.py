"""Sizes of published checkpoints, as the fields of their `config.json`.

For shapes without a download: dry runs, benchmarks, training from nothing. A
checkpoint on disk says these things itself (`hf_config.from_folder`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from selfimprove.models.config import TransformerConfig
from selfimprove.models.hf_config import Fields, to_transformer


class Size(NamedTuple):
  """What differs between the checkpoints of a family.

  Attributes:
    family: its name here.
    num_hidden_layers: blocks.
    hidden_size: width.
    num_attention_heads: query heads.
    num_key_value_heads: key-value heads.
    intermediate_size: width of the feed-forward layer.
    others: fields that differ from those of the family.
  """

  family: str
  num_hidden_layers: int
  hidden_size: int
  num_attention_heads: int
  num_key_value_heads: int
  intermediate_size: int
  others: Mapping[str, Any] = {}


_LLAMA3_ROPE = {
  'rope_type': 'llama3',
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 8192,
}
_GEMMA = {
  'hidden_activation': 'gelu_pytorch_tanh',
  'rms_norm_eps': 1e-6,
  'head_dim': 256,
  'query_pre_attn_scalar': 256,
}
_FAMILIES: Mapping[str, Fields] = {
  # arXiv 2407.21783; the sizes of 3.2 and 3.3 are published with their weights.
  'llama-3': {
    'model_type': 'llama',
    'vocab_size': 128_256,
    'hidden_act': 'silu',
    'rms_norm_eps': 1e-5,
    'head_dim': 128,
    'rope_theta': 500_000.0,
    'rope_scaling': {**_LLAMA3_ROPE, 'factor': 8.0},
  },
  # arXiv 2412.15115.
  'qwen2.5': {
    'model_type': 'qwen2',
    'vocab_size': 151_936,
    'hidden_act': 'silu',
    'rms_norm_eps': 1e-6,
    'rope_theta': 1_000_000.0,
  },
  # arXiv 2505.09388.
  'qwen3': {
    'model_type': 'qwen3',
    'vocab_size': 151_936,
    'hidden_act': 'silu',
    'rms_norm_eps': 1e-6,
    'head_dim': 128,
    'rope_theta': 1_000_000.0,
  },
  # arXiv 2408.00118.
  'gemma-2': {
    **_GEMMA,
    'model_type': 'gemma2',
    'vocab_size': 256_000,
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
    'sliding_window': 4096,
    'rope_theta': 10_000.0,
  },
  # arXiv 2503.19786; the text part, whose table has room for image tokens.
  'gemma-3': {
    **_GEMMA,
    'model_type': 'gemma3_text',
    'vocab_size': 262_208,
    'sliding_window': 1024,
    'rope_theta': 1_000_000.0,
    'rope_local_base_freq': 10_000.0,
    'rope_scaling': {'rope_type': 'linear', 'factor': 8.0},
  },
}
_SMALL_LLAMA = {
  'tie_word_embeddings': True,
  'rope_scaling': {**_LLAMA3_ROPE, 'factor': 32.0},
}
_TIED = {'tie_word_embeddings': True}
_WIDE_TABLE = {'vocab_size': 152_064}
# That of the base models; those that follow instructions have 1e-6.
_WIDE_TABLE_OTHER_EPS = {**_WIDE_TABLE, 'rms_norm_eps': 1e-5}
_SIZES: Mapping[str, Size] = {
  'llama-3.2-1b': Size(
    'llama-3', 16, 2048, 32, 8, 8192, {**_SMALL_LLAMA, 'head_dim': 64}
  ),
  'llama-3.2-3b': Size('llama-3', 28, 3072, 24, 8, 8192, _SMALL_LLAMA),
  'llama-3.1-8b': Size('llama-3', 32, 4096, 32, 8, 14_336),
  'llama-3.1-70b': Size('llama-3', 80, 8192, 64, 8, 28_672),
  'llama-3.3-70b': Size('llama-3', 80, 8192, 64, 8, 28_672),
  'qwen2.5-0.5b': Size('qwen2.5', 24, 896, 14, 2, 4864, _TIED),
  'qwen2.5-1.5b': Size('qwen2.5', 28, 1536, 12, 2, 8960, _TIED),
  'qwen2.5-3b': Size('qwen2.5', 36, 2048, 16, 2, 11_008, _TIED),
  'qwen2.5-7b': Size('qwen2.5', 28, 3584, 28, 4, 18_944, _WIDE_TABLE),
  'qwen2.5-14b': Size(
    'qwen2.5', 48, 5120, 40, 8, 13_824, _WIDE_TABLE_OTHER_EPS
  ),
  'qwen2.5-32b': Size(
    'qwen2.5', 64, 5120, 40, 8, 27_648, _WIDE_TABLE_OTHER_EPS
  ),
  'qwen2.5-72b': Size(
    'qwen2.5', 80, 8192, 64, 8, 29_568, _WIDE_TABLE_OTHER_EPS
  ),
  'qwen3-0.6b': Size('qwen3', 28, 1024, 16, 8, 3072, _TIED),
  'qwen3-1.7b': Size('qwen3', 28, 2048, 16, 8, 6144, _TIED),
  'qwen3-4b': Size('qwen3', 36, 2560, 32, 8, 9728, _TIED),
  'qwen3-8b': Size('qwen3', 36, 4096, 32, 8, 12_288),
  'qwen3-14b': Size('qwen3', 40, 5120, 40, 8, 17_408),
  'qwen3-32b': Size('qwen3', 64, 5120, 64, 8, 25_600),
  'gemma-2-2b': Size('gemma-2', 26, 2304, 8, 4, 9216),
  # Its first files had 224 in query_pre_attn_scalar, which was corrected.
  'gemma-2-9b': Size('gemma-2', 42, 3584, 16, 8, 14_336),
  'gemma-2-27b': Size(
    'gemma-2',
    46,
    4608,
    32,
    16,
    36_864,
    {'head_dim': 128, 'query_pre_attn_scalar': 144},
  ),
  'gemma-3-1b': Size(
    'gemma-3',
    26,
    1152,
    4,
    1,
    6912,
    {'vocab_size': 262_144, 'sliding_window': 512, 'rope_scaling': None},
  ),
  'gemma-3-4b': Size('gemma-3', 34, 2560, 8, 4, 10_240),
  'gemma-3-12b': Size('gemma-3', 48, 3840, 16, 8, 15_360),
  'gemma-3-27b': Size(
    'gemma-3',
    62,
    5376,
    32,
    16,
    21_504,
    {'head_dim': 128, 'query_pre_attn_scalar': 168},
  ),
}
NAMES = tuple(_SIZES)
"""Of all published sizes that are known here."""


def fields(*, name: str) -> Fields:
  """The `config.json` of a published checkpoint, as far as shapes need it.

  Args:
    name: one of `NAMES`.

  Returns:
    Field -> value.

  Raises:
    ValueError: there is no such name.
  """
  if name not in _SIZES:
    raise ValueError(
      f'{name!r} is no published size; use one of {", ".join(NAMES)}, or bind '
      'MODEL to @hf_config.from_folder() of a checkpoint.'
    )
  size = _SIZES[name]._asdict()
  family, others = _FAMILIES[size.pop('family')], size.pop('others')
  return {**family, **size, **others}


def published(
  *,
  name: str,
  dtype: str = 'bfloat16',
  param_dtype: str = 'float32',
  remat: str = 'full',
  training_layout: str = 'tensor_parallel',
  decode_layout: str = 'gathered',
) -> TransformerConfig:
  """The decoder of a published checkpoint.

  Args:
    name: one of `NAMES`.
    dtype: of activations and the cache.
    param_dtype: of parameters.
    remat: what the backward pass recomputes, one of `config.REMAT`.
    training_layout: of layers over the mesh, as in `TransformerConfig`.
    decode_layout: the same, while tokens are drawn.

  Returns:
    Its shape and options.

  Raises:
    ValueError: there is no such name.
  """
  config = to_transformer(
    fields(name=name), dtype=dtype, param_dtype=param_dtype
  )
  return dataclasses.replace(
    config,
    remat=remat,
    training_layout=training_layout,
    decode_layout=decode_layout,
  )
