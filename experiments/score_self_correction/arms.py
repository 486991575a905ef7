"""The arms of the experiment: what each trains, and how it is measured."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import runs
from selfimprove import configuration
from selfimprove.evaluate import evaluate
from selfimprove.evaluation.report import write_json
from selfimprove.evaluation.summary import summary_row
from selfimprove.experiment import Experiment
from selfimprove.trained import open_workdir
from selfimprove.training.metrics import METRICS_FILE, TIMING_FILE, read_rows

HERE = 'experiments/score_self_correction'
SAMPLES = 8  # Of a problem, for pass@k.
Row = Mapping[str, Any]


def score(
  workdir: str, *, seed: int, bindings: Sequence[str] = ()
) -> list[Row]:
  """The arms that `run.gin` yields: base model, stage I and stage II.

  Args:
    workdir: folder of all arms with this seed.
    seed: of the run.
    bindings: gin lines that override the files.

  Returns:
    A summary row per stage, with tokens of attempts and pass@8 besides;
    `steps`, `seconds` and `tokens` count from the base model on, and for the
    base model from nothing.
  """
  folder = os.path.join(workdir, 'score')
  names = ('base', 'score_stage_one', 'score_stage_two')
  known = [_remembered(folder, name) for name in names]
  if all(known):
    return [row for row in known if row]
  ends = _stage_ends(_train(f'{HERE}/run.gin', folder, seed, bindings))
  rows = []
  for arm, end in zip(names, ends, strict=True):
    begin = 0 if arm == 'base' else ends[0]
    rows.append(
      _measure(
        folder,
        arm=arm,
        seed=seed,
        step=end,
        begin=begin,
      )
    )
  return rows


def baseline(
  workdir: str,
  *,
  arm: str,
  seed: int,
  bindings: Sequence[str] = (),
  name: str = '',
) -> list[Row]:
  """An arm that begins at the base model of the `score` arm.

  Args:
    workdir: folder of all arms with this seed; `score` has been run in it.
    arm: name of its gin file.
    seed: of the run.
    bindings: gin lines that override the files.
    name: of its folder, where `bindings` make it another arm.

  Returns:
    One summary row.

  Raises:
    FileNotFoundError: `score` has left no base model there.
  """
  folder = os.path.join(workdir, name or arm)
  known = _remembered(folder, arm)
  if known:
    return [known]
  own = [f"INIT_FROM = '{_base_model(workdir)}'", *bindings]
  steps = _stage_ends(_train(f'{HERE}/{arm}.gin', folder, seed, own))[-1]
  return [
    _measure(
      folder,
      arm=arm,
      seed=seed,
      step=steps,
      begin=0,
    )
  ]


def _train(
  file: str, folder: str, seed: int, bindings: Sequence[str]
) -> Experiment:
  """Trains to the end, goes on to it, or finds that all is done."""
  experiment = configuration.build(
    Experiment, files=[file], bindings=[f'SEED = {seed}', *bindings]
  )
  runs.train_to_end(experiment, folder)
  return experiment


def _base_model(workdir: str) -> str:
  """The checkpoint at the end of the warm start."""
  folder = os.path.join(os.path.abspath(workdir), 'score')
  config = os.path.join(folder, 'config.gin')
  end = _stage_ends(configuration.build(Experiment, files=[config]))[0]
  path = os.path.join(folder, 'checkpoints', str(end))
  if not os.path.isdir(path):
    raise FileNotFoundError(
      f'There is no base model at {path}, the end of the warm start; run the '
      'score arm in a new workdir.'
    )
  return path


def _stage_ends(experiment: Experiment) -> list[int]:
  """Last step of each stage."""
  return list(
    itertools.accumulate(stage.steps for stage in experiment.unrolled())
  )


def _total(folder: str, file: str, name: str, begin: int, end: int) -> float:
  """The sum of what the steps in (begin, end] have logged under a name."""
  return sum(
    row[name]
    for row in read_rows(os.path.join(folder, file))
    if name in row and begin < row['step'] <= end
  )


def _measure(
  folder: str,
  *,
  arm: str,
  seed: int,
  step: int,
  begin: int,
) -> Row:
  """The row of the steps in (begin, step] on the test split, measured once."""
  known = _remembered(folder, arm)
  if known:
    return known
  began = time.monotonic()
  trained = open_workdir(folder, step=step)
  measured = evaluate(trained, split='test', samples=SAMPLES, temperature=1.0)
  # Compilation included.
  seconds = _total(folder, TIMING_FILE, 'time/total', begin, step)
  row = {
    **summary_row(
      measured,
      arm=arm,
      seed=seed,
      steps=step - begin,
      seconds=round(seconds, 1),
    ),
    'tokens': int(_total(folder, METRICS_FILE, 'rollout/tokens', begin, step)),
    f'pass_at_{SAMPLES}': measured[f'pass@{SAMPLES}'].value,
  }
  write_json(_row_file(folder, arm), row)
  print(
    f'{arm}, seed {seed}: acc@t1 {row["acc_t1"]:.1%}, acc@t2 '
    f'{row["acc_t2"]:.1%} (measured in {time.monotonic() - began:.0f} s)'
  )
  return row


def _row_file(folder: str, arm: str) -> str:
  return os.path.join(folder, f'{arm}.json')


def _remembered(folder: str, arm: str) -> Row | None:
  """The row of an arm that has been measured."""
  path = _row_file(folder, arm)
  if not os.path.exists(path):
    return None
  with open(path, encoding='utf-8') as file:
    return json.load(file)
