"""Runs the experiment: `python -m experiments.score_self_correction.run`.

Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import os

import jax
from absl import app, flags

from experiments.score_self_correction import arms
from selfimprove.evaluation.report import write_json
from selfimprove.evaluation.summary import plot_arms, summary_table

BASELINES = ('single_turn', 'multi_turn')

_WORKDIR = flags.DEFINE_string('workdir', None, 'Where everything goes.')
_SEEDS = flags.DEFINE_list('seeds', ['11', '12', '13', '14', '15'], 'Seeds.')
_BASELINES = flags.DEFINE_list(
  'baselines', list(BASELINES), 'Arms besides base and SCoRe; empty for none.'
)
_PLOT = flags.DEFINE_bool('plot', True, 'Draw summary.png (needs matplotlib).')
_GIN_BINDINGS = flags.DEFINE_multi_string(
  'gin_bindings', [], 'Bindings that override the files of the SCoRe arm.'
)


def main(argv: list[str]) -> None:
  """Trains and measures all arms, then prints the table."""
  del argv
  workdir = _WORKDIR.value
  if not workdir:
    raise app.UsageError('Give a --workdir.')
  # The seeds of an arm run the same programs.
  jax.config.update(
    'jax_compilation_cache_dir', os.path.abspath(f'{workdir}/compiled')
  )
  rows = []
  for seed in map(int, _SEEDS.value):
    folder = os.path.join(workdir, f'seed_{seed}')
    rows += arms.score(folder, seed=seed, bindings=_GIN_BINDINGS.value)
    for arm in _BASELINES.value:
      rows += arms.baseline(folder, arm=arm, seed=seed)
    # After every seed, so that an interrupted run leaves what it has.
    write_json(os.path.join(workdir, 'summary.json'), rows)
  print(summary_table(rows))
  print(f'Written to {workdir}/summary.json')
  if _PLOT.value:
    plot_arms(rows, os.path.join(workdir, 'summary.png'))


if __name__ == '__main__':
  app.run(main)
