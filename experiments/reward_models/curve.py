"""True and learned score of a policy along its training."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp

from selfimprove.data import pipeline
from selfimprove.ops.keys import named_key
from selfimprove.trained import Trained, open_workdir
from selfimprove.training.checkpoint import CheckpointStore, restore_params
from selfimprove.training.state import abstract_params

SAMPLES = 4
"""Of each problem."""


def curve(workdir: str, *, base: str, problems: int) -> list[dict[str, float]]:
  """Means over samples of held-out problems, checkpoint by checkpoint.

  Args:
    workdir: of a run against a learned reward.
    base: checkpoints of the policy that it began with: step 0.
    problems: of the test split, the first so many.

  Returns:
    Rows with `step`, `true`, `proxy` and `length`.
  """
  trained = open_workdir(workdir)
  table = pipeline.load(trained.experiment.task, 'test').head(problems)
  prompts = next(pipeline.in_order(table, batch_size=len(table))).prompts
  measure = _measure(trained, jax.tree.map(jnp.asarray, prompts))
  folder = os.path.join(workdir, 'checkpoints')
  with CheckpointStore(folder, keep_last=1000) as store:
    steps = store.steps()
  like = abstract_params(trained.policy, trained.mesh)
  rows = [{'step': 0, **measure(restore_params(base, like=like))}]
  for step in steps:
    params = restore_params(folder, step=step, like=like)
    rows.append({'step': step, **measure(params)})
  return rows


def _measure(trained: Trained, prompts: Any) -> Any:
  """(params) -> means; the same samples for the same parameters."""
  experiment = trained.experiment
  algorithm = experiment.stages[0].algorithm
  rollout: Any = dataclasses.replace(algorithm.rollout, group_size=SAMPLES)
  key = named_key(jax.random.key(experiment.seed), 'curve')

  @jax.jit
  def means(params: Any, rewards: Any, prompts: Any) -> dict[str, Any]:
    samples = rollout(trained.policy, params, prompts, key)
    found = {k: jnp.mean(r(samples, prompts)) for k, r in rewards.items()}
    length = jnp.sum(samples.loss_mask, axis=1, dtype=jnp.float32)
    return {**found, 'length': jnp.mean(length)}

  rewards = {'true': experiment.evaluation.reward, 'proxy': algorithm.reward}
  return lambda params: jax.tree.map(float, means(params, rewards, prompts))
