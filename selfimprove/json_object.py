"""JSON objects that strangers wrote, such as the files of a checkpoint."""

from __future__ import annotations

import json
import os
from typing import Any


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The fields of a file.

  Args:
    path: of the file; it is there.

  Returns:
    Field -> value.

  Raises:
    ValueError: the file is no JSON, or no object.
  """
  with open(path, encoding='utf-8') as file:
    try:
      fields = json.load(file)
    except json.JSONDecodeError as error:
      raise ValueError(
        f'{path} is no JSON ({error}); download it again.'
      ) from None
  if not isinstance(fields, dict):
    raise ValueError(f'{path} holds no JSON object; download it again.')
  return fields
