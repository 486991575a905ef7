"""SCoRe on MATH around the settings of the paper, averaged over seeds.

python -m experiments.score_math.sweep --dry_run \
  --gin_bindings="CHECKPOINT = '/path/to/checkpoint'" \
  --gin_bindings="MATH_DATA = '/path/to/math'"
"""

from __future__ import annotations

from experiments.sweeps import command, space
from experiments.sweeps.plan import Sweep

SWEEP = Sweep(
  files=('experiments/score_math/run.gin',),
  points=space.product(
    space.axis('LEARNING_RATE', (2.5e-6, 5e-6, 1e-5)),
    # The strong weight stays ten times the weak one, as in the paper.
    space.zipped(
      space.axis('KL_WEIGHT', (0.005, 0.01, 0.02)),
      space.axis('STRONG_KL_WEIGHT', (0.05, 0.1, 0.2)),
    ),
    space.axis('SEED', (0, 1, 2)),
  ),
  metrics=('acc_t1', 'acc_t2', 'delta'),
)

if __name__ == '__main__':
  command.start(SWEEP)
