"""Experiments over arms and seeds: rows of results, their table, their plot."""

from __future__ import annotations

import collections
import numbers
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfimprove.evaluation.intervals import (
  Measurement,
  SeedMean,
  mean_and_standard_error,
)
from selfimprove.evaluation.report import TableFn, text_table

SUMMARY_METRICS = ('acc_t1', 'acc_t2', 'delta', 'i_to_c', 'c_to_i')
"""The fractions of a row of a summary."""

_SUMMARY_FIELDS = ('arm', 'seed', 'steps', *SUMMARY_METRICS, 'seconds')


def summary_row(
  metrics: Mapping[str, Measurement],
  *,
  arm: str,
  seed: int,
  steps: int,
  seconds: float,
) -> dict[str, Any]:
  """One row of a summary, fractions and not per cent.

  Args:
    metrics: of `attempt_metrics`, for two attempts.
    arm: name of what was run.
    seed: of the run.
    steps: training steps of the run, >= 0.
    seconds: wall-clock time of the run, >= 0.

  Returns:
    `{"arm", "seed", "steps", "acc_t1", "acc_t2", "delta", "i_to_c", "c_to_i",
    "seconds"}`.
  """
  fractions = {name: metrics[name].value for name in SUMMARY_METRICS}
  return {
    'arm': arm,
    'seed': seed,
    'steps': steps,
    **fractions,
    'seconds': seconds,
  }


def summarise(
  rows: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, SeedMean]]:
  """Means over seeds for each arm of an experiment.

  Args:
    rows: as of `summary_row`, one per arm and seed.

  Returns:
    Mean and standard error of `steps`, the five fractions and `seconds`, by
    arm in order of appearance.

  Raises:
    ValueError: a row lacks a field, has a fraction outside [-1, 1], or repeats
      the arm and seed of another.
  """
  arms: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
  seen = set()
  for row in rows:
    _check_row(row)
    if (row['arm'], row['seed']) in seen:
      raise ValueError(
        f'Arm {row["arm"]!r} has seed {row["seed"]} twice; keep one row.'
      )
    seen.add((row['arm'], row['seed']))
    arms[row['arm']].append(row)
  measured = ('steps', *SUMMARY_METRICS, 'seconds')
  return {
    arm: {
      name: mean_and_standard_error([float(row[name]) for row in group])
      for name in measured
    }
    for arm, group in arms.items()
  }


def summary_table(
  rows: Sequence[Mapping[str, Any]], *, layout: TableFn = text_table
) -> str:
  """One row per arm: mean ± standard error over seeds, fractions in per cent.

  Args:
    rows: as for `summarise`.
    layout: `text_table` or `markdown_table`.

  Returns:
    The table.
  """
  percent = [f'{name} %' for name in SUMMARY_METRICS]
  header = ['arm', *percent, 'steps', 'seconds', 'seeds']
  return layout(
    header,
    [
      [
        arm,
        *(_with_error(means[name], scale=100) for name in SUMMARY_METRICS),
        f'{means["steps"].mean:.0f}',
        _with_error(means['seconds'], scale=1),
        str(means['seconds'].count),
      ]
      for arm, means in summarise(rows).items()
    ],
  )


def plot_arms(
  summary: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]
) -> None:
  """Draws the accuracy of both attempts, arm by arm.

  Bars are means over seeds, whiskers one standard error.

  Args:
    summary: rows as for `summarise`.
    path: image to write; its ending (.png, .svg, .pdf) chooses the format.

  Raises:
    ImportError: matplotlib is not installed.
  """
  try:
    from matplotlib import figure
  except ImportError as error:
    raise ImportError(
      'Plots need matplotlib; install it with `pip install selfimprove[plot]`.'
    ) from error
  arms = summarise(summary)
  drawing = figure.Figure(figsize=(2 + 1.3 * len(arms), 4), layout='tight')
  axes = drawing.add_subplot()
  attempts = (('acc_t1', 'attempt 1'), ('acc_t2', 'attempt 2'))
  for index, (metric, label) in enumerate(attempts):
    means = [means[metric] for means in arms.values()]
    axes.bar(
      [position + 0.4 * (index - 0.5) for position in range(len(arms))],
      [100 * item.mean for item in means],
      yerr=[100 * (item.standard_error or 0.0) for item in means],
      width=0.38,
      capsize=3,
      label=label,
    )
  axes.set_xticks(range(len(arms)), list(arms))
  axes.set_ylabel('right on held-out problems, %')
  axes.set_ylim(0, 100)
  axes.legend(
    frameon=False, loc='lower center', bbox_to_anchor=(0.5, 1), ncols=2
  )
  axes.spines[['top', 'right']].set_visible(False)
  Path(path).parent.mkdir(parents=True, exist_ok=True)
  drawing.savefig(path, dpi=150)


def _with_error(found: SeedMean, *, scale: float) -> str:
  mean = f'{scale * found.mean:.1f}'
  if found.standard_error is None:
    return mean
  return f'{mean} ± {scale * found.standard_error:.1f}'


def _check_row(row: Mapping[str, Any]) -> None:
  missing = [name for name in _SUMMARY_FIELDS if name not in row]
  if missing:
    raise ValueError(
      f'A row of the summary lacks {missing}; every row needs '
      f'{list(_SUMMARY_FIELDS)}.'
    )
  for name in SUMMARY_METRICS:
    value = row[name]
    if not isinstance(value, numbers.Real) or not -1 <= float(value) <= 1:
      raise ValueError(
        f'{name} is {value!r} for arm {row["arm"]!r}, seed {row["seed"]}; give '
        'fractions, not per cent.'
      )
