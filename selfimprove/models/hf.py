"""Parameters of Hugging Face checkpoints: safetensors, never pickle."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from selfimprove import hub
from selfimprove.models import hf_config
from selfimprove.models.config import TransformerConfig
from selfimprove.models.hf_reader import INDEX_FILE, SINGLE_FILE, Reader
from selfimprove.types import Params

Path = tuple[str, ...]
_SCORE_BIAS = ('value', 'bias')  # Ours has one, theirs has none.


class Place(NamedTuple):
  """Where an array of ours stands in their checkpoint.

  Attributes:
    name: theirs; `{}` is the layer.
    layout: `same`; `flat`, all axes in one; `row`, with one more in front; or
      `transposed`, a linear map with outputs first, and the axes of heads in
      one.
  """

  name: str
  layout: str


def places(config: TransformerConfig) -> dict[Path, Place]:
  """Their name of each of our arrays.

  Args:
    config: of the decoder.

  Returns:
    Path in our tree of a policy, or of a critic without `trunk` -> place; one
    place for all layers of an array.
  """
  found: dict[Path, Place] = {
    ('embedder', 'table'): Place('model.embed_tokens.weight', 'same'),
    ('final_norm', 'scale'): Place('model.norm.weight', 'flat'),
    ('value', 'kernel'): Place('score.weight', 'row'),
  }
  if not config.tied_embeddings:
    found['head', 'kernel'] = Place('lm_head.weight', 'transposed')
  for ours, theirs in _modules(config).items():
    path = ('layers', *ours.split('.'))
    start = f'model.layers.{{}}.{theirs}'
    if 'norm' in theirs:
      found[*path, 'scale'] = Place(f'{start}.weight', 'flat')
      continue
    found[*path, 'kernel'] = Place(f'{start}.weight', 'transposed')
    if _has_bias(config, path):
      found[*path, 'bias'] = Place(f'{start}.bias', 'flat')
  return found


def _has_bias(config: TransformerConfig, path: Path) -> bool:
  if path[-1] == 'out':
    return config.out_bias
  return config.qkv_bias and path[-1] in ('query', 'key', 'value')


def _keys(path: Any) -> Path:
  """A path of JAX as names, those of a critic's trunk like a policy's."""
  keys = tuple(key.key for key in path)
  return keys[1:] if keys[0] == 'trunk' else keys


def _inputs(keys: Path) -> int:
  """Axes of inputs of a kernel of ours: out of the heads it has two."""
  return 2 if keys[-2] == 'out' else 1


def _modules(config: TransformerConfig) -> dict[str, str]:
  """Our modules of a block -> theirs."""
  modules = {
    'attention.query': 'self_attn.q_proj',
    'attention.key': 'self_attn.k_proj',
    'attention.value': 'self_attn.v_proj',
    'attention.out': 'self_attn.o_proj',
    'mlp.gate': 'mlp.gate_proj',
    'mlp.up': 'mlp.up_proj',
    'mlp.down': 'mlp.down_proj',
    'pre_attention_norm': 'input_layernorm',
  }
  if config.qk_norm:
    modules['attention.query_norm'] = 'self_attn.q_norm'
    modules['attention.key_norm'] = 'self_attn.k_norm'
  if config.post_norms:
    # Gemma's name says where it stands; the others' name is older than that.
    modules['post_attention_norm'] = 'post_attention_layernorm'
    modules['pre_mlp_norm'] = 'pre_feedforward_layernorm'
    modules['post_mlp_norm'] = 'post_feedforward_layernorm'
  else:
    modules['pre_mlp_norm'] = 'post_attention_layernorm'
  return modules


def is_checkpoint(folder: str | os.PathLike[str]) -> bool:
  """Whether a folder is a Hugging Face checkpoint.

  Args:
    folder: any, or a name on the hub, from where it is fetched.

  Returns:
    True if there is a `config.json` in it.
  """
  path = os.path.join(hub.local_folder(folder), hf_config.CONFIG_FILE)
  return os.path.isfile(path)


def load(
  folder: str | os.PathLike[str], config: TransformerConfig, *, like: Params
) -> Params:
  """The parameters of a checkpoint, read tensor by tensor.

  Args:
    folder: with safetensors files, and their index if there are several; or its
      name on the hub.
    config: of the decoder (`hf_config.to_transformer`).
    like: shapes, dtypes and shardings (`state.abstract_params`) of a policy; or
      of a critic, for a sequence classifier with one label.

  Returns:
    Parameters, on the devices; the host holds one tensor at a time.

  Raises:
    FileNotFoundError: there are no such files.
    ValueError: a tensor is missing or of another shape, or one is left over; or
      it is to be a critic and tells no score.
  """
  folder = hub.local_folder(folder)
  if 'trunk' in like:
    hf_config.check_one_score(folder)
  reader, where = Reader(folder), places(config)
  made = jax.tree_util.tree_map_with_path(
    lambda path, leaf: _read(reader, where, leaf, _keys(path)), like
  )
  reader.check_all_read(tied=config.tied_embeddings)
  return made


def save(
  folder: str | os.PathLike[str],
  config: TransformerConfig,
  params: Params,
  *,
  dtype: str | None = None,
  max_bytes: int = 5 << 30,
) -> None:
  """Writes parameters as safetensors, in several files with an index.

  Args:
    folder: made where it is not; safetensors that are in it are replaced.
    config: of the decoder.
    params: of a policy; or of a critic, as a sequence classifier's.
    dtype: in which they are written; None for their own.
    max_bytes: of a file; a tensor that is larger has one to itself.
  """
  os.makedirs(folder, exist_ok=True)
  for name in os.listdir(folder):
    if name == INDEX_FILE or name.endswith('.safetensors'):
      os.remove(os.path.join(folder, name))
  tensors = _tensors(config, params, dtype)
  files = _dealt(tensors, max_bytes)
  index = dict[str, str]()
  for number, names in enumerate(files, 1):
    file = SINGLE_FILE
    if len(files) > 1:
      file = f'model-{number:05}-of-{len(files):05}.safetensors'
    written = {name: tensors[name].read() for name in names}
    # Readers of PyTorch tensors look at this field.
    save_file(written, os.path.join(folder, file), metadata={'format': 'pt'})
    index.update(dict.fromkeys(names, file))
  if len(files) > 1:
    total = sum(tensor.nbytes for tensor in tensors.values())
    with open(os.path.join(folder, INDEX_FILE), 'w', encoding='utf-8') as out:
      json.dump(
        {'metadata': {'total_size': total}, 'weight_map': index}, out, indent=2
      )


class _Tensor(NamedTuple):
  """A tensor of theirs, in an array of ours."""

  leaf: jax.Array
  layer: int | None
  layout: str
  inputs: int
  dtype: Any

  @property
  def nbytes(self) -> int:
    """Of the tensor."""
    count = self.leaf.size // (1 if self.layer is None else len(self.leaf))
    return count * jnp.dtype(self.dtype).itemsize

  def read(self) -> np.ndarray:
    """The tensor in their layout."""
    array = self.leaf if self.layer is None else self.leaf[self.layer]
    array = np.asarray(jax.device_get(array)).astype(self.dtype, copy=False)
    if self.layout == 'transposed':
      rows = math.prod(array.shape[: self.inputs])
      return _transposed(array.reshape(rows, -1))
    if self.layout != 'same':
      array = array.reshape((1, -1) if self.layout == 'row' else -1)
    return np.ascontiguousarray(array)


def _tensors(
  config: TransformerConfig, params: Params, dtype: str | None
) -> dict[str, _Tensor]:
  """Their tensors by name, in the order of our tree."""
  where, found = places(config), dict[str, _Tensor]()
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    keys = _keys(path)
    if keys == _SCORE_BIAS:
      _check_no_bias(leaf)
      continue
    place = where[keys]
    layers = range(config.num_layers) if keys[0] == 'layers' else (None,)
    for layer in layers:
      name = place.name.format(layer)
      found[name] = _Tensor(
        leaf, layer, place.layout, _inputs(keys), dtype or leaf.dtype
      )
  return found


def _check_no_bias(bias: jax.Array) -> None:
  """Refuses a score that their head, which has no bias, cannot tell."""
  if float(bias):
    raise ValueError(
      f'The score has the bias {float(bias)}, for which the format has no '
      'place; train it by comparisons, which leave the bias at 0.'
    )


def _dealt(tensors: Mapping[str, _Tensor], max_bytes: int) -> list[list[str]]:
  """Names of each file."""
  files, room = [[]], max_bytes
  for name, tensor in tensors.items():
    if tensor.nbytes > room and files[-1]:
      files.append([])
      room = max_bytes
    files[-1].append(name)
    room -= tensor.nbytes
  return files


def _read(
  reader: Reader, where: Mapping[Path, Place], leaf: Any, keys: Path
) -> jax.Array:
  """One array of ours, layer by layer where it has layers."""
  if keys == _SCORE_BIAS:
    return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
  place, inputs = where[keys], _inputs(keys)
  if keys[0] != 'layers':
    tensor = _checked(reader, place, leaf.shape, inputs)
    if place.layout == 'transposed':
      tensor = _transposed(tensor)
    tensor = tensor.reshape(leaf.shape).astype(leaf.dtype, copy=False)
    return jax.device_put(tensor, leaf.sharding)
  make = functools.partial(jnp.zeros, leaf.shape, leaf.dtype)
  made = jax.jit(make, out_shardings=leaf.sharding)()
  # On the devices layers are turned round much faster than NumPy does it.
  put = jax.jit(
    functools.partial(_put, place.layout),
    donate_argnums=0,
    out_shardings=leaf.sharding,
  )
  for layer in range(leaf.shape[0]):
    at = place._replace(name=place.name.format(layer))
    tensor = _checked(reader, at, leaf.shape[1:], inputs)
    # Waited for, or the host would read ahead and hold many tensors.
    made = jax.block_until_ready(put(made, tensor, jnp.int32(layer)))
  return made


def _checked(
  reader: Reader, place: Place, shape: tuple[int, ...], inputs: int
) -> np.ndarray:
  """A tensor of theirs that has the shape it must have."""
  tensor = reader.take(place.name)
  theirs = {
    'same': shape,
    'flat': (math.prod(shape),),
    'row': (1, *shape),
    'transposed': (math.prod(shape[inputs:]), math.prod(shape[:inputs])),
  }[place.layout]
  if tensor.shape != theirs:
    raise ValueError(
      f'Tensor {place.name} has the shape {tensor.shape} and not {theirs}; its '
      'config.json is of another size.'
    )
  return tensor


def _transposed(matrix: np.ndarray) -> np.ndarray:
  """A copy, as numbers that NumPy knows: it is slow with other types."""
  bits = matrix.view(f'u{matrix.dtype.itemsize}')
  return np.ascontiguousarray(bits.T).view(matrix.dtype)


def _put(
  layout: str, array: jax.Array, tensor: jax.Array, at: jax.Array
) -> jax.Array:
  """`array` with one of its layers written."""
  if layout == 'transposed':
    tensor = tensor.T
  layer = tensor.reshape(array.shape[1:]).astype(array.dtype)
  return jax.lax.dynamic_update_index_in_dim(array, layer, at, axis=0)
