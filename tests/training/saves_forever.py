"""Saves checkpoint after checkpoint until it is killed.

Every number of a checkpoint is its step, so that a mixture of two is seen.
"""

from __future__ import annotations

import itertools
import sys

import jax.numpy as jnp

from selfimprove.training.checkpoint import CheckpointStore


def main(directory: str) -> None:
  with CheckpointStore(directory, keep_last=2, keep_best=1) as store:
    first = (store.latest_step() or 0) + 1
    print('ready', flush=True)
    for step in itertools.count(first):
      state = {
        name: jnp.full((64, 1024), step, jnp.float32) for name in 'abcdef'
      }
      # The metric falls, so the best one is the oldest and the rest must go.
      store.save(step, state, extra={'step': step}, metric=-float(step))
      print(step, flush=True)


if __name__ == '__main__':
  main(sys.argv[1])
