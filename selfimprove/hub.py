"""Checkpoints by the name that they have on the Hugging Face hub."""

from __future__ import annotations

import functools
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
_NAME = re.compile(r'([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?')


def local_folder(name: str | os.PathLike[str]) -> str:
  """The folder of a checkpoint, fetched if its name is one of the hub.

  Args:
    name: a folder, or `owner/name` on the hub, with `@revision` if it is not to
      be the newest. A folder of that name comes first.

  Returns:
    The folder; what is neither is returned as it is, for its reader to refuse.

  Raises:
    ValueError: there is no such folder, and the hub does not give it.
  """
  path = os.fspath(name)
  found = _NAME.fullmatch(path)
  if os.path.exists(path) or found is None:
    return path
  return _fetched(found[1], found[2])


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
