"""Runs the experiment: `python -m experiments.reasoning_gym.run`.

Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import os

from absl import flags

from experiments import runs
from experiments.reasoning_gym import arms
from selfimprove import command
from selfimprove.evaluation.report import write_json


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of this command.

  Args:
    values: where they go.
  """
  flags.DEFINE_string(
    'workdir', None, 'Where everything goes.', flag_values=values
  )
  flags.DEFINE_list('seeds', ['11', '12', '13'], 'Seeds.', flag_values=values)
  flags.DEFINE_multi_string(
    'gin_bindings',
    [],
    'Bindings that override the file, in all arms.',
    flag_values=values,
  )


def main(options: flags.FlagValues) -> None:
  """Trains and measures all arms, then prints the table.

  Args:
    options: parsed flags.

  Raises:
    ConfigError: there is no --workdir.
  """
  workdir = runs.begin(options.workdir)
  rows = []
  for seed in map(int, options.seeds):
    folder = os.path.join(workdir, f'seed_{seed}')
    for arm in arms.ARMS:
      rows.append(
        arms.run(folder, arm=arm, seed=seed, bindings=options.gin_bindings)
      )
      # After every arm, so that an interrupted run leaves what it has.
      write_json(os.path.join(workdir, 'summary.json'), rows)
  print(arms.table(rows))
  print(f'Written to {workdir}/summary.json')


if __name__ == '__main__':
  command.start(define_flags, main)
