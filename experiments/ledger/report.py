"""The ledger as a file and as tables."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from selfimprove.evaluation.intervals import mean_and_standard_error
from selfimprove.evaluation.report import markdown_table

FIELDS = (
  'algorithm',
  'task',
  'seed',
  'tokens',
  'accuracy',
  'pass_at_8',
  'delta',
  'seconds',
)
"""Of a row of the ledger."""

_PERCENT = ('acc_t1', 'accuracy', 'along', 'pass_at_8', 'pass_at_16', 'delta')
_NAMES = {
  'acc_t1': 'acc@t1 %',
  'accuracy': 'accuracy %',
  'along': 'on the way %',
  'pass_at_8': 'pass@8 %',
  'pass_at_16': 'pass@16 %',
  'delta': 'Δ %',
  'entropy': 'entropy',
  'tokens': 'tokens',
  'seconds': 'seconds',
}

Row = Mapping[str, Any]


def ledger_row(row: Row) -> dict[str, Any]:
  """A row with the fields of the ledger alone.

  Args:
    row: with more fields perhaps.

  Returns:
    Those of `FIELDS`.
  """
  return {name: row[name] for name in FIELDS}


def read(path: str) -> list[Row]:
  """The rows of a file.

  Args:
    path: of a JSON list; there may be no such file.

  Returns:
    Its rows.
  """
  if not os.path.exists(path):
    return []
  with open(path, encoding='utf-8') as file:
    return json.load(file)


def merged(before: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
  """Rows of two sources, the second one's in place of the first one's.

  Args:
    before: for example of other tasks, or of an earlier sweep.
    rows: of algorithms and tasks that replace all of `before` with the same.

  Returns:
    Rows by task, then as they came.
  """
  new = {(row['task'], row['algorithm']) for row in rows}
  kept = [row for row in before if (row['task'], row['algorithm']) not in new]
  return sorted([*kept, *rows], key=lambda row: row['task'])


def tables(rows: Sequence[Row]) -> str:
  """A table per task: mean ± standard error over seeds.

  Args:
    rows: as of `work.arm_row`; fields that are missing or None are left out.

  Returns:
    Markdown.
  """
  tasks = dict.fromkeys(row['task'] for row in rows)
  return '\n\n'.join(
    f'### `{task}`\n\n{_table([row for row in rows if row["task"] == task])}'
    for task in tasks
  )


def _table(rows: Sequence[Row]) -> str:
  kinds = sorted({kind for row in rows for kind in row.get('by_kind') or ()})
  # A few kinds are columns; the classes of a draw are all alike.
  kinds = kinds if len(kinds) == 2 else []
  names = [
    name for name in _NAMES if any(row.get(name) is not None for row in rows)
  ]
  header = ['algorithm', *(_NAMES[name] for name in names)]
  header += [f'{kind} %' for kind in kinds] + ['learning rate', 'seeds']
  return markdown_table(
    header,
    [
      [
        f'`{algorithm}`',
        *(_cell([row.get(name) for row in group], name) for name in names),
        *(
          _cell([row['by_kind'][kind] for row in group], 'accuracy')
          for kind in kinds
        ),
        _rates(group),
        str(len(group)),
      ]
      for algorithm, group in _groups(rows).items()
    ],
  )


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
  groups: dict[str, list[Row]] = {}
  for row in rows:
    groups.setdefault(row['algorithm'], []).append(row)
  return groups


def _rates(group: Sequence[Row]) -> str:
  rates = {row.get('learning_rate') for row in group} - {None}
  return ', '.join(f'{rate:g}' for rate in sorted(rates)) or '-'


def _cell(values: Sequence[float | None], name: str) -> str:
  found = [value for value in values if value is not None]
  if not found:
    return '-'
  scale, digits = (100, 1) if name in _PERCENT else (1, 0)
  digits = 2 if name == 'entropy' else digits
  mean = mean_and_standard_error(found)
  text = f'{scale * mean.mean:,.{digits}f}'
  if mean.standard_error is None or name == 'tokens':
    return text
  return f'{text} ± {scale * mean.standard_error:.{digits}f}'
