"""Texts and JSON that strangers wrote, such as the files of a checkpoint."""

from __future__ import annotations

import json
import os
from typing import Any


def text(path: str | os.PathLike[str]) -> str:
  """The text of a file.

  Args:
    path: of the file; it is there.

  Returns:
    All of it.

  Raises:
    ValueError: the file is not UTF-8.
  """
  with open(path, encoding='utf-8') as file:
    try:
      return file.read()
    except UnicodeDecodeError as error:
      raise ValueError(
        f'{os.fspath(path)} is no UTF-8 text ({error.reason} at byte '
        f'{error.start}); download it again.'
      ) from None


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The fields of a file.

  Args:
    path: of the file; it is there.

  Returns:
    Field -> value.

  Raises:
    ValueError: the file is no JSON, or no object.
  """
  try:
    fields = json.loads(text(path))
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(
      f'{path} is no JSON ({error}); download it again.'
    ) from None
  if not isinstance(fields, dict):
    raise ValueError(f'{path} holds no JSON object; download it again.')
  return fields


def read_if_there(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The fields of a file that need not be there.

  Args:
    path: of the file.

  Returns:
    Field -> value; empty if there is no such file.

  Raises:
    ValueError: the file is no JSON, or no object.
  """
  return read(path) if os.path.isfile(path) else {}
