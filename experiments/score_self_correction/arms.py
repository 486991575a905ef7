"""The arms of the experiment: what each trains, and how it is measured."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from selfimprove import configuration, train
from selfimprove.evaluate import evaluate
from selfimprove.evaluation.report import write_json
from selfimprove.evaluation.summary import summary_row
from selfimprove.experiment import Experiment
from selfimprove.trained import open_workdir

HERE = 'experiments/score_self_correction'
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
    A summary row per stage; `steps` and `seconds` count from the base model
    on, and for the base model from nothing.
  """
  folder = os.path.join(workdir, 'score')
  ends = _stage_ends(_train(f'{HERE}/run.gin', folder, seed, bindings))
  rows = []
  for arm, end in zip(
    ('base', 'score_stage_one', 'score_stage_two'), ends, strict=True
  ):
    begin = 0 if arm == 'base' else ends[0]
    rows.append(
      _measure(
        folder,
        arm=arm,
        seed=seed,
        step=end,
        steps=end - begin,
        seconds=_seconds(folder, begin, end),
      )
    )
  return rows


def baseline(
  workdir: str, *, arm: str, seed: int, bindings: Sequence[str] = ()
) -> list[Row]:
  """An arm that begins at the base model of the `score` arm.

  Args:
    workdir: folder of all arms with this seed; `score` has been run in it.
    arm: name of its gin file.
    seed: of the run.
    bindings: gin lines that override the files.

  Returns:
    One summary row.

  Raises:
    FileNotFoundError: `score` has left no base model there.
  """
  folder = os.path.join(workdir, arm)
  own = [f"INIT_FROM = '{_base_model(workdir)}'", *bindings]
  steps = _stage_ends(_train(f'{HERE}/{arm}.gin', folder, seed, own))[-1]
  return [
    _measure(
      folder,
      arm=arm,
      seed=seed,
      step=steps,
      steps=steps,
      seconds=_seconds(folder, 0, steps),
    )
  ]


def _train(
  file: str, folder: str, seed: int, bindings: Sequence[str]
) -> Experiment:
  """Trains to the end, goes on to it, or finds that all is done."""
  experiment = configuration.build(
    Experiment, files=[file], bindings=[f'SEED = {seed}', *bindings]
  )
  step, end = int(train.start(experiment, folder).step), _stage_ends(experiment)
  if step < end[-1]:
    # What is there is no result: the next arms must not begin either.
    raise SystemExit(
      f'Stopped in {folder} at step {step} of {end[-1]}; the same command goes '
      'on from there.'
    )
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


def _seconds(folder: str, begin: int, end: int) -> float:
  """Wall-clock seconds of the steps in (begin, end], compilation included."""
  total = 0.0
  with open(os.path.join(folder, 'timing.jsonl'), encoding='utf-8') as file:
    for row in map(json.loads, file):
      if begin < row['step'] <= end:
        total += row['time/total']
  return round(total, 1)


def _measure(
  folder: str,
  *,
  arm: str,
  seed: int,
  step: int,
  steps: int,
  seconds: float,
) -> Row:
  """The row of one checkpoint on the test split, measured once."""
  path = os.path.join(folder, f'{arm}.json')
  if os.path.exists(path):
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  began = time.monotonic()
  trained = open_workdir(folder, step=step)
  measured = evaluate(trained, split='test', samples=1, temperature=1.0)
  row = summary_row(measured, arm=arm, seed=seed, steps=steps, seconds=seconds)
  write_json(path, row)
  print(
    f'{arm}, seed {seed}: acc@t1 {row["acc_t1"]:.1%}, acc@t2 '
    f'{row["acc_t2"]:.1%} (measured in {time.monotonic() - began:.0f} s)'
  )
  return row
