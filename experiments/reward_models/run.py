"""Runs the experiment: `python -m experiments.reward_models.run --workdir=...`.

Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import json
import os
from typing import Any

from absl import flags

from experiments import runs
from experiments.reward_models import data, report
from experiments.reward_models.curve import curve
from selfimprove import command, configuration
from selfimprove.evaluate import evaluate
from selfimprove.evaluation.report import write_json
from selfimprove.experiment import Experiment
from selfimprove.trained import open_workdir

HERE = 'experiments/reward_models'
MODELS = {
  'outcome_model': ('preferences', 'answers'),
  'process_model': ('steps', 'steps'),
}
"""Reward model -> its file, and that of the policy that it is to judge."""

ARMS = {
  'outcome_rl': 'outcome_model',
  'outcome_rl_kl': 'outcome_model',
  'process_rl': 'process_model',
}
"""Run -> the reward model that it is trained against."""


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of this command.

  Args:
    values: where they go.
  """
  flags.DEFINE_string(
    'workdir', None, 'Where everything goes.', flag_values=values
  )
  flags.DEFINE_list('seeds', ['11', '12', '13'], 'Seeds.', flag_values=values)
  flags.DEFINE_integer(
    'rows', 12288, 'Rows of each data file.', flag_values=values
  )
  flags.DEFINE_bool(
    'plot', True, 'Draw curves.png (needs matplotlib).', flag_values=values
  )


def seed_results(folder: str, *, seed: int, rows: int) -> dict[str, Any]:
  """What one seed says.

  Args:
    folder: of the seed.
    seed: of data and runs.
    rows: of each data file.

  Returns:
    Accuracy of the reward models on the test split, and the curves of the
    runs against them.
  """
  folder = os.path.abspath(folder)
  data.write(f'{folder}/data', rows=rows, seed=seed)
  bases, models = {}, {}
  for model, (file, answers) in MODELS.items():
    base = _train('base_policy', answers, folder, seed, to=f'base_of_{model}')
    bases[model] = f'{base}/checkpoints'
    models[model] = _accuracy(_train(model, file, folder, seed))
  curves = {}
  for arm, model in ARMS.items():
    workdir = _train(
      arm,
      MODELS[model][1],
      folder,
      seed,
      f"INIT_FROM = '{bases[model]}'",
      f"REWARD_WORKDIR = '{folder}/{model}'",
    )
    curves[arm] = curve(workdir, base=bases[model], problems=256)
  return {'seed': seed, **models, 'curves': curves}


def _train(
  name: str, file: str, folder: str, seed: int, *bindings: str, to: str = ''
) -> str:
  """Trains to the end, or goes on to it; returns the folder of the run."""
  workdir = f'{folder}/{to or name}'
  path = f'{folder}/data/{file}.jsonl'
  experiment = configuration.build(
    Experiment,
    files=[f'{HERE}/{name}.gin'],
    bindings=[f'SEED = {seed}', f"TRAIN_FILE = '{path}'", *bindings],
  )
  runs.train_to_end(experiment, workdir)
  return workdir


def _accuracy(workdir: str) -> dict[str, Any]:
  """Accuracy of a reward model on problems that no training has seen."""
  measured = evaluate(
    open_workdir(workdir), split='test', samples=1, temperature=1.0
  )
  found = measured['acc_t1']
  return {'accuracy': found.value, 'judged': found.count}


def main(options: flags.FlagValues) -> None:
  """Trains and measures all seeds, then prints the table.

  Args:
    options: parsed flags.

  Raises:
    ConfigError: there is no --workdir.
  """
  workdir = runs.begin(options.workdir)
  results = []
  for seed in map(int, options.seeds):
    path = f'{workdir}/seed_{seed}/results.json'
    if not os.path.exists(path):
      write_json(
        path,
        seed_results(f'{workdir}/seed_{seed}', seed=seed, rows=options.rows),
      )
    with open(path, encoding='utf-8') as opened:
      results.append(json.load(opened))
    # After every seed, so that an interrupted run leaves what it has.
    write_json(f'{workdir}/summary.json', report.summary(results))
  print(report.table(report.summary(results)))
  print(f'Written to {workdir}/summary.json')
  if options.plot:
    report.plot(report.summary(results), f'{workdir}/curves.png')


if __name__ == '__main__':
  command.start(define_flags, main)
