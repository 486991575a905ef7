"""Parameters of Hugging Face checkpoints: safetensors, never pickle."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from selfimprove.models.config import TransformerConfig
from selfimprove.models.hf_config import CONFIG_FILE
from selfimprove.types import Params

INDEX_FILE = 'model.safetensors.index.json'
SINGLE_FILE = 'model.safetensors'
Path = tuple[str, ...]


class Place(NamedTuple):
  """Where an array of ours stands in their checkpoint.

  Attributes:
    name: theirs; `{}` is the layer.
    layout: `same`; `flat`, all axes in one; or `transposed`, a linear map with
      outputs first, and the axes of heads in one.
  """

  name: str
  layout: str


def places(config: TransformerConfig) -> dict[Path, Place]:
  """Their name of each of our arrays.

  Args:
    config: of the decoder.

  Returns:
    Path in our tree -> place; one place for all layers of an array.
  """
  found: dict[Path, Place] = {
    ('embedder', 'table'): Place('model.embed_tokens.weight', 'same'),
    ('final_norm', 'scale'): Place('model.norm.weight', 'flat'),
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
    if config.qkv_bias and ours.split('.')[-1] in ('query', 'key', 'value'):
      found[*path, 'bias'] = Place(f'{start}.bias', 'flat')
  return found


def _keys(path: Any) -> Path:
  """A path of JAX as names."""
  return tuple(key.key for key in path)


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
    folder: any.

  Returns:
    True if there is a `config.json` in it.
  """
  return os.path.isfile(os.path.join(folder, CONFIG_FILE))


def load(
  folder: str | os.PathLike[str], config: TransformerConfig, *, like: Params
) -> Params:
  """The parameters of a checkpoint, read tensor by tensor.

  Args:
    folder: with safetensors files, and their index if there are several.
    config: of the decoder (`hf_config.to_transformer`).
    like: shapes, dtypes and shardings (`state.abstract_params`).

  Returns:
    Parameters, on the devices; the host holds one tensor at a time.

  Raises:
    FileNotFoundError: there are no such files.
    ValueError: a tensor is missing or of another shape, or one is left over.
  """
  files = _files(folder)
  with _Reader(files) as reader:
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    where = places(config)
    made = [
      _read(reader, where[keys], leaf, keys)
      for keys, leaf in ((_keys(path), leaf) for path, leaf in leaves)
    ]
    reader.check_all_read(config)
  return jax.tree_util.tree_unflatten(treedef, made)


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
    params: of a policy.
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
    if self.layout != 'transposed':
      flat = array.reshape(-1) if self.layout == 'flat' else array
      return np.ascontiguousarray(flat)
    rows = math.prod(array.shape[: self.inputs])
    return np.ascontiguousarray(array.reshape(rows, -1).T)


def _tensors(
  config: TransformerConfig, params: Params, dtype: str | None
) -> dict[str, _Tensor]:
  """Their tensors by name, in the order of our tree."""
  where, found = places(config), dict[str, _Tensor]()
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    keys = _keys(path)
    place = where[keys]
    layers = range(config.num_layers) if keys[0] == 'layers' else (None,)
    for layer in layers:
      name = place.name.format(layer)
      found[name] = _Tensor(
        leaf, layer, place.layout, _inputs(keys), dtype or leaf.dtype
      )
  return found


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


def _files(folder: str | os.PathLike[str]) -> dict[str, str]:
  """Name of a tensor -> path of its file."""
  index = os.path.join(folder, INDEX_FILE)
  if os.path.isfile(index):
    files = {
      name: os.path.join(folder, at) for name, at in _weight_map(index).items()
    }
    for path in sorted(set(files.values())):
      if not os.path.isfile(path):
        raise FileNotFoundError(
          f'{index} names {path}, which is not there; download it too.'
        )
    return files
  path = os.path.join(folder, SINGLE_FILE)
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'{os.fspath(folder)} has neither {INDEX_FILE} nor {SINGLE_FILE}; name a '
      'checkpoint in safetensors.'
    )
  with safe_open(path, framework='numpy') as opened:
    return dict.fromkeys(opened.keys(), path)


