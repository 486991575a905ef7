"""Runs the experiment: `python -m experiments.score_self_correction.run`.

Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import os

from absl import flags

from experiments import runs
from experiments.score_self_correction import arms
from selfimprove import command
from selfimprove.evaluation.report import write_json
from selfimprove.evaluation.summary import plot_arms, summary_table

BASELINES = ('single_turn', 'multi_turn')


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of this command.

  Args:
    values: where they go.
  """
  flags.DEFINE_string(
    'workdir', None, 'Where everything goes.', flag_values=values
  )
  flags.DEFINE_list(
    'seeds', ['11', '12', '13', '14', '15'], 'Seeds.', flag_values=values
  )
  flags.DEFINE_list(
    'baselines',
    list(BASELINES),
    'Arms besides base and SCoRe; empty for none.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'plot', True, 'Draw summary.png (needs matplotlib).', flag_values=values
  )
  flags.DEFINE_multi_string(
    'gin_bindings',
    [],
    'Bindings that override the files of the SCoRe arm.',
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
    rows += arms.score(folder, seed=seed, bindings=options.gin_bindings)
    for arm in options.baselines:
      rows += arms.baseline(folder, arm=arm, seed=seed)
    # After every seed, so that an interrupted run leaves what it has.
    write_json(os.path.join(workdir, 'summary.json'), rows)
  print(summary_table(rows))
  print(f'Written to {workdir}/summary.json')
  if options.plot:
    plot_arms(rows, os.path.join(workdir, 'summary.png'))


if __name__ == '__main__':
  command.start(define_flags, main)
