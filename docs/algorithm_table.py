"""Writes the table in docs/algorithms.md from the gin files: `make docs`."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any

from selfimprove import configuration
from selfimprove.experiment import Experiment
from selfimprove.training.stages import Stage

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'algorithms.md'
BEGIN, END = '<!-- table: begin -->\n', '<!-- table: end -->\n'
HEADER = (
  '| file | rollout | rewards | samples kept | credit | terms | source |\n'
  '|---|---|---|---|---|---|---|\n'
)
# What an algorithm may ask for besides model and task.
ASKED = {
  'STEPS': 'STEPS = 1',
  'INSTRUCTION': "INSTRUCTION = '?'",
  'HINT_OPENING': "HINT_OPENING = '?'",
  'HINT_CLOSING': "HINT_CLOSING = '='",
}


def algorithm_files() -> list[pathlib.Path]:
  """The algorithms that come with the project, by name."""
  return sorted((ROOT / 'gin_configs' / 'algorithms').glob('*.gin'))


def build(file: pathlib.Path) -> Experiment:
  """The experiment of an algorithm file on its task and the default model."""
  text, parents = '', [file]
  while parents:
    text += parents[0].read_text(encoding='utf-8')
    parents = [ROOT / name for name in re.findall(r"include '(.*?)'", text)]
    parents = [path for path in parents if path.read_text() not in text]
  asked = [
    line for name, line in ASKED.items() if re.search(rf'%{name}\b', text)
  ]
  if 'STAGE_ONE_STEPS' not in text:
    asked.append(ASKED['STEPS'])
  # What learns from judgements names its task; nothing of it is read here.
  task = re.search(r'\((tasks/\w+\.gin)\)', text)
  if task is not None:
    asked.append(f"TRAIN_FILE = '{PAGE}'")
  return configuration.build(
    Experiment,
    files=[
      'gin_configs/base.gin',
      'gin_configs/models/tiny.gin',
      f'gin_configs/{task[1] if task else "tasks/answer_first.gin"}',
      str(file),
    ],
    bindings=asked,
  )


def table() -> str:
  """The rows of all algorithms, under a header."""
  return HEADER + ''.join(map(_row, algorithm_files()))


def _row(file: pathlib.Path) -> str:
  stage = build(file).stages[0]
  cells = [f'`{file.stem}`', *_cells(stage), _source(file)]
  return f'| {" | ".join(cells)} |\n'


def _cells(stage: Stage) -> list[str]:
  algorithm = stage.algorithm
  rewards = [_name(algorithm.combine)]
  rewards += [f'{k}: {_name(v)}' for k, v in algorithm.derived.items()]
  kept = [_name(algorithm.label)]
  if algorithm.collect is not None:
    retry = algorithm.collect.retry
    kept.append('batch refilled')
    if retry is not None:
      kept.append(f'failed groups: {_name(retry.rollout)}')
  terms = [f'{k}: {_name(t.fn)}' for k, t in algorithm.terms.items()]
  return [
    _name(algorithm.rollout),
    '; '.join(rewards),
    '; '.join(kept),
    _name(algorithm.credit),
    '; '.join(terms),
  ]


def _name(filler: Any) -> str:
  """The type of what fills a slot, and of what fills its own slots."""
  inner = [
    getattr(filler, field.name)
    for field in dataclasses.fields(filler)
    if field.name not in ('sampling', 'ratio', 'behaviour')
  ]
  names = [_name(x)[1:-1] for x in inner if dataclasses.is_dataclass(x)]
  arguments = f'({", ".join(names)})' if names else ''
  return f'`{type(filler).__name__}{arguments}`'


def _source(file: pathlib.Path) -> str:
  """What the header of a file says that it is from."""
  text = file.read_text(encoding='utf-8')
  found = re.search(r'# Source:(.*?)\n# Differs:', text, re.DOTALL)
  if found is None:
    raise ValueError(f'{file} has no `Source:` in its header; name it.')
  return re.sub(r'\s*\n#\s*', ' ', found[1]).strip().rstrip('.')


def main() -> None:
  """Writes the table between its marks."""
  page = PAGE.read_text(encoding='utf-8')
  before, rest = page.split(BEGIN)
  after = rest.split(END)[1]
  PAGE.write_text(before + BEGIN + table() + END + after, encoding='utf-8')


if __name__ == '__main__':
  main()