def _weight_map(index: str) -> dict[str, str]:
  """Name of a tensor -> name of its file, which lies beside the index."""
  with open(index, encoding='utf-8') as file:
    try:
      names = json.load(file)['weight_map']
    except (json.JSONDecodeError, KeyError, TypeError) as error:
      raise ValueError(
        f'{index} has no `weight_map` ({error}); download it again.'
      ) from None
  for at in names.values():
    if os.path.basename(at) != at or not at.endswith('.safetensors'):
      raise ValueError(
        f'{index} names the file {at!r}, which is no safetensors file beside '
        'it; use another checkpoint.'
      )
  return names


def _read(reader: _Reader, place: Place, leaf: Any, keys: Path) -> jax.Array:
  """One array of ours, layer by layer where it has layers."""
  if keys[0] != 'layers':
    return jax.device_put(
      _in_our_layout(reader, place, leaf.shape, keys).astype(leaf.dtype),
      leaf.sharding,
    )
  make = functools.partial(jnp.zeros, leaf.shape, leaf.dtype)
  made = jax.jit(make, out_shardings=leaf.sharding)()
  put = jax.jit(_put, donate_argnums=0, out_shardings=leaf.sharding)
  for layer in range(leaf.shape[0]):
    at = place._replace(name=place.name.format(layer))
    tensor = _in_our_layout(reader, at, leaf.shape[1:], keys)
    made = put(made, tensor.astype(leaf.dtype), jnp.int32(layer))
  return made


def _in_our_layout(
  reader: _Reader, place: Place, shape: tuple[int, ...], keys: Path
) -> np.ndarray:
  tensor, inputs = reader.take(place.name), _inputs(keys)
  theirs = {
    'same': shape,
    'flat': (math.prod(shape),),
    'transposed': (math.prod(shape[inputs:]), math.prod(shape[:inputs])),
  }[place.layout]
  if tensor.shape != theirs:
    raise ValueError(
      f'Tensor {place.name} has the shape {tensor.shape} and not {theirs}; its '
      'config.json is of another size.'
    )
  if place.layout == 'transposed':
    tensor = tensor.T
  return np.ascontiguousarray(tensor.reshape(shape))


def _put(array: jax.Array, layer: jax.Array, at: jax.Array) -> jax.Array:
  """`array` with one of its layers written."""
  return jax.lax.dynamic_update_index_in_dim(array, layer, at, axis=0)


class _Reader:
  """Tensors by name over several files, each read once."""

  def __init__(self, files: Mapping[str, str]) -> None:
    self._files, self._left = files, set(files)
    self._open: dict[str, Any] = {}
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> _Reader:
    return self

  def __exit__(self, *_: Any) -> None:
    self._stack.close()

  def take(self, name: str) -> np.ndarray:
    if name not in self._files:
      raise ValueError(
        f'The checkpoint has no tensor {name}; it is not complete, or of '
        'another architecture than its config.json says.'
      )
    path = self._files[name]
    if path not in self._open:
      opened = safe_open(path, framework='numpy')
      self._open[path] = self._stack.enter_context(opened)
    self._left.discard(name)
    return self._open[path].get_tensor(name)

  def check_all_read(self, config: TransformerConfig) -> None:
    if config.tied_embeddings:
      self._left.discard('lm_head.weight')  # The table under a second name.
    # Older Llama checkpoints store what follows from their config.
    self._left = {
      name for name in self._left if not name.endswith('.rotary_emb.inv_freq')
    }
    if self._left:
      shown = ', '.join(sorted(self._left)[:4])
      raise ValueError(
        f'{len(self._left)} tensors of the checkpoint have no place in the '
        f'decoder ({shown}, ...); its config.json is of another architecture.'
      )
