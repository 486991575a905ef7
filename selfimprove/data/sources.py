"""Rows of data sets as others publish them: JSON, JSON lines, Parquet, tfds.

What cannot be read is an error with its place; it is for the caller to refuse
or to count it. Paths are opened by TensorFlow, so that `gs://` works.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

from selfimprove.data.json_lines import Fields, parse
from selfimprove.data.rows import BadRowError
from selfimprove.data.tensorflow_host import tf, without_chatter

Found = tuple[str, Fields | BadRowError]
"""File and row, and what stands there."""

_LARGE_FILE = b'version https://git-lfs'


def matching(folder: str, pattern: str) -> list[str]:
  """The files of a folder that a pattern names.

  Args:
    folder: path; empty for the working directory.
    pattern: relative to the folder, or a path of its own; may hold `*`.

  Returns:
    Paths, sorted; none where nothing matches.
  """
  where = os.path.expanduser(pattern)
  if '://' not in where:
    where = os.path.join(os.path.expanduser(folder), where)
  found = tf.io.gfile.glob(where)
  return sorted(path for path in found if not tf.io.gfile.isdir(path))


def read(path: str) -> Iterator[Found]:
  """The rows of a file.

  Args:
    path: ends with .parquet, .json (an object, or a list of them) or else
      holds one JSON object a line; before `.gz` likewise.

  Yields:
    Place and fields, or place and error.

  Raises:
    ValueError: the file as a whole cannot be read.
  """
  content = _content(path)
  name = path.removesuffix('.gz')
  if name.endswith('.parquet'):
    yield from _parquet(content, path)
  elif name.endswith('.json'):
    yield from _json(content, path)
  else:
    for number, line in enumerate(content.split(b'\n'), start=1):
      if line.strip():
        where = f'{path}, line {number}'
        yield where, _parsed(line, where)


def tfds_folder(folder: str) -> str | None:
  """The newest version of a data set that tfds has prepared in a folder.

  Args:
    folder: of the data set, or of one of its versions.

  Returns:
    The folder of the version; None where there is none.
  """
  folder = os.path.expanduser(folder)
  found = [
    os.path.dirname(path)
    for pattern in ('dataset_info.json', '*/dataset_info.json')
    for path in tf.io.gfile.glob(os.path.join(folder, pattern))
  ]
  return max(found, key=_version) if found else None


def read_tfds(folder: str, split: str) -> Iterator[Found]:
  """The rows of a data set that tfds has prepared.

  Args:
    folder: as `tfds_folder` returns it.
    split: one of its splits.

  Yields:
    Place and fields.

  Raises:
    ValueError: there is no such split, or the folder cannot be read.
  """
  with without_chatter():
    import tensorflow_datasets as tfds
  try:
    builder = tfds.builder_from_directory(folder)
    # The order of the files, whatever reads them.
    how = tfds.ReadConfig(
      interleave_cycle_length=1, try_autocache=False, shuffle_seed=0
    )
    dataset = builder.as_dataset(
      split=split, shuffle_files=False, read_config=how
    )
    for index, example in enumerate(dataset.as_numpy_iterator()):
      where = f'{folder}, split {split!r}, row {index}'
      yield where, {name: _plain(value) for name, value in example.items()}
  except (ValueError, KeyError, OSError, tf.errors.OpError) as error:
    raise ValueError(
      f'Split {split!r} of {folder} cannot be read by tensorflow_datasets '
      f'({_first_line(error)}); prepare the data set again.'
    ) from error


def _content(path: str) -> bytes:
  content = tf.io.gfile.GFile(path, 'rb').read()
  if content.startswith(_LARGE_FILE):
    raise ValueError(
      f'{path} is not the data but a pointer of Git LFS to it; run '
      '`git lfs pull`, or download the file itself.'
    )
  if not path.endswith('.gz'):
    return content
  try:
    return gzip.decompress(content)
  except (OSError, EOFError, zlib.error) as error:
    raise ValueError(
      f'{path} is no whole gzip file ({_first_line(error)}); download it again.'
    ) from error


def _parquet(content: bytes, path: str) -> Iterator[Found]:
  import pyarrow as pa
  from pyarrow import parquet

  try:
    file = parquet.ParquetFile(io.BytesIO(content))
    index = 0
    for batch in file.iter_batches():
      for fields in batch.to_pylist():
        yield f'{path}, row {index}', {k: _plain(v) for k, v in fields.items()}
        index += 1
  except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f'{path} is no whole Parquet file ({_first_line(error)}); download it '
      'again.'
    ) from error


def _json(content: bytes, path: str) -> Iterator[Found]:
  try:
    value = json.loads(content.decode('utf-8-sig'))
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f'{path} is not JSON ({_first_line(error)}); download it again, or name '
      'it .jsonl if it has one JSON object a line.'
    ) from error
  if isinstance(value, dict):
    yield path, value
    return
  if not isinstance(value, list):
    raise ValueError(
      f'{path} holds a JSON {type(value).__name__}; expected are an object or '
      'a list of objects.'
    )
  for index, fields in enumerate(value):
    where = f'{path}, item {index}'
    if isinstance(fields, dict):
      yield where, fields
    else:
      yield where, _parsed(json.dumps(fields).encode(), where)


def _parsed(line: bytes, where: str) -> Fields | BadRowError:
  try:
    return parse(line, where=where)
  except BadRowError as bad_row:
    return bad_row


def _plain(value: Any) -> Any:
  """The value as JSON could hold it."""
  if isinstance(value, bytes):
    return value.decode('utf-8', 'surrogateescape')
  if hasattr(value, 'tolist'):  # NumPy arrays and scalars.
    return _plain(value.tolist())
  if isinstance(value, dict):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if value is None or isinstance(value, str | bool | int | float):
    return value
  return str(value)  # Dates and decimals.


def _version(folder: str) -> tuple[int, ...]:
  parts = os.path.basename(folder).split('.')
  return tuple(int(part) if part.isdigit() else -1 for part in parts)


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return lines[0][:200].rstrip('.') if lines else type(error).__name__
