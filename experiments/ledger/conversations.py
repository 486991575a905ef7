"""SCoRe and its ablations as rows of the ledger.

They have stages and two attempts, so they are run as `score_self_correction`
runs them, each at the learning rate that was best for it on the tuning seed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.score_self_correction import arms
from selfimprove.evaluation.summary import SUMMARY_METRICS

TASK = 'answer_first'
STAGES = ('base', 'score_stage_one', 'score_stage_two')
SEEDS = (11, 12, 13, 14, 15)
ARMS = (
  'single_turn',
  'multi_turn',
  'no_stage_one',
  'no_shaping',
  'star_stage_two',
  'pair_sft',
)
NAMES = (*STAGES, *ARMS)
RATES = (2.5e-4, 5e-4, 1e-3)
_OWN = 5e-4  # Of the files of the experiment.
Rates = Mapping[str, float]


def best_rates(
  workdir: str, *, seed: int, names: Sequence[str] = ()
) -> dict[str, float]:
  """The rate of each arm with the most right last attempts.

  Args:
    workdir: of the ledger.
    seed: none of those that are reported.
    names: of arms; empty for all.

  Returns:
    Arm -> learning rate; of equally good ones the larger.
  """
  best = {}
  for arm in _wanted(names):
    tried = [
      (_trained(workdir, arm=arm, seed=seed, rate=rate)['acc_t2'], rate)
      for rate in RATES
    ]
    best[arm] = max(tried)[1]
    print(f'{arm}: learning rate {best[arm]:g} of {tried}')
  return best


def rows(
  workdir: str, *, seed: int, rates: Rates, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
  """The rows of a seed, trained and measured where they are not remembered.

  Args:
    workdir: of the ledger.
    seed: of all arms.
    rates: arm -> learning rate.
    names: of arms; empty for all. Those of `STAGES` are always there.

  Returns:
    Rows of the ledger: `accuracy` and pass@8 are of the last attempt.
  """
  base, one, _ = arms.score(_folder(workdir, seed), seed=seed)
  found = [_row(base, None), _row(one, _OWN)]
  for arm in _wanted(names):
    rate = rates[arm]
    row = _trained(workdir, arm=arm, seed=seed, rate=rate)
    found.append(_row(row, rate))
  return found


def _wanted(names: Sequence[str]) -> list[str]:
  """SCoRe always, and the ablations that are asked for."""
  return [STAGES[-1], *(arm for arm in ARMS if not names or arm in names)]


def _folder(workdir: str, seed: int) -> str:
  return os.path.join(workdir, TASK, f'seed_{seed}')


def _trained(workdir: str, *, arm: str, seed: int, rate: float) -> arms.Row:
  """The row of an arm at a learning rate; all begin at one base model."""
  folder = _folder(workdir, seed)
  score = arms.score(folder, seed=seed)
  if rate == _OWN:
    if arm == STAGES[-1]:
      return score[-1]
    (row,) = arms.baseline(folder, arm=arm, seed=seed)
    return row
  file = 'score' if arm == STAGES[-1] else arm
  (row,) = arms.baseline(
    folder,
    arm=file,
    seed=seed,
    bindings=[f'LEARNING_RATE = {rate}'],
    name=f'{file}_{rate:g}',
  )
  return {**row, 'arm': arm}


def _row(row: arms.Row, rate: float | None) -> dict[str, Any]:
  return {
    'algorithm': row['arm'],
    'task': TASK,
    'seed': row['seed'],
    # What a base model learns from was not sampled. Of pairs that are put
    # together from samples, the tokens that are learned from are counted.
    'tokens': 0 if row['arm'] == 'base' else row['tokens'],
    'accuracy': row['acc_t2'],
    'pass_at_8': row['pass_at_8'],
    'seconds': row['seconds'],
    'steps': row['steps'],
    'learning_rate': rate,
    **{name: row[name] for name in SUMMARY_METRICS},
  }
