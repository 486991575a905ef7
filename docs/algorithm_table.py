"""Writes the table in docs/algorithms.md from the gin files: `make docs`."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping
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
BASE = ('gin_configs/base.gin', 'gin_configs/models/tiny.gin')
# What an algorithm may ask for besides model and task; given if it does.
ASKED = {
  'STEPS': 'STEPS = 2',
  'INSTRUCTION': "INSTRUCTION = '?'",
  'HINT_OPENING': "HINT_OPENING = '?'",
  'HINT_CLOSING': "HINT_CLOSING = '='",
}
# Of no problem anything is said here: few are drawn, and what learns from
# judgements gets a file that is not read.
_FEW = {
  'gin_configs/tasks/answer_first.gin': 'tasks.answer_first.problems = 512'
}
_FILE = {'TRAIN_FILE': f"TRAIN_FILE = '{PAGE}'"}


def algorithm_files() -> list[str]:
  """The algorithms that come with the project, by their paths from the root."""
  found = sorted((ROOT / 'gin_configs' / 'algorithms').glob('*.gin'))
  return [str(path.relative_to(ROOT)) for path in found]


def task_of(file: str) -> str:
  """The task that the header of an algorithm asks for, or the default one."""
  text = (ROOT / file).read_text(encoding='utf-8')
  found = re.search(r'\((tasks/\w+\.gin)\)', text)
  return f'gin_configs/{found[1] if found else "tasks/answer_first.gin"}'


def build(file: str, *bindings: str, asked: Mapping[str, str]) -> Experiment:
  """The experiment of an algorithm file on its task and the default model.

  Args:
    file: path from the root.
    bindings: gin lines that are given in any case.
    asked: gin lines by what asks for them, given if that is missing.

  Returns:
    The experiment.

  Raises:
    ConfigError: something else is missing or wrong.
  """
  given, left = [*bindings], dict(asked)
  while True:
    try:
      return configuration.build(
        Experiment, files=[*BASE, task_of(file), file], bindings=given
      )
    except configuration.ConfigError as error:
      name = next((n for n in left if n in str(error)), None)
      if name is None:
        raise
      given.append(left.pop(name))


def table() -> str:
  """The rows of all algorithms, under a header."""
  return HEADER + ''.join(map(_row, algorithm_files()))


def _row(file: str) -> str:
  few = [line for task, line in _FEW.items() if task == task_of(file)]
  stage = build(file, *few, asked=ASKED | _FILE).stages[0]
  cells = [f'`{pathlib.Path(file).stem}`', *_cells(stage), _source(file)]
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
  whose = ' of the reference' if algorithm.samples_of == 'reference' else ''
  return [
    _name(algorithm.rollout) + whose,
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


def _source(file: str) -> str:
  """What the header of a file says that it is from."""
  text = (ROOT / file).read_text(encoding='utf-8')
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
