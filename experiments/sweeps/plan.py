"""A sweep as data, its runs, and what is remembered of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from typing import Any

from experiments.sweeps import space
from experiments.sweeps.space import Point, Space
from selfimprove.configuration import ConfigError

ROW_FILE = 'row.json'
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
  """One run under many bindings.

  Attributes:
    files: gin files of the run.
    points: what differs from run to run.
    bindings: gin lines of all runs.
    metrics: columns of the table, fractions that `selfimprove.evaluate` shows.
    split: on which the end of a run is measured.
    samples: of a problem for pass@k; 1 for none.
    temperature: of those samples, above 0.
    seed: the name whose values are averaged over.
  """

  files: tuple[str, ...]
  points: Space
  bindings: tuple[str, ...] = ()
  metrics: tuple[str, ...] = ('acc_t1',)
  split: str = 'test'
  samples: int = 1
  temperature: float = 1.0
  seed: str = 'SEED'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """One point of a sweep.

  Attributes:
    name: of its folder; the same for the same run, today and tomorrow.
    point: what makes it differ from the others.
    flags: of `experiments.sweeps.work`, without those that say where.
  """

  name: str
  point: Point = dataclasses.field(hash=False)
  flags: tuple[str, ...]

  def flags_in(self, workdir: str) -> list[str]:
    """All flags of `experiments.sweeps.work`.

    Args:
      workdir: of the sweep.

    Returns:
      Flags.
    """
    return [
      *self.flags,
      f'--workdir={folder(workdir, self)}',
      f'--compiled={os.path.join(workdir, "compiled")}',
    ]


def runs(sweep: Sweep) -> list[Run]:
  """The runs of a sweep, in the order of its points.

  Args:
    sweep: the sweep.

  Returns:
    A run per point.

  Raises:
    ConfigError: there are none, two are the same, or what holds for all runs
      also binds what differs.
  """
  if not sweep.points:
    raise ConfigError('The sweep has no points; give at least one.')
  varied = {name for point in sweep.points for name in point}
  for line in sweep.bindings:
    if (name := line.partition('=')[0].strip()) in varied:
      raise ConfigError(
        f'Binding `{line}` is for all runs, and the sweep gives {name} a value '
        'in each; take it from one of the two.'
      )
  found = [_run(sweep, point) for point in sweep.points]
  names = [run.name for run in found]
  for run in found:
    if names.count(run.name) > 1:
      raise ConfigError(
        f'The sweep has the run {run.name} {names.count(run.name)} times; keep '
        'one of them.'
      )
  return found


def _run(sweep: Sweep, point: Point) -> Run:
  lines = (*sweep.bindings, *space.bindings(point))
  flags = (
    *(f'--gin_file={file}' for file in sweep.files),
    *(f'--gin_bindings={line}' for line in lines),
    f'--split={sweep.split}',
    f'--samples={sweep.samples}',
    f'--temperature={sweep.temperature}',
  )
  digest = hashlib.sha256(json.dumps(flags).encode()).hexdigest()[:8]
  readable = '-'.join(
    f'{short(name).lower()}_{_plain(space.literal(value))}'
    for name, value in point.items()
  )
  # Names of files have an end, and nested folders none of theirs.
  return Run(name=f'{readable[:80]}-{digest}', point=point, flags=flags)


def short(name: str) -> str:
  """What a person calls a binding.

  Args:
    name: as gin has it.

  Returns:
    Scope and parameter.

  >>> short('stage_one/stages.Stage.steps'), short('ALPHA')
  ('stage_one.steps', 'ALPHA')
  """
  scope, _, rest = name.rpartition('/')
  return '.'.join(filter(None, [scope, rest.rpartition('.')[2]]))


def _plain(text: str) -> str:
  return re.sub(r'[^\w.+-]+', '_', text).strip('_')


def folder(workdir: str, run: Run) -> str:
  """Where a run has its checkpoints, its log and its row.

  Args:
    workdir: of the sweep.
    run: one of its runs.

  Returns:
    The folder.
  """
  return os.path.join(workdir, run.name)


def row(workdir: str, run: Run) -> Row | None:
  """What is remembered of a run that has come to its end.

  Args:
    workdir: of the sweep.
    run: one of its runs.

  Returns:
    `{"steps", "seconds", "metrics"}`, or None before the end.
  """
  path = os.path.join(folder(workdir, run), ROW_FILE)
  if not os.path.exists(path):
    return None
  with open(path, encoding='utf-8') as file:
    return json.load(file)
