"""Checkpoints by the name that they have on the Hugging Face hub."""

from __future__ import annotations

import functools
import logging
import os
import re

TEMPLATES_FOLDER = 'additional_chat_templates'
# Weights as safetensors, and what describes them and their text; never pickle.
_WANTED = (
  '*.safetensors',
  '*.json',
  'tokenizer.model',
  'merges.txt',
  'chat_template.jinja',
  f'{TEMPLATES_FOLDER}/*.jinja',
  'LICENSE*',
  'NOTICE*',
)
# Other formats of the same weights, in folders of their own. A star of the hub
# stands for slashes too.
_UNWANTED = (
  '*/*/*',
  '*/*.safetensors',
  '*/*.json',
  'LICENSE*/*',
  'NOTICE*/*',
)
_log = logging.getLogger(__name__)
_NAME = re.compile(r'([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?')


def local_folder(name: str | os.PathLike[str]) -> str:
  """The folder of a checkpoint, fetched if its name is one of the hub.

  Args:
    name: a folder, or `owner/name` on the hub, with `@revision` if it is not to
      be the newest. A folder of that name comes first.

  Returns:
    The folder; what is neither is returned as it is, for its reader to refuse.

  Raises:
    FileNotFoundError: the name begins with a folder that is here, so that it
      is a path, and there is nothing at its end.
    ValueError: there is no such folder, and the hub does not give it.
  """
  path = os.fspath(name)
  found = _named(path)
  if found is None:
    return path
  owner = path.partition('/')[0]
  if found[1] is None and os.path.isdir(owner):
    raise FileNotFoundError(
      f'There is no {path}, and the folder {owner} is here, so the hub is not '
      f'asked for it; correct the path, or name {path}@main if that repository '
      'of the Hugging Face hub is meant.'
    )
  return _fetched(*found)


def name_and_revision(
  name: str | os.PathLike[str],
) -> tuple[str, str | None]:
  """The two parts of a name on the hub.

  Args:
    name: as for `local_folder`.

  Returns:
    `owner/name`, and the revision or None; a folder as it is, and None.
  """
  path = os.fspath(name)
  return _named(path) or (path, None)


def _named(path: str) -> tuple[str, str | None] | None:
  """Name and revision; None for what is a path, there or not."""
  found = _NAME.fullmatch(path)
  if os.path.exists(path) or found is None:
    return None
  return found[1], found[2]


# Once a process: the hub may move on, and a run reads one state of it.
@functools.lru_cache(maxsize=16)
def _fetched(name: str, revision: str | None) -> str:
  try:
    import huggingface_hub
  except ImportError:
    raise ValueError(
      f'{name} is no folder here, and to fetch it from the Hugging Face hub '
      "needs an extra: pip install 'selfimprove[hub]'."
    ) from None
  _log.warning(
    '%s is no folder here; asking %s for its revision %s.',
    name,
    huggingface_hub.constants.ENDPOINT,
    revision or 'main',
  )
  try:
    return huggingface_hub.snapshot_download(
      name,
      revision=revision,
      allow_patterns=list(_WANTED),
      ignore_patterns=list(_UNWANTED),
    )
  except (OSError, ValueError) as error:  # What all errors of the hub are.
    reason = str(error).strip().splitlines()[0]
    raise ValueError(
      f'{name} is no folder here, and the Hugging Face hub does not give it '
      f'({reason}); name a folder, or log in with `hf auth login` if it is '
      'not public.'
    ) from error
