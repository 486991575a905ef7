"""The arms: one gin file, of which at most two lines differ."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import runs
from selfimprove import configuration
from selfimprove.evaluate import evaluate
from selfimprove.evaluation.intervals import mean_and_standard_error
from selfimprove.evaluation.report import text_table, write_json
from selfimprove.experiment import Experiment
from selfimprove.trained import open_workdir
from selfimprove.training.metrics import TIMING_FILE, read_rows

RUN = 'experiments/reasoning_gym/run.gin'
SAMPLES = 8  # Of a problem, at temperature 1.
ALGORITHM = "include 'gin_configs/algorithms/sft.gin'"
START = "INIT_FROM = ''"
ARMS = {'sft': 'sft', 'grpo': 'grpo', 'sft_longer': 'sft'}
"""Arm -> algorithm; all but the first begin where that one ended."""

METRICS = ('greedy', 'sampled', f'pass_at_{SAMPLES}')
Row = Mapping[str, Any]


def gin_text(text: str, *, algorithm: str, init_from: str) -> str:
  """The gin file of an arm.

  Args:
    text: of the file `RUN`.
    algorithm: name of a file of gin_configs/algorithms.
    init_from: checkpoint, or empty to begin with nothing.

  Returns:
    `text` with two lines changed, or fewer where they are as they should be.

  Raises:
    ValueError: the text does not have the two lines, once each.
  """
  lines = text.splitlines()
  for old, new in (
    (ALGORITHM, ALGORITHM.replace('sft', algorithm)),
    (START, f'INIT_FROM = {init_from!r}'),
  ):
    if lines.count(old) != 1:
      raise ValueError(
        f'{RUN} has the line {old!r} {lines.count(old)} times; it is to be '
        'there once.'
      )
    lines[lines.index(old)] = new
  return '\n'.join(lines) + '\n'


def run(
  workdir: str, *, arm: str, seed: int, bindings: Sequence[str] = ()
) -> Row:
  """Trains an arm to its end, goes on to it, or finds that all is done.

  Args:
    workdir: folder of all arms with this seed; `sft` comes first.
    arm: one of `ARMS`.
    seed: of the run.
    bindings: gin lines that override the file.

  Returns:
    What the arm reached on the test split, fractions and not per cent.
  """
  folder = os.path.join(os.path.abspath(workdir), arm)
  with open(RUN, encoding='utf-8') as file:
    text = gin_text(
      file.read(),
      algorithm=ARMS[arm],
      init_from='' if arm == 'sft' else _end_of_sft(workdir),
    )
  os.makedirs(workdir, exist_ok=True)
  path = os.path.join(workdir, f'{arm}.gin')
  with open(path, 'w', encoding='utf-8') as file:
    file.write(text)
  experiment = configuration.build(
    Experiment, files=[path], bindings=[f'SEED = {seed}', *bindings]
  )
  runs.train_to_end(experiment, folder)
  return _measure(folder, arm=arm, seed=seed)


def table(rows: Sequence[Row]) -> str:
  """Means over seeds with their standard errors, in per cent.

  Args:
    rows: what `run` returned.

  Returns:
    A table with a line per arm.
  """
  lines = []
  for arm in ARMS:
    own = [row for row in rows if row['arm'] == arm]
    if not own:
      continue
    means = [
      mean_and_standard_error([100 * row[name] for row in own])
      for name in METRICS
    ]
    cells = [_cell(m.mean, m.standard_error) for m in means]
    seconds = sum(row['seconds'] for row in own) / len(own)
    lines.append((arm, *cells, f'{seconds:.0f}', str(len(own))))
  head = ('arm', *(f'{name} %' for name in METRICS), 'seconds', 'seeds')
  return text_table(head, lines)


def _cell(mean: float, error: float | None) -> str:
  return f'{mean:.1f}' if error is None else f'{mean:.1f} ± {error:.1f}'


def _end_of_sft(workdir: str) -> str:
  """The checkpoint that other arms begin with."""
  folder = os.path.join(os.path.abspath(workdir), 'sft', 'checkpoints')
  steps = [int(name) for name in os.listdir(folder) if name.isdigit()]
  return os.path.join(folder, str(max(steps)))


def _measure(folder: str, *, arm: str, seed: int) -> Row:
  """The row of a finished run, measured once."""
  path = os.path.join(folder, 'row.json')
  if os.path.exists(path):
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  trained = open_workdir(folder)
  measured = evaluate(trained, split='test', samples=SAMPLES, temperature=1.0)
  trained.experiment.close()
  # Compilation included.
  timing = read_rows(os.path.join(folder, TIMING_FILE))
  row = {
    'arm': arm,
    'seed': seed,
    'greedy': measured['acc_t1'].value,
    'sampled': measured['pass@1'].value,
    f'pass_at_{SAMPLES}': measured[f'pass@{SAMPLES}'].value,
    'seconds': round(sum(row.get('time/total', 0.0) for row in timing), 1),
  }
  write_json(path, row)
  print(f'{arm}, seed {seed}: greedy {row["greedy"]:.1%}')
  return row
