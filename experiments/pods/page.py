"""What was found, as tables of a page and a plot.

    python -m experiments.pods.page

renews `docs/scale.md` from `results/fit.json`.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments import pages
from experiments.pods import cases
from selfimprove.scale import report

FOLDER = pathlib.Path(__file__).parent
RESULTS = FOLDER / 'results' / 'fit.json'
PLOT = FOLDER / 'results' / 'scaling.png'
PAGE = FOLDER.parents[1] / 'docs' / 'scale.md'

Row = dict[str, Any]


def tables(rows: Sequence[Row]) -> str:
  """The tables of the page.

  Args:
    rows: of `results/fit.json`.

  Returns:
    Markdown: programs with estimates of time, those that were compiled at the
    lowest effort, which have none, and the scaling.
  """
  of_scaling = _of_scaling(rows)
  others = [row for row in rows if row not in of_scaling]
  timed = [row for row in others if not row['effort']]
  fast = [row for row in others if row['effort'] and ':' not in row['program']]
  return '\n'.join(
    [
      '### Programs and their parts\n',
      report.table(timed),
      '\n### Programs compiled at the lowest effort\n',
      _memory(fast),
      '\n### GRPO with the batch growing with the chips\n',
      report.table(of_scaling),
    ]
  )


def _of_scaling(rows: Sequence[Row]) -> list[Row]:
  keys = {case.key for case in cases.scaling()}
  return [row for row in rows if row['key'].partition(' | ')[0] in keys]


def _memory(rows: Sequence[Row]) -> str:
  """Memory alone: estimates of time are too long at this effort."""
  lines = [
    '| config | topology | mesh | program | GiB / chip | of | fits |',
    '|---|---|---|---|---|---|---|',
  ]
  for row in rows:
    lines.append(
      f'| {row["config"]} | {row["topology"]} | {row["mesh"]} '
      f'| {row["program"]} | {row["hbm_gib_per_chip"]:.3g} '
      f'| {row["hbm_gib_of_chip"]:g} | {"yes" if row["fits"] else "**no**"} |'
    )
  return '\n'.join(lines)


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Draws the time of a step over the chips.

  Args:
    rows: of `results/fit.json`.
    path: of the picture.
  """
  from matplotlib import figure

  drawing = figure.Figure(figsize=(5, 3.2), layout='tight')
  axes = drawing.subplots()
  programs: dict[str, list[tuple[int, float]]] = {}
  for row in _of_scaling(rows):
    if ':' not in row['program']:
      chips = 1
      for size in row['topology'].partition(':')[2].split('x'):
        chips *= int(size)
      found = programs.setdefault(row['program'], [])
      found.append((chips, row['seconds_estimate']))
  for name, points in sorted(programs.items()):
    chips, seconds = zip(*sorted(points), strict=True)
    axes.plot(chips, seconds, marker='o', label=name)
  axes.set_xscale('log', base=4)
  axes.set_ylim(bottom=0)
  axes.set_xlabel('chips (v5e), batch in proportion')
  axes.set_ylabel('estimated seconds')
  axes.legend()
  drawing.savefig(path, dpi=120)


if __name__ == '__main__':
  found = json.loads(RESULTS.read_text())
  pages.renew(PAGE, tables(found))
  plot(found, PLOT)
