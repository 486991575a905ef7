"""One run of the ledger: trained, measured, and remembered as a file."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments import runs
from experiments.ledger import measure
from experiments.ledger.arms import HERE, Arm, Task
from selfimprove import configuration
from selfimprove.evaluation.report import write_json
from selfimprove.experiment import Experiment
from selfimprove.trained import Trained, open_workdir
from selfimprove.training.metrics import METRICS_FILE, TIMING_FILE, read_rows

Row = dict[str, Any]
BASE = 'base'


def base_row(workdir: str, task: Task, *, seed: int) -> Row:
  """The base model of a task and seed, made at the first call.

  Args:
    workdir: of the ledger.
    task: what it learns from.
    seed: of the model, and of what is hidden in the task.

  Returns:
    Its row.
  """
  folder = _folder(workdir, task, seed, BASE)

  def run() -> Row:
    step = _train(
      [f'{HERE}/base_model.gin', task.file],
      folder,
      base_bindings(task, seed=seed),
    )
    trained = open_workdir(
      folder, bindings=[f'TASK/toys.{task.name}.rows = @toys.asked']
    )
    spent = {'tokens': 0, 'steps': step, 'along': None}
    return _row(folder, trained, spent, task=task, name=BASE, seed=seed)

  return _remembered(folder, run)


def arm_row(
  workdir: str, task: Task, arm: Arm, *, seed: int, rate: float
) -> Row:
  """A run of an arm, made at the first call.

  Args:
    workdir: of the ledger; the base model has been made in it.
    task: what it is trained on.
    arm: how.
    seed: of the run and of its base model.
    rate: learning rate.

  Returns:
    Its row.
  """
  folder = _folder(workdir, task, seed, f'{arm.name}_{rate:g}')
  base = _folder(workdir, task, seed, BASE)

  def run() -> Row:
    _train(
      [f'{HERE}/arm.gin', task.file, arm.file],
      folder,
      arm_bindings(
        task,
        arm,
        seed=seed,
        rate=rate,
        init_from=f'{os.path.abspath(base)}/checkpoints',
      ),
    )
    row = _row(
      folder,
      open_workdir(folder),
      _spent(folder),
      task=task,
      name=arm.name,
      seed=seed,
    )
    # The row says all; a sweep has hundreds of such folders.
    shutil.rmtree(os.path.join(folder, 'checkpoints'))
    return {**row, 'learning_rate': rate}

  return _remembered(folder, run)


def is_done(
  workdir: str, task: Task, name: str, *, seed: int, rate: float | None
) -> bool:
  """Whether a run is remembered.

  Args:
    workdir: of the ledger.
    task: what it is trained on.
    name: of the arm, or `BASE`.
    seed: of the run.
    rate: learning rate; None for `BASE`.

  Returns:
    True if its row is there.
  """
  leaf = name if rate is None else f'{name}_{rate:g}'
  return os.path.exists(_remembered_in(_folder(workdir, task, seed, leaf)))


def _folder(workdir: str, task: Task, seed: int, leaf: str) -> str:
  return os.path.join(workdir, task.name, f'seed_{seed}', leaf)


def _remembered_in(folder: str) -> str:
  return os.path.join(folder, 'row.json')


def _remembered(folder: str, run: Callable[[], Row]) -> Row:
  path = _remembered_in(folder)
  if not os.path.exists(path):
    write_json(path, run())
  with open(path, encoding='utf-8') as file:
    return json.load(file)


def base_bindings(task: Task, *, seed: int) -> list[str]:
  """Gin lines of a base model.

  Args:
    task: what it learns from.
    seed: of the model, and of what is hidden in the task.

  Returns:
    Lines.
  """
  return [
    *_of_task(task, seed),
    f'STEPS = {task.base_steps}',
    f'toys.{task.name}.rows = @toys.shown',
    *task.base,
  ]


def arm_bindings(
  task: Task, arm: Arm, *, seed: int, rate: float, init_from: str
) -> list[str]:
  """Gin lines of a run.

  Args:
    task: what it is trained on.
    arm: how.
    seed: of the run.
    rate: learning rate.
    init_from: checkpoints of the base model.

  Returns:
    Lines.
  """
  return [
    *_of_task(task, seed),
    f"INIT_FROM = '{init_from}'",
    f'BUDGET = {task.budget}',
    f'PROMPTS_PER_STEP = {task.prompts}',
    f'GROUP_SIZE = {task.group}',
    f'LEARNING_RATE = {rate}',
    'eval/decode.Sampling.temperature = 1.0',
    *task.arm,
    *arm.bindings,
  ]


def _of_task(task: Task, seed: int) -> list[str]:
  """A seed has its own hidden facts."""
  return [
    f'SEED = {seed}',
    f'toys.{task.name}.seed = {seed}',
    *task.shared,
  ]


def _train(files: Sequence[str], folder: str, bindings: Sequence[str]) -> int:
  """Trains to the end or on to it; returns the step that it came to."""
  experiment = configuration.build(Experiment, files=files, bindings=bindings)
  return runs.train_to_end(experiment, folder)


def _spent(folder: str) -> Row:
  """Tokens and steps of a run, and how often it was right on its way."""
  tokens, right, steps = 0.0, 0.0, 0
  for row in read_rows(os.path.join(folder, METRICS_FILE)):
    if 'rollout/tokens' not in row:
      continue
    steps += 1
    tokens += row['rollout/tokens']
    # Where a batch is collected, that of all samples, not of those kept.
    found = row.get('collect/accuracy', row['reward/verifier_t1'])
    right += found * row['rollout/tokens']
  return {'tokens': int(tokens), 'steps': steps, 'along': right / tokens}


def _row(
  folder: str,
  trained: Trained,
  spent: Mapping[str, Any],
  *,
  task: Task,
  name: str,
  seed: int,
) -> Row:
  timing = read_rows(os.path.join(folder, TIMING_FILE))
  seconds = sum(row['time/total'] for row in timing)
  row = {
    'algorithm': name,
    'task': task.name,
    'seed': seed,
    'tokens': spent['tokens'],
    **measure.held_out(trained, split='test'),
    'delta': None,
    'seconds': round(seconds, 1),
    'steps': spent['steps'],
    'along': spent['along'],
    'learning_rate': None,
  }
  numbers = [v for v in row.values() if isinstance(v, float)]
  if not all(map(math.isfinite, numbers)):
    raise ValueError(f'A number of {folder} is not finite: {row}.')
  return row
