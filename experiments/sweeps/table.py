"""What the runs of a sweep came to: means over seeds, as table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.sweeps import space
from experiments.sweeps.plan import Row, Run, Sweep, short
from selfimprove.configuration import ConfigError
from selfimprove.evaluation.intervals import SeedMean, mean_and_standard_error
from selfimprove.evaluation.report import text_table

Rows = Mapping[str, Row]
"""Rows of finished runs by the name of the run."""


def results(
  sweep: Sweep, runs: Sequence[Run], rows: Rows
) -> dict[str, list[dict[str, Any]]]:
  """Everything that is known of a sweep, for a file.

  Args:
    sweep: the sweep.
    runs: its runs.
    rows: of those that have finished.

  Returns:
    `{"runs", "points"}`: a row per finished run, and per point without its seed
    the means over the seeds that have finished.
  """
  return {
    'runs': [
      {'name': run.name, 'point': _said(run.point), **rows[run.name]}
      for run in runs
      if run.name in rows
    ],
    'points': [
      {
        'point': _said(point),
        'seeds': [run.point.get(sweep.seed) for run in own if run.name in rows],
        'runs': len(own),
        **_means(sweep, own, rows),
      }
      for point, own in _groups(sweep, runs)
    ],
  }


def table(sweep: Sweep, runs: Sequence[Run], rows: Rows) -> str:
  """A line per point without its seed: mean ± standard error over seeds.

  Args:
    sweep: the sweep.
    runs: its runs.
    rows: of those that have finished.

  Returns:
    The table; fractions in per cent, `-` where there is nothing yet.
  """
  groups = _groups(sweep, runs)
  names = _varied([point for point, _ in groups])
  lines = []
  for point, own in groups:
    means = _means(sweep, own, rows)
    done = sum(run.name in rows for run in own)
    count = str(done) if done == len(own) else f'{done} of {len(own)}'
    lines.append(
      (
        *(_shown(point, name) for name in names),
        *(_cell(means[name], scale=100) for name in sweep.metrics),
        _cell(means['steps'], scale=1),
        _cell(means['seconds'], scale=1),
        count,
      )
    )
  percent = [f'{name} %' for name in sweep.metrics]
  head = [*map(short, names), *percent, 'steps', 'seconds', 'seeds']
  return text_table(head, lines)


def check_metrics(sweep: Sweep, row: Row) -> None:
  """Refuses columns that no run will have.

  Args:
    sweep: the sweep.
    row: of a finished run.

  Raises:
    ConfigError: a metric of the sweep was not measured.
  """
  missing = [name for name in sweep.metrics if name not in row['metrics']]
  if missing:
    raise ConfigError(
      f'The sweep asks for {missing}, and its runs measure '
      f'{list(row["metrics"])}; name those (finished runs stay as they are).'
    )


def _groups(
  sweep: Sweep, runs: Sequence[Run]
) -> list[tuple[dict[str, Any], list[Run]]]:
  """Runs that differ in their seed alone, with what they have in common."""
  found: dict[str, tuple[dict[str, Any], list[Run]]] = {}
  for run in runs:
    point = {k: v for k, v in run.point.items() if k != sweep.seed}
    # As text: a value may be a list, which is no key.
    key = '\n'.join(sorted(space.bindings(point)))
    found.setdefault(key, (point, []))[1].append(run)
  return list(found.values())


def _varied(points: Sequence[Mapping[str, Any]]) -> list[str]:
  """Names whose values differ; if none does, all, so that lines have one."""
  names = list(dict.fromkeys(name for point in points for name in point))
  texts = {name: {_shown(point, name) for point in points} for name in names}
  return [name for name in names if len(texts[name]) > 1] or names


def _means(
  sweep: Sweep, runs: Sequence[Run], rows: Rows
) -> dict[str, SeedMean | None]:
  own = [rows[run.name] for run in runs if run.name in rows]
  values = {
    name: [row['metrics'][name] for row in own] for name in sweep.metrics
  }
  for name in ('steps', 'seconds'):
    values[name] = [row[name] for row in own]
  return {
    # Without one of its values a mean would be of other seeds than the rest.
    name: mean_and_standard_error([float(x) for x in found])
    if found and None not in found
    else None
    for name, found in values.items()
  }


def _said(point: Mapping[str, Any]) -> dict[str, str]:
  return {name: space.literal(value) for name, value in point.items()}


def _shown(point: Mapping[str, Any], name: str) -> str:
  return space.literal(point[name]) if name in point else '-'


def _cell(found: SeedMean | None, *, scale: float) -> str:
  if found is None:
    return '-'
  mean = f'{scale * found.mean:.1f}'
  if found.standard_error is None:
    return mean
  return f'{mean} ± {scale * found.standard_error:.1f}'
