"""Adapters in the format of the `peft` library, there and back."""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors.numpy import save_file

from selfimprove import json_object
from selfimprove.models import hf, hf_reader
from selfimprove.models.config import TransformerConfig
from selfimprove.models.layers import DOWN, UP
from selfimprove.models.lora import LoRA, targets
from selfimprove.models.transformer import make_policy
from selfimprove.types import Params

CONFIG_FILE = 'adapter_config.json'
TENSORS_FILE = 'adapter_model.safetensors'

# What another value would change, and no adapter here can do.
_ONLY: Mapping[str, Any] = {
  'peft_type': 'LORA',
  'bias': 'none',
  'fan_in_fan_out': False,
  'lora_bias': False,
  'use_dora': False,
  'use_qalora': False,
  'rank_pattern': {},
  'alpha_pattern': {},
  'layers_to_transform': None,
  'layer_replication': None,
  'modules_to_save': None,
  'trainable_token_indices': None,
}


def save(
  folder: str | os.PathLike[str],
  config: TransformerConfig,
  lora: LoRA,
  adapters: Params,
  *,
  base: str,
  revision: str | None = None,
) -> None:
  """Writes adapters so that `peft.PeftModel.from_pretrained` loads them.

  Args:
    folder: made where it is not.
    config: of the decoder that they adapt.
    lora: of the adapters.
    adapters: of `lora.make_adapters`.
    base: name or folder of the decoder's checkpoint, which `peft` notes.
    revision: of that name on the hub; None for the newest.
  """
  os.makedirs(folder, exist_ok=True)
  tensors, modules = dict[str, np.ndarray](), set[str]()
  for tensor in _tensors(config, lora):
    leaf = adapters
    for name in tensor.keys:
      leaf = leaf[name]
    array = np.asarray(jax.device_get(leaf[tensor.layer]))
    tensors[tensor.name] = np.ascontiguousarray(array.reshape(tensor.matrix).T)
    modules.add(tensor.name.split('.')[-3])
  # Readers of PyTorch tensors look at this field.
  save_file(
    tensors, os.path.join(folder, TENSORS_FILE), metadata={'format': 'pt'}
  )
  alpha = lora.scale * lora.rank
  fields = {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': base,
    'revision': revision,
    'inference_mode': True,
    'r': lora.rank,
    'lora_alpha': int(alpha) if alpha == int(alpha) else alpha,
    'lora_dropout': 0.0,
    'target_modules': sorted(modules),
    'bias': 'none',
    'fan_in_fan_out': False,
    'use_rslora': False,
  }
  with open(os.path.join(folder, CONFIG_FILE), 'w', encoding='utf-8') as file:
    json.dump(fields, file, indent=2)


def load(
  folder: str | os.PathLike[str],
  config: TransformerConfig,
  lora: LoRA,
  *,
  like: Params,
) -> Params:
  """Adapters that `peft` or `save` has written.

  Args:
    folder: with `adapter_config.json` and `adapter_model.safetensors`.
    config: of the decoder that they adapt.
    lora: of the adapters; theirs have to be the same.
    like: shapes, dtypes and shardings (`state.abstract_params`).

  Returns:
    Adapters, on the devices.

  Raises:
    FileNotFoundError: a file is not there.
    ValueError: they have another rank or scale, do something that none do
      here, or are of other linear maps.
  """
  for name in (CONFIG_FILE, TENSORS_FILE):
    if not os.path.isfile(os.path.join(folder, name)):
      raise FileNotFoundError(
        f'{os.fspath(folder)} has no {name}; name the folder of adapters that '
        '`peft` has saved.'
      )
  _check_config(folder, lora)
  path = os.path.join(folder, TENSORS_FILE)
  with hf_reader.opened(path) as file:
    left = set(file.keys())
  stacks: dict[tuple[str, ...], list[np.ndarray]] = {}
  for tensor in _tensors(config, lora):
    array = _read(path, tensor.name) if tensor.name in left else None
    left.discard(tensor.name)
    if array is None or array.shape != tensor.matrix[::-1]:
      what = 'no' if array is None else f'shape {array.shape} of'
      raise ValueError(
        f'{os.fspath(folder)} has {what} tensor {tensor.name}, expected in '
        f'shape {tensor.matrix[::-1]}; bind LORA_TARGETS and LORA_RANK to what '
        'these adapters adapt, or name others.'
      )
    stacks.setdefault(tensor.keys, []).append(array.T)
  if left:
    raise ValueError(
      f'{os.fspath(folder)} has {len(left)} tensors of linear maps that '
      f'LORA_TARGETS leaves out ({min(left)}, ...); widen it to them.'
    )

  def placed(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    stack = np.stack(stacks[tuple(key.key for key in path)])
    return jax.device_put(
      stack.reshape(leaf.shape).astype(leaf.dtype), leaf.sharding
    )

  return jax.tree_util.tree_map_with_path(placed, like)


class _Tensor(NamedTuple):
  """A tensor of theirs: a layer of an array of ours, outputs first."""

  name: str
  keys: tuple[str, ...]
  layer: int
  matrix: tuple[int, int]


def _tensors(config: TransformerConfig, lora: LoRA) -> Iterator[_Tensor]:
  """All of them, layer by layer within an array of ours."""
  places = hf.places(config)
  for target in targets(lora, make_policy(config)):
    module = places[*target.path, 'kernel'].name.removesuffix('.weight')
    down = (math.prod(target.inputs), lora.rank)
    up = (lora.rank, math.prod(target.outputs))
    for ours, theirs, matrix in ((DOWN, 'A', down), (UP, 'B', up)):
      for layer in range(target.layers):
        yield _Tensor(
          f'base_model.model.{module.format(layer)}.lora_{theirs}.weight',
          (*target.path, ours),
          layer,
          matrix,
        )


def _read(path: str, name: str) -> np.ndarray:
  """One tensor: the file is open for no longer than that takes."""
  with hf_reader.opened(path) as file:
    return file.get_tensor(name)


def _check_config(folder: str | os.PathLike[str], lora: LoRA) -> None:
  path = os.path.join(folder, CONFIG_FILE)
  fields = json_object.read(path)
  for name, wanted in _ONLY.items():
    value = fields.get(name, wanted)
    if value != wanted and (value or wanted):
      raise ValueError(
        f'{path} has {name}={reprlib.repr(value)}, and adapters here are of '
        f'{wanted!r} alone; merge these into their model with `peft` and begin '
        'with that.'
      )
  rank, alpha = fields.get('r'), fields.get('lora_alpha')
  if (
    not isinstance(rank, int)
    or rank != lora.rank
    or not isinstance(alpha, int | float)
  ):
    raise ValueError(
      f'{path} has r={reprlib.repr(rank)} and '
      f'lora_alpha={reprlib.repr(alpha)}, but LORA_RANK is {lora.rank}; bind '
      'LORA_RANK and LORA_ALPHA to theirs.'
    )
  scale = alpha / rank ** (0.5 if fields.get('use_rslora') else 1.0)
  if not math.isclose(scale, lora.scale):
    raise ValueError(
      f'{path} scales its adapters by {scale:g}, but LORA_ALPHA makes that '
      f'{lora.scale:g}; bind LORA_ALPHA to {scale * rank:g}.'
    )
