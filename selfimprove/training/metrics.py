"""Numbers of a run on disk: JSON lines for programs, TensorBoard for people.

`metrics.jsonl` holds only what a repeated run would repeat, each float written
so that reading it gives the same bits, so that two runs can be compared with
`cmp`. What a clock said is in `timing.jsonl`. A row of a step must be written
before the checkpoint of that step: a resumed run drops the rows after its
checkpoint and writes them again.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import IO, Any

import jax
from tensorboardX import SummaryWriter

from selfimprove.types import Estimate

METRICS_FILE = 'metrics.jsonl'
TIMING_FILE = 'timing.jsonl'

# JSON has no word for these; `read_rows` turns them back.
_NONFINITE = {'NaN': math.nan, 'Infinity': math.inf, '-Infinity': -math.inf}


def to_scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
  """Metrics as Python floats, fetched from the device together.

  Args:
    metrics: name -> scalar array, number or `Estimate` (its mean is taken).

  Returns:
    Name -> float, exactly the value of the array.
  """
  means = {
    name: value.mean() if isinstance(value, Estimate) else value
    for name, value in metrics.items()
  }
  return {name: float(value) for name, value in jax.device_get(means).items()}


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The rows of a JSONL file; a line cut short by a kill is left out.

  Args:
    path: file that `MetricsWriter` wrote.

  Returns:
    One dictionary per row, with `step` and the metrics.

  Raises:
    ValueError: a whole line is not a row.
  """
  return [row for row, _ in _rows_and_lines(pathlib.Path(path))]


class MetricsWriter:
  """Writes the metrics of a run; only the first process writes."""

  def __init__(self, workdir: str | os.PathLike[str]) -> None:
    """Opens the files of a run to append to them.

    Args:
      workdir: directory of the run; made where missing.
    """
    self._workdir = pathlib.Path(workdir)
    self._writes = jax.process_index() == 0
    self._files: dict[str, IO[str]] = {}
    self._board: SummaryWriter | None = None
    self._purge_step: int | None = None

  def resume(self, step: int) -> None:
    """Drops all rows after a step, and a line that a kill cut short.

    Args:
      step: of the checkpoint that the run goes on from; -1 drops all rows.

    Raises:
      ValueError: a whole line is not a row.
    """
    self.close()
    self._purge_step = step + 1
    for name in (METRICS_FILE, TIMING_FILE):
      path = self._workdir / name
      if self._writes and path.exists():
        kept = [
          line for row, line in _rows_and_lines(path) if row['step'] <= step
        ]
        _replace(path, ''.join(kept))

  def write(
    self,
    step: int,
    metrics: Mapping[str, Any],
    *,
    labels: Mapping[str, str] | None = None,
  ) -> None:
    """Appends one row of quantities that a repeated run would repeat.

    Args:
      step: updates done.
      metrics: name -> scalar array, number or `Estimate`.
      labels: words to put into the row, as the name of the stage.
    """
    self._append(METRICS_FILE, step, to_scalars(metrics), labels or {})

  def write_timing(self, step: int, timing: Mapping[str, Any]) -> None:
    """Appends one row of what a clock said.

    Args:
      step: updates done.
      timing: name -> number.
    """
    self._append(TIMING_FILE, step, to_scalars(timing), {})

  def close(self) -> None:
    """Closes the files; a later write opens them again."""
    for file in self._files.values():
      file.close()
    self._files = {}
    if self._board is not None:
      self._board.close()
      self._board = None

  def _append(
    self,
    name: str,
    step: int,
    scalars: dict[str, float],
    labels: Mapping[str, str],
  ) -> None:
    if not self._writes:
      return
    row = {'step': int(step), **labels}
    row |= {key: _legal(scalars[key]) for key in sorted(scalars)}
    file, board = self._open(name)
    # One write: a kill cuts at most the last line.
    file.write(json.dumps(row, allow_nan=False) + '\n')
    file.flush()
    for key, value in scalars.items():
      board.add_scalar(key, value, int(step))

  def _open(self, name: str) -> tuple[IO[str], SummaryWriter]:
    if name not in self._files:
      self._workdir.mkdir(parents=True, exist_ok=True)
      path = self._workdir / name
      self._files[name] = path.open('a', encoding='utf-8', newline='\n')
    if self._board is None:
      self._board = SummaryWriter(
        str(self._workdir / 'tensorboard'), purge_step=self._purge_step
      )
    return self._files[name], self._board


def _legal(value: float) -> float | str:
  """The value itself, or its name where JSON has no number for it."""
  if math.isfinite(value):
    return value
  return 'NaN' if math.isnan(value) else f'{"-" * (value < 0)}Infinity'


def _rows_and_lines(path: pathlib.Path) -> list[tuple[dict[str, Any], str]]:
  """Each whole line of a file with what it says."""
  lines = path.read_text(encoding='utf-8').splitlines(keepends=True)
  if lines and not lines[-1].endswith('\n'):
    lines.pop()
  return [
    (_parsed(line, f'{path}:{number}'), line)
    for number, line in enumerate(lines, start=1)
  ]


def _parsed(line: str, where: str) -> dict[str, Any]:
  try:
    row = json.loads(line)
    row['step'] = int(row['step'])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{where} is not a row with a `step`: {line.strip()[:60]!r}; repair the '
      'line, or start in another directory.'
    ) from error
  return {key: _NONFINITE.get(str(value), value) for key, value in row.items()}


def _replace(path: pathlib.Path, text: str) -> None:
  """Puts `text` in the place of a file's contents, all or nothing."""
  draft = path.with_name(path.name + '.tmp')
  with draft.open('w', encoding='utf-8', newline='\n') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  draft.replace(path)
