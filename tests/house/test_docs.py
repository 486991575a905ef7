"""What the documents say of the code is what the code says of itself."""

from __future__ import annotations

import pathlib
import re

import pytest

from selfimprove import configuration
from selfimprove.experiment import Experiment

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / 'gin_configs' / 'algorithms').glob('*.gin'))


def described() -> dict[str, list[str]]:
  """Cells of the table in docs/algorithms.md by name of the gin file."""
  text = (ROOT / 'docs' / 'algorithms.md').read_text(encoding='utf-8')
  rows = {}
  for line in text.splitlines():
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    if len(cells) == 6 and re.fullmatch(r'`\w+`', cells[0]):
      rows[cells[0].strip('`')] = cells[1:]
  return rows


def bindings_for(file: pathlib.Path) -> list[str]:
  """What the header of an algorithm says must be set elsewhere."""
  text = file.read_text(encoding='utf-8')
  parents = re.findall(r"include '(.*?)'", text)
  text += ''.join((ROOT / parent).read_text() for parent in parents)
  stages = [] if 'STAGE_ONE_STEPS' in text else ['STEPS = 1']
  return stages + (["INSTRUCTION = '?'"] if '%INSTRUCTION' in text else [])


@pytest.mark.parametrize('file', FILES, ids=lambda f: f.stem)
def test_the_table_of_algorithms_is_that_of_the_gin_files(file):
  experiment = configuration.build(
    Experiment,
    files=[
      'gin_configs/base.gin',
      'gin_configs/models/tiny.gin',
      'gin_configs/tasks/answer_first.gin',
      str(file),
    ],
    bindings=bindings_for(file),
  )
  algorithm = experiment.stages[0].algorithm
  baseline = getattr(algorithm.credit, 'baseline', None)
  credit = type(algorithm.credit).__name__
  if baseline is not None:
    credit += f'({type(baseline).__name__})'
  terms = '; '.join(
    f'`{name}`: `{type(term.fn).__name__}`'
    for name, term in algorithm.terms.items()
  )
  assert described()[file.stem][:4] == [
    f'`{type(algorithm.rollout).__name__}`',
    f'`{type(algorithm.combine).__name__}`',
    f'`{credit}`',
    terms,
  ]


def test_the_table_has_no_algorithm_without_a_file():
  assert sorted(described()) == [file.stem for file in FILES]


def test_every_metric_that_is_logged_is_explained():
  text = (ROOT / 'docs' / 'metrics.md').read_text(encoding='utf-8')
  source = '\n'.join(
    path.read_text(encoding='utf-8')
    for path in (ROOT / 'selfimprove').rglob('*.py')
  )
  logged = re.findall(
    r"metrics\[f?'([a-z]+/[a-z_]+)|'((?:policy|grad|eval)/[a-z_]+)':", source
  )
  names = {one or other for one, other in logged}
  assert len(names) > 8
  # `rollout/length_t` is written `rollout/length_t<n>` in the document.
  assert [name for name in sorted(names) if name not in text] == []
