"""A process of a tiny run: `python -m tests.training.one_of_many PLACE ...`.

What `tests/training/test_processes.py` starts several of. It does without the
data room, whose imports take longer than all of this.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

from selfimprove import partitioning, placement
from selfimprove import types as nouns
from selfimprove.algorithms import credit
from selfimprove.algorithms.base import Collect, Retry
from selfimprove.rewards import labels, merges
from selfimprove.rewards.failures import VerifierError
from selfimprove.rewards.texts import attempt_texts
from selfimprove.rewards.verifiers import HostVerifier
from selfimprove.rollout.contexts import AnswerPrefix, Hinted, InContext
from selfimprove.training import agreement, judging, loop, processes
from selfimprove.training.checkpoint import CheckpointStore
from selfimprove.training.signals import StopRequest
from selfimprove.training.stages import Stage
from tests.training import tiny

PROMPTS = 8
RECIPES = ('in_graph', 'on_host', 'collecting')


@nouns.record
class FirstIsFive:
  """1.0 where an attempt begins with a 5: most groups fail, and are retried."""

  def __call__(self, rollout, prompts):
    firsts = [rollout.tokens[:, first] for first, _ in rollout.spans]
    return (jnp.stack(firsts, axis=1) == 5).astype(jnp.float32)


def even(attempt, reference):
  """1.0 where an attempt begins with an even number."""
  return float(int(attempt.split()[0]) % 2 == 0)


def _retry():
  hint = Hinted(
    hint=AnswerPrefix(length=1),
    opening=jnp.asarray([6]),
    closing=jnp.asarray([], jnp.int32),
  )
  return Retry(
    rollout=InContext(rollout=tiny.revise(), context=hint),
    merge=merges.Replace(),
    threshold=0.5,
  )


def stage(recipe, *, steps=2):
  """A stage of one of `RECIPES`."""
  changes = {}
  if recipe == 'collecting':
    changes['reward'] = FirstIsFive()
  if recipe == 'on_host':
    changes['reward'] = HostVerifier(fn=even, workers=1, unfinished=None)
  made = tiny.algorithm(
    kl=(0.1, 0.01), baseline=credit.GroupNormalized(), **changes
  )
  if recipe == 'collecting':
    made = dataclasses.replace(
      made,
      label=labels.DropTiedGroups(),
      collect=Collect(retry=_retry(), max_rounds=3),
    )
  return Stage(
    name=recipe,
    algorithm=made,
    optimizer=optax.adam(1e-2),
    steps=steps,
    prompts_per_step=PROMPTS,
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
    return placement.gathered(loop.train(made), mesh)


def _mean(params, mesh):
  whole = jax.tree.leaves(placement.gathered(params, mesh))
  return float(sum(leaf.mean() for leaf in whole))


def like(workdir, recipe, mesh):
  """What the state of a recipe is over a mesh: shapes and shardings."""
  made = tiny.run(workdir, [stage(recipe)], mesh=mesh).run
  made.store.close()
  with jax.set_mesh(mesh):
    return loop._like(made, made.stages[0])


def moved(source, target, mesh):
  """Restores a checkpoint onto a mesh, and saves it again."""
  wanted = like(source, 'collecting', mesh)
  with CheckpointStore(source / 'checkpoints', keep_last=1) as store:
    state, extra = store.restore(None, wanted)
  with CheckpointStore(target / 'checkpoints', keep_last=1) as store:
    store.save(int(state.step), state, extra=extra)


def disagreements():
  """Every process is told, in the same words, what is wrong with one."""
  me = jax.process_index()
  long = 'ä' * (1 + 5 * me)
  assert agreement.texts(long) == ['ä' * (1 + 5 * i) for i in range(2)]
  agreement.check_same({'the config': 'same'})
  with pytest.raises(agreement.DisagreementError) as caught:
    agreement.check_same({'the config': f'a\nb = {me}\nc'})
  assert str(caught.value) == (
    'The processes of this run differ in the config: process 0 has `b = 0`, '
    'process 1 has `b = 1`; start them alike.'
  )
  with pytest.raises(agreement.DisagreementError, match='process 1 has `c`'):
    agreement.check_same({'it': 'b\n' + 'c' * me})

  def fails():
    if me == 1:
      raise VerifierError('name', 'broke', 'attempt', {})
    return 'fine'

  kind = VerifierError if me else agreement.OtherProcessError
  with pytest.raises(kind, match="Verifier 'name' broke"):
    agreement.together(fails)
  assert agreement.together(lambda: me) == me
  asked = StopRequest(requested=me == 1, reason='SIGTERM' if me else '')
  assert agreement.stop_request(asked).reason == 'SIGTERM (process 1)'
  assert not agreement.stop_request(StopRequest()).requested
  found = agreement.totals({'seconds_max': 1.0 + me, 'calls': 3})
  assert found == {'seconds_max': 2.0, 'calls': 6.0}


def main(place, mesh, folder, *jobs, timeout_seconds=60):
  """Joins the others, and does the jobs with them."""
  sizes = dict(
    zip(('data', 'fsdp', 'model'), map(int, mesh.split(',')), strict=True)
  )
  with (
    processes.joined(place, timeout_seconds=timeout_seconds),
    processes.bound(),
  ):
    mesh = partitioning.make_mesh(**sizes)
    for job in jobs:
      what, _, source = job.partition('=')
      target = pathlib.Path(folder) / what
      if what == 'disagreements':
        disagreements()
      elif what == 'moved':
        moved(pathlib.Path(source), target, mesh)
      else:
        train(target, what, mesh)


if __name__ == '__main__':
  main(*sys.argv[1:])
