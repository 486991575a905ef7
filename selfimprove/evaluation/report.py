"""Tables and files of what was measured."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfimprove.evaluation.intervals import Measurement, SeedMean

TableFn = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
"""Lays out a header and rows of cells as text."""


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table in columns of fixed width: names left, the rest right.

  Args:
    header: names of the columns.
    rows: cells, as many per row as there are columns.

  Returns:
    The lines, without a final line break.

  >>> print(text_table(['arm', 'acc'], [['base', '40.0'], ['score', '9.5']]))
  arm     acc
  -----  ----
  base   40.0
  score   9.5
  """
  widths = [max(map(len, column)) for column in zip(header, *rows)]
  lines = [header, ['-' * width for width in widths], *rows]
  return '\n'.join(
    '  '.join(
      cell.rjust(width) if index else cell.ljust(width)
      for index, (cell, width) in enumerate(zip(line, widths))
    ).rstrip()
    for line in lines
  )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table in Markdown: names left, the rest right.

  Args:
    header: names of the columns.
    rows: cells, as many per row as there are columns.

  Returns:
    The lines, without a final line break.

  >>> print(markdown_table(['arm', 'acc'], [['base', '40.0']]))
  | arm | acc |
  |:---|---:|
  | base | 40.0 |
  """
  rule = '|' + '|'.join(['---:' if i else ':---' for i in range(len(header))])
  lines = ['| ' + ' | '.join(line) + ' |' for line in (header, *rows)]
  return '\n'.join([lines[0], f'{rule}|', *lines[1:]])


def metrics_table(
  results: Mapping[str, Mapping[str, Measurement]],
  *,
  layout: TableFn = text_table,
) -> str:
  """One row of measurements per name, in per cent with 95 % intervals.

  Args:
    results: measurements by metric, by the name of what was evaluated. The
      columns are all metrics that occur; a missing one, and one without a
      value, is `-`.
    layout: `text_table` or `markdown_table`.

  Returns:
    The table.
  """
  columns = list(
    dict.fromkeys(name for row in results.values() for name in row)
  )
  rows = [
    [label, *(_with_interval(row.get(name)) for name in columns)]
    for label, row in results.items()
  ]
  return layout(['%', *columns], rows)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes JSON so that the file is never seen half-written.

  The text goes to a temporary file in the same folder, which then takes the
  name. Folders are made where they are missing.

  Args:
    path: file to write.
    value: numbers, texts, lists, mappings, measurements, NumPy arrays.

  Raises:
    ValueError: a number is not finite, which JSON cannot say.
    TypeError: a value of another kind.
  """
  path = Path(path)
  try:
    text = json.dumps(value, default=_plain, allow_nan=False, indent=2)
  except ValueError as error:
    raise ValueError(
      f'{path} would contain a number that is not finite; write None instead.'
    ) from error
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.partial')
  try:
    with temporary.open('w', encoding='utf-8') as file:
      file.write(text + '\n')
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def _with_interval(found: Measurement | None) -> str:
  if found is None or found.value is None:
    return '-'
  value, low, high = (
    f'{100 * end:.1f}'
    for end in (found.value, found.low, found.high)
    if end is not None
  )
  return f'{value} [{low}, {high}]'


def _plain(value: Any) -> Any:
  if isinstance(value, Measurement | SeedMean):
    return dataclasses.asdict(value)
  if hasattr(value, 'tolist'):  # NumPy and JAX arrays and scalars.
    return value.tolist()
  raise TypeError(f'{value!r:.100} cannot be written as JSON; convert it.')
