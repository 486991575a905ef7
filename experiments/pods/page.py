"""What was found, as tables of a page and a plot.

    python -m experiments.pods.page

renews `docs/scale.md` from `results/fit.json`.
"""

from __future__ import annotations

import json
import math
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
    Markdown: the programs of the papers' runs with the parts that take most of
    their time, and the scaling.
  """
  shown = [row for row in rows if _is_shown(row['program'])]
  of_scaling = _of_scaling(shown)
  others = [row for row in shown if row not in of_scaling]
  return '\n'.join(
    [
      '### Runs of the papers\n',
      report.table(others),
      '\n### GRPO with the batch growing with the chips\n',
      report.table(of_scaling),
    ]
  )


def _is_shown(program: str) -> bool:
  """Whether it is a whole program, an update or the drawing of tokens."""
  part = program.partition(':')[2]
  return part in ('', 'update') or part.startswith('decode_')


def _of_scaling(rows: Sequence[Row]) -> list[Row]:
  keys = {case.key for case in cases.scaling()}
  return [row for row in rows if row['key'].partition(' | ')[0] in keys]


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Draws the time of a step over the chips.

  Args:
    rows: of `results/fit.json`.
    path: of the picture.
  """
  from matplotlib import figure

  drawing = figure.Figure(figsize=(5, 3.2), layout='tight')
  axes = drawing.subplots()
  programs: dict[str, dict[int, float]] = {}
  for row in _of_scaling(rows):
    if ':' not in row['program']:
      shape = row['topology'].partition(':')[2].split('x')
      chips = math.prod(int(size) for size in shape)
      for name in ('step', row['program']):
        found = programs.setdefault(name, {})
        found[chips] = found.get(chips, 0.0) + row['seconds_estimate']
  for name, points in sorted(programs.items()):
    chips_of, seconds = zip(*sorted(points.items()), strict=True)
    axes.plot(chips_of, seconds, marker='o', label=name)
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
