"""SCoRe over learning rates and bonuses, averaged over seeds.

python -m experiments.score_self_correction.sweep --workdir=runs/sweep --jobs=2
"""

from __future__ import annotations

from experiments.sweeps import command, space
from experiments.sweeps.plan import Sweep

SWEEP = Sweep(
  files=('experiments/score_self_correction/run.gin',),
  points=space.product(
    space.axis('LEARNING_RATE', (2.5e-4, 5e-4, 1e-3)),
    # Without a bonus stage II is plain RL of both attempts.
    space.axis('ALPHA', (0.0, 10.0)),
    space.axis('SEED', (11, 12, 13)),
  ),
  metrics=('acc_t1', 'acc_t2', 'delta'),
)

if __name__ == '__main__':
  command.start(SWEEP)
