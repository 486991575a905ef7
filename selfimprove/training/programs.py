"""The compiled programs of a stage."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from selfimprove import partitioning
from selfimprove.algorithms.base import HostReward
from selfimprove.training import step as steps
from selfimprove.training.stages import Stage
from selfimprove.training.state import TrainState
from selfimprove.training.timing import PhaseTimers
from selfimprove.types import Metrics, Policy, Prompts, Rollout

Judge = Callable[[HostReward, Rollout], np.ndarray]
"""(reward, rollout on the host) -> f32[b turns]."""

StepFn = Callable[
  [TrainState, Prompts, PhaseTimers], tuple[TrainState, Metrics, Any]
]
"""(state, prompts on the host, timers) -> state, metrics, finite codes."""


def build(
  policy: Policy,
  stage: Stage,
  *,
  mesh: Mesh,
  state_shardings: Any,
  judge: Judge,
) -> StepFn:
  """The step of a stage: one program, or two around a reward on the host.

  Args:
    policy: the model.
    stage: whose algorithm, optimizer and micro-batches are used.
    mesh: where the arrays live.
    state_shardings: of the train state; outputs keep them.
    judge: reads a rollout for rewards that are computed from text.

  Returns:
    The step; it donates the state it is given.

  Raises:
    ValueError: the prompts do not divide over the devices.
  """
  _check_divides(stage, mesh)
  make = (
    _on_host if isinstance(stage.algorithm.reward, HostReward) else _in_graph
  )
  return make(policy, stage, mesh, state_shardings, judge)


def place(prompts: Prompts, mesh: Mesh) -> Prompts:
  """Prompts on the devices, divided over the batch axes of the mesh.

  Args:
    prompts: host arrays.
    mesh: where they go.

  Returns:
    The same prompts as device arrays.
  """
  return jax.device_put(prompts, partitioning.rows(mesh))


def _check_divides(stage: Stage, mesh: Mesh) -> None:
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  part = stage.prompts_per_step // stage.microbatches
  if part % shards:
    raise ValueError(
      f'Stage {stage.name!r}: {part} prompts of a micro-batch do not divide '
      f'over data x fsdp = {shards} devices; change prompts_per_step, '
      'microbatches or the mesh.'
    )


def _in_graph(
  policy: Policy, stage: Stage, mesh: Mesh, state_shardings: Any, judge: Judge
) -> StepFn:
  """From prompts to update in one program."""
  del judge
  program = jax.jit(
    functools.partial(
      steps.step,
      policy,
      stage.optimizer,
      microbatches=stage.microbatches,
    ),
    out_shardings=(state_shardings, None, None),
    donate_argnums=(1,),
  )

  def run(state: TrainState, prompts: Prompts, timers: PhaseTimers) -> Any:
    with timers.phase('step', variant=stage.name):
      placed = place(prompts, mesh)
      return jax.block_until_ready(program(stage.algorithm, state, placed))

  return run


def _on_host(
  policy: Policy, stage: Stage, mesh: Mesh, state_shardings: Any, judge: Judge
) -> StepFn:
  """Two programs, with verdicts from the host between them."""
  # The reward is an object with processes behind it, not an operand of jit.
  reward: Any = stage.algorithm.reward
  nothing: Any = None
  algorithm = dataclasses.replace(stage.algorithm, reward=nothing)
  sample = jax.jit(functools.partial(steps.sample, policy))
  learn = jax.jit(
    functools.partial(
      steps.learn, policy, stage.optimizer, microbatches=stage.microbatches
    ),
    out_shardings=(state_shardings, None, None),
    donate_argnums=(1,),
  )

  def run(state: TrainState, prompts: Prompts, timers: PhaseTimers) -> Any:
    with timers.phase('rollout', variant=stage.name):
      rollout = sample(algorithm, state, place(prompts, mesh))
      rollout = jax.block_until_ready(rollout)
    with timers.phase('reward'):
      verdicts = judge(reward, jax.device_get(rollout))
    with timers.phase('update', variant=stage.name):
      rewards = jax.device_put(verdicts, partitioning.rows(mesh))
      out = jax.block_until_ready(learn(algorithm, state, rollout, rewards))
    state, metrics, codes = out
    # How many calls failed or timed out, from rewards that count them.
    counts = getattr(reward, 'metrics', dict)()
    return state, {**metrics, **counts}, codes

  return run
