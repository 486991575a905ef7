"""SCoRe and its ablations as rows of the ledger.

They have stages and two attempts, so they are run as `score_self_correction`
runs them: all at the learning rate of its files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
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


def rows(
  workdir: str, *, seed: int, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
  """The rows of a seed, trained and measured where they are not remembered.

  Args:
    workdir: of the ledger.
    seed: of all arms.
    names: of arms; empty for all. Those of `STAGES` are always there.

  Returns:
    Rows of the ledger: `accuracy` and pass@8 are of the last attempt.
  """
  folder = os.path.join(workdir, TASK, f'seed_{seed}')
  found = [*arms.score(folder, seed=seed)]
  for arm in (arm for arm in ARMS if not names or arm in names):
    found += arms.baseline(folder, arm=arm, seed=seed)
  return [_row(row) for row in found]


def _row(row: arms.Row) -> dict[str, Any]:
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
    **{name: row[name] for name in SUMMARY_METRICS},
  }
