"""A process of a tiny run: `python -m tests.training.one_of_many PLACE ...`.

What `tests/training/test_processes.py` starts several of. It does without the
data room, whose imports take longer than all of this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys

import jax
import numpy as np
import optax

from selfimprove import partitioning
from selfimprove.algorithms import credit
from selfimprove.algorithms.base import Collect
from selfimprove.rewards import labels
from selfimprove.rewards.texts import attempt_texts
from selfimprove.rewards.verifiers import HostVerifier
from selfimprove.training import judging, loop, processes
from selfimprove.training.checkpoint import CheckpointStore
from selfimprove.training.stages import Stage
from tests.training import tiny

PROMPTS = 8
RECIPES = ('in_graph', 'on_host', 'collecting')


def even(attempt, reference):
  """1.0 where an attempt begins with an even number."""
  return float(int(attempt.split()[0]) % 2 == 0)


def stage(recipe, *, steps=2):
  """A stage of one of `RECIPES`."""
  changes = {}
  if recipe == 'on_host':
    changes['reward'] = HostVerifier(fn=even, workers=1, unfinished=None)
  made = tiny.algorithm(
    kl=(0.1, 0.01), baseline=credit.GroupNormalized(), **changes
  )
  if recipe == 'collecting':
    made = dataclasses.replace(
      made, label=labels.DropTiedGroups(), collect=Collect(max_rounds=3)
    )
  return Stage(
    name=recipe,
    algorithm=made,
    optimizer=optax.adam(1e-2),
    steps=steps,
    prompts_per_step=PROMPTS,
    microbatches=1,
  )


def train(workdir, recipe, mesh, **changes):
  """The last state of a run of a recipe over a mesh, whole on the host."""

  def read(reward, rollout):
    texts = attempt_texts(rollout, lambda ids: ' '.join(map(str, ids)))
    return reward.judge(texts, [{}] * len(texts), finished=rollout.finished)

  stages = [stage(recipe)]
  with contextlib.ExitStack() as stack:
    if recipe == 'on_host':
      stack.callback(stages[0].algorithm.reward.close)
    made = tiny.run(
      workdir, stages, mesh=mesh, judge=judging.divided(read, mesh), **changes
    ).run
    made = dataclasses.replace(
      made, evaluate=lambda at: {'eval/acc_last': _mean(at.params, mesh)}
    )
    stack.callback(made.store.close)
    stack.callback(made.writer.close)
    return partitioning.gathered(loop.train(made), mesh)


def _mean(params, mesh):
  whole = jax.tree.leaves(partitioning.gathered(params, mesh))
  return float(sum(leaf.mean() for leaf in whole))


def moved(source, target, mesh):
  """Restores a checkpoint onto a mesh, and saves it again."""
  made = tiny.run(target, [stage('collecting')], mesh=mesh).run
  with jax.set_mesh(mesh):
    like = loop._like(made, made.stages[0])
  with contextlib.closing(made.store):
    with CheckpointStore(source / 'checkpoints', keep_last=1) as store:
      state, extra = store.restore(None, like)
    made.store.save(int(state.step), state, extra=extra)
  return state


def main(place, mesh, folder, *jobs):
  sizes = dict(
    zip(partitioning.MESH_AXES, map(int, mesh.split(',')), strict=True)
  )
  with processes.joined(place, timeout_seconds=60), processes.bound():
    mesh = partitioning.make_mesh(**sizes)
    for job in jobs:
      what, _, source = job.partition('=')
      target = pathlib.Path(folder) / what
      if what == 'moved':
        moved(pathlib.Path(source), target, mesh)
      else:
        train(target, what, mesh)


if __name__ == '__main__':
  main(*sys.argv[1:])
