"""Means over seeds of what the experiment has found: rows, table, plot."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from selfimprove.evaluation.intervals import mean_and_standard_error
from selfimprove.evaluation.report import text_table

SCORES = ('true', 'proxy', 'length')


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Results of seeds, and their means with standard errors.

  Args:
    results: as `run.seed_results` returns them, at least one.

  Returns:
    JSON: `models`, `curves`, and `seeds` as they are.
  """
  models = ('outcome_model', 'process_model')
  return {
    'models': {
      name: _mean([one[name]['accuracy'] for one in results]) for name in models
    },
    'curves': {arm: _curve(results, arm) for arm in results[0]['curves']},
    'seeds': list(results),
  }


def _curve(
  results: Sequence[Mapping[str, Any]], arm: str
) -> list[dict[str, Any]]:
  """Means over seeds, step by step."""
  curves = [one['curves'][arm] for one in results]
  return [
    {
      'step': rows[0]['step'],
      **{name: _mean([row[name] for row in rows]) for name in SCORES},
    }
    for rows in zip(*curves, strict=True)
  ]


def _mean(values: Sequence[float]) -> dict[str, float | None]:
  found = mean_and_standard_error(values)
  return {'mean': found.mean, 'standard_error': found.standard_error}


def table(found: Mapping[str, Any]) -> str:
  """The reward models, and the arms at their begin, best and end.

  Args:
    found: as `summary` returns it.

  Returns:
    Text for the terminal.
  """
  rows = [
    [name, 'held-out accuracy', _shown(accuracy)]
    for name, accuracy in found['models'].items()
  ]
  for arm, curve in found['curves'].items():
    best = max(curve, key=lambda row: row['true']['mean'])
    for what, row in (
      ('first', curve[0]),
      ('best', best),
      ('last', curve[-1]),
    ):
      told = f'true score, {what} (step {row["step"]})'
      rows.append([arm, told, _shown(row['true'])])
      rows.append([arm, f'learned score, {what}', _shown(row['proxy'])])
  return text_table(['', 'what', 'mean ± s.e.'], rows)


def _shown(found: Mapping[str, Any]) -> str:
  error = found['standard_error']
  spread = '' if error is None else f' ± {error:.3f}'
  return f'{found["mean"]:.3f}{spread}'


def plot(found: Mapping[str, Any], path: str) -> None:
  """Draws true and learned score against the step, an arm a panel.

  Args:
    found: as `summary` returns it.
    path: image to write.

  Raises:
    ImportError: matplotlib is not installed.
  """
  try:
    from matplotlib import figure
  except ImportError as error:
    raise ImportError(
      'Plots need matplotlib; install it with `pip install selfimprove[plot]`, '
      'or give --noplot.'
    ) from error
  curves = found['curves']
  drawing = figure.Figure(figsize=(4 * len(curves), 3.2), layout='tight')
  panels = drawing.subplots(1, len(curves), squeeze=False)[0]
  for axes, (arm, curve) in zip(panels, curves.items()):
    steps = [row['step'] for row in curve]
    both = zip((axes, axes.twinx()), ('true', 'proxy'), ('C0', 'C1'))
    for side, name, colour in itertools.islice(both, 2):
      means = [row[name]['mean'] for row in curve]
      errors = [row[name]['standard_error'] or 0.0 for row in curve]
      side.plot(steps, means, color=colour)
      side.fill_between(
        steps,
        [m - e for m, e in zip(means, errors)],
        [m + e for m, e in zip(means, errors)],
        color=colour,
        alpha=0.25,
      )
      side.set_ylabel(f'{name} score', color=colour)
    axes.set_title(arm)
    axes.set_xlabel('step')
  drawing.savefig(path, dpi=120)
