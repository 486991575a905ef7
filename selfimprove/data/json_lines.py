"""Problems from files with one JSON object a line."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from selfimprove.data.rows import BadRowError, OnBadRow
from selfimprove.data.splits import SPLITS, split_of
from selfimprove.data.tensorflow_host import tf

Fields = dict[str, Any]
Check = Callable[[Mapping[str, Any], str], None]


@dataclasses.dataclass(frozen=True)
class Lines:
  """The good rows of a file.

  Attributes:
    path: the file, as the user named it.
    rows: line number (from 1) and JSON object, in file order.
    dropped: how many rows were left out, by field and rule.
  """

  path: str
  rows: tuple[tuple[int, Fields], ...]
  dropped: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Files:
  """One file that is split by the text of its problems, or a file per split.

  Nothing is read before something is asked for, and then once.

  Attributes:
    paths: split -> file; a single one, of `train`, is split by hash.
    check: (fields, where) -> None; raises `BadRowError`.
    on_bad_row: `rows.refuse`, `rows.drop` or a function of the user's.
    held_out: the share of validation, and again of test, of a single file.
  """

  paths: Mapping[str, str]
  check: Check
  on_bad_row: OnBadRow
  held_out: float

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits."""
    return SPLITS if len(self.paths) == 1 else tuple(self.paths)

  @functools.cached_property
  def lines(self) -> Mapping[str, Lines]:
    """Split -> the good rows of its file; the files share no problem."""
    lines = {
      split: read(
        tf.io.gfile.GFile(path, 'rb').read(),
        path=path,
        check=self.check,
        on_bad_row=self.on_bad_row,
      )
      for split, path in self.paths.items()
    }
    check_disjoint(lines, field='prompt')
    return lines

  def rows(self, split: str) -> list[Fields]:
    """The rows of a split, in file order.

    Args:
      split: one of `splits`.

    Returns:
      JSON objects.
    """
    if len(self.paths) > 1:
      return [fields for _, fields in self.lines[split].rows]
    return [
      fields
      for _, fields in self.lines['train'].rows
      if split_of(fields['prompt'], held_out=self.held_out) == split
    ]

  def dropped(self, split: str) -> Mapping[str, int]:
    """What was left out of the file that a split is read from.

    Args:
      split: one of `splits`.

    Returns:
      Field and rule -> number of rows.
    """
    only = len(self.paths) == 1
    return self.lines['train' if only else split].dropped


def read(
  content: bytes, *, path: str, check: Check, on_bad_row: OnBadRow
) -> Lines:
  """The rows of a file; lines of nothing but white space are no rows.

  Args:
    content: of the file.
    path: its name, for messages.
    check: (fields, where) -> None; raises `BadRowError`.
    on_bad_row: `rows.refuse`, `rows.drop` or a function of the user's.

  Returns:
    Good rows and counts of bad ones.

  Raises:
    BadRowError: a row is bad and `on_bad_row` does not accept that.
    ValueError: no row is left.
  """
  kept: list[tuple[int, Fields]] = []
  dropped: collections.Counter[str] = collections.Counter()
  for number, line in enumerate(content.split(b'\n'), start=1):
    if not line.strip():
      continue
    where = f'{path}, line {number}'
    try:
      fields = parse(line, where=where)
      check(fields, where)
    except BadRowError as bad_row:
      on_bad_row(bad_row)
      dropped[bad_row.key] += 1
    else:
      kept.append((number, fields))
  if not kept:
    raise ValueError(
      f'{path} has no usable row (dropped: {dict(dropped)}); write one JSON '
      "object with 'prompt' and 'answer' a line."
    )
  return Lines(path=path, rows=tuple(kept), dropped=dict(dropped))


def parse(line: bytes, *, where: str) -> Fields:
  """The JSON object of one line.

  Args:
    line: without its end.
    where: file and line, for messages.

  Returns:
    The object, as it stands.

  Raises:
    BadRowError: the line is not UTF-8, not JSON, or not an object.
  """
  try:
    value = json.loads(line.decode('utf-8-sig'))
  except UnicodeDecodeError as error:
    raise BadRowError(
      where=where,
      field=None,
      rule='not UTF-8',
      detail=f'is not UTF-8 text ({error.reason}); save the file as UTF-8',
    ) from error
  except (ValueError, RecursionError) as error:
    # Besides what is no JSON: endless integers, and brackets without end.
    why = type(error).__name__
    if isinstance(error, json.JSONDecodeError):
      why = f'{error.msg}, column {error.colno}'
    raise BadRowError(
      where=where,
      field=None,
      rule='not JSON',
      detail=f'is not JSON ({why}); write one JSON object a line',
    ) from error
  if not isinstance(value, dict):
    raise BadRowError(
      where=where,
      field=None,
      rule='not an object',
      detail=(
        f'is a JSON {type(value).__name__}, not an object; write '
        '{"prompt": ..., "answer": ...}'
      ),
    )
  return value


def check_disjoint(files: Mapping[str, Lines], *, field: str) -> None:
  """Refuses files that share a problem.

  Args:
    files: split -> its rows.
    field: the one that makes two rows the same problem.

  Raises:
    ValueError: two splits share a problem; names both lines.
  """
  seen: dict[str, tuple[str, str]] = {}
  for split, lines in files.items():
    for number, fields in lines.rows:
      where = f'{lines.path}, line {number} ({split})'
      other, first = seen.setdefault(fields[field], (split, where))
      if other != split:
        raise ValueError(
          f'{where} repeats the {field} of {first}, so the splits share a '
          'problem and a score would not mean much; remove one of the two '
          'lines.'
        )
