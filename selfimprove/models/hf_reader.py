"""Tensors of a Hugging Face checkpoint, by name, over all its files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from selfimprove import json_object

INDEX_FILE = 'model.safetensors.index.json'
SINGLE_FILE = 'model.safetensors'
# A checkpoint that reads images too has its decoder under another name, in
# older and in newer files; its other parts are not read.
_INNER = re.compile(r'^(?:language_model\.model|model\.language_model)\.')
_INNER_HEAD = 'language_model.lm_head.'
_NOT_TEXT = re.compile(r'^(?:model\.)?(?:vision_tower|multi_modal_projector)\.')
# Older Llama checkpoints store what follows from their config.
_DERIVED = '.rotary_emb.inv_freq'


class Reader:
  """Tensors by the name that they have in a text-only checkpoint.

  A file is open only while a tensor is read from it: the pages that an open
  one has touched stay in memory, which would be those of all weights.
  """

  def __init__(self, folder: str) -> None:
    self._where = {
      _text_name(name): (name, path)
      for name, path in _files(folder).items()
      if not _NOT_TEXT.match(name)
    }
    self._left = set(self._where)

  def take(self, name: str) -> np.ndarray:
    """A tensor, as it is stored.

    Args:
      name: of the tensor.

    Returns:
      Its values.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in self._where:
      raise ValueError(
        f'The checkpoint has no tensor {name}; it is not complete, or of '
        'another architecture than its config.json says.'
      )
    self._left.discard(name)
    stored, path = self._where[name]
    with opened(path) as file:
      return file.get_tensor(stored)

  def check_all_read(self, *, tied: bool) -> None:
    """Refuses a checkpoint of which something was not read.

    Args:
      tied: whether the table of embeddings may stand there under the name of
        the output matrix as well.

    Raises:
      ValueError: tensors are left.
    """
    left = {name for name in self._left if not name.endswith(_DERIVED)}
    if tied:
      left.discard('lm_head.weight')
    if left:
      shown = ', '.join(sorted(left)[:4])
      raise ValueError(
        f'{len(left)} tensors of the checkpoint have no place in the '
        f'decoder ({shown}, ...); its config.json is of another architecture.'
      )


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
  """A safetensors file; what is wrong with it is said in a sentence.

  Args:
    path: of the file; it is there.

  Yields:
    What `safetensors.safe_open` gives. Nothing but reads belongs in its
    context: their errors are those of the file.

  Raises:
    ValueError: the file is damaged.
  """
  try:
    with safe_open(path, framework='numpy') as file:
      yield file
  except (SafetensorError, ValueError, TypeError) as error:
    raise ValueError(
      f'{os.fspath(path)} is damaged, or no safetensors file ({error}); '
      'download it again.'
    ) from None


def _text_name(name: str) -> str:
  """The name of a tensor where there is text alone."""
  if name.startswith(_INNER_HEAD):
    return name.replace(_INNER_HEAD, 'lm_head.', 1)
  return _INNER.sub('model.', name)


def _files(folder: str) -> dict[str, str]:
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
      f'{folder} has neither {INDEX_FILE} nor {SINGLE_FILE}; name a '
      'checkpoint in safetensors.'
    )
  with opened(path) as file:
    return dict.fromkeys(file.keys(), path)


def _weight_map(index: str) -> dict[str, str]:
  """Name of a tensor -> name of its file, which lies beside the index."""
  names = json_object.read(index).get('weight_map')
  if not isinstance(names, dict) or not names:
    raise ValueError(
      f'{index} has no `weight_map` from tensors to files; download it again.'
    )
  for at in names.values():
    beside = isinstance(at, str) and os.path.basename(at) == at
    if not beside or not at.endswith('.safetensors'):
      raise ValueError(
        f'{index} names the file {at!r}, which is no safetensors file beside '
        'it; use another checkpoint.'
      )
  return names
