"""The compiled programs of a stage."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from selfimprove import partitioning, placement
from selfimprove.algorithms.base import Algorithm, HostReward
from selfimprove.training import agreement, compiler_options
from selfimprove.training import step as steps
from selfimprove.training.judging import Judge
from selfimprove.training.stages import Stage
from selfimprove.training.state import Models, TrainState
from selfimprove.training.timing import PhaseTimers
from selfimprove.types import Metrics, Prompts, Rollout

Batch = Callable[[int], Prompts]
"""(position) -> the prompts that begin there, host arrays."""

StepFn = Callable[
  [TrainState, Batch, PhaseTimers], tuple[TrainState, Metrics, Any]
]
"""(state, batch, timers) -> state, metrics, finite codes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
  """What the programs of a stage are made from.

  Attributes:
    models: the networks.
    stage: whose algorithm, optimizers and plan are used.
    mesh: where the arrays live.
    state_shardings: of the train state; outputs keep them.
    judge: reads a rollout for rewards that are computed from text.
  """

  models: Models
  stage: Stage
  mesh: Mesh
  state_shardings: Any
  judge: Judge

  @property
  def algorithm(self) -> Algorithm:
    """The stage's algorithm as an operand of compiled programs.

    A reward on the host is an object with processes behind it, no operand.
    """
    nothing: Any = None
    algorithm = self.stage.algorithm
    if isinstance(algorithm.reward, HostReward):
      return dataclasses.replace(algorithm, reward=nothing)
    return algorithm

  def compiled(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """`step(algorithm, state, ...)` that donates and returns the state.

    Args:
      step: one of those of `training.step`, without its networks.

    Returns:
      The compiled function.
    """
    bound = functools.partial(
      step, self.models, self.stage.optimizers, plan=self.stage.plan
    )
    whole = partitioning.replicated(self.mesh)
    return jax.jit(
      bound,
      out_shardings=(self.state_shardings, whole, whole),
      donate_argnums=(1,),
      compiler_options=self._options(),
    )

  def sampled(self, sample: Callable[..., Any]) -> Callable[..., Any]:
    """`sample(algorithm, state, prompts)` whose rows lie as prompts do.

    Args:
      sample: one that makes a rollout, without its networks.

    Returns:
      The compiled function.
    """
    return jax.jit(
      functools.partial(sample, self.models, plan=self.stage.plan),
      out_shardings=partitioning.rows(self.mesh),
      compiler_options=self._options(),
    )

  def _options(self) -> dict[str, str]:
    return compiler_options.parsed(self.stage.compiler_options)

  def place(self, arrays: Any) -> Any:
    """Host arrays on the devices, divided over the batch axes of the mesh."""
    return placement.place_rows(arrays, self.mesh)


def build(made: Build) -> StepFn:
  """The step of a stage: one program, or two around a reward on the host.

  Args:
    made: what it is made from.

  Returns:
    The step; it donates the state it is given.

  Raises:
    ValueError: the samples do not divide over the devices.
  """
  check_divides(made.stage, made.mesh)
  if isinstance(made.stage.algorithm.reward, HostReward):
    return _on_host(made)
  return _in_graph(made)


def check_divides(stage: Stage, mesh: Mesh) -> None:
  """Refuses a batch whose parts leave devices without a sample.

  A micro-batch has whole groups, whose rows may lie on several devices.

  Args:
    stage: with its prompts per step.
    mesh: that the samples are divided over.

  Raises:
    ValueError: the samples do not divide over the devices.
  """
  shards = partitioning.row_shards(mesh)
  if not divides(stage, shards):
    part, group = _part(stage)
    rows = 'packed rows' if stage.packed_rows else 'samples'
    drawn = f', and {at_once(stage)} prompts are sampled at once'
    raise ValueError(
      f'Stage {stage.name!r}: a micro-batch has {part} prompts with {group} '
      f'{rows} each{drawn if stage.prompts_at_once else ""}; they do not '
      f'divide over data x fsdp = {shards} devices; change prompts_per_step, '
      'group_size, microbatches, minibatches, prompts_at_once or the mesh.'
    )


def divides(stage: Stage, shards: int) -> bool:
  """Whether the rows of a micro-batch divide over the devices.

  Args:
    stage: with its prompts per step.
    shards: devices along the batch.

  Returns:
    Whether no device is left without a row.
  """
  part, group = _part(stage)
  samples = at_once(stage) * stage.algorithm.rollout.group_size
  return part * group % shards == 0 and samples % shards == 0


def _part(stage: Stage) -> tuple[int, int]:
  """Prompts of a micro-batch, and rows of each."""
  part = stage.prompts_per_step // (stage.microbatches * stage.minibatches)
  return part, stage.packed_rows or stage.algorithm.rollout.group_size


def at_once(stage: Stage) -> int:
  """Prompts whose samples are drawn at one time.

  Args:
    stage: with its prompts per step, and how many at most.

  Returns:
    The number of each part.
  """
  count = stage.prompts_per_step
  return count // stage.plan.parts_to_sample(count)


def _in_graph(made: Build) -> StepFn:
  """From prompts to update in one program."""
  program = made.compiled(steps.step)

  def run(state: TrainState, batch: Batch, timers: PhaseTimers) -> Any:
    with timers.phase('data'):
      prompts = made.place(batch(int(state.position)))
    with timers.phase('step', variant=made.stage.name):
      return jax.block_until_ready(program(made.algorithm, state, prompts))

  return run


def _on_host(made: Build) -> StepFn:
  """Two programs, with verdicts from the host between them."""
  reward: Any = made.stage.algorithm.reward
  sample = made.sampled(steps.sample)
  learn = made.compiled(steps.consume_and_learn)

  def run(state: TrainState, batch: Batch, timers: PhaseTimers) -> Any:
    with timers.phase('data'):
      prompts = made.place(batch(int(state.position)))
    with timers.phase('rollout', variant=made.stage.name):
      rollout = sample(made.algorithm, state, prompts)
      rollout = jax.block_until_ready(rollout)
    with timers.phase('reward'):
      verdicts, counts = judged(made, reward, rollout, timers)
    with timers.phase('update', variant=made.stage.name):
      rewards = made.place(verdicts)
      out = learn(made.algorithm, state, prompts, rollout, rewards)
      state, metrics, codes = jax.block_until_ready(out)
    return state, {**metrics, **counts}, codes

  return run


def judged(
  made: Build, reward: HostReward, rollout: Rollout, timers: PhaseTimers
) -> tuple[np.ndarray, dict[str, float]]:
  """Verdicts from the host, and what became of the calls.

  Args:
    made: knows how rollouts are read.
    reward: on the host.
    rollout: on the devices.
    timers: take what the reward's `timing` says, if it has that.

  Returns:
    f32[b turns], and what the reward's `metrics` says, if it has that: how many
    calls there were, failed or ran out of time.
  """
  verdicts = made.judge(reward, rollout)
  timers.note(agreement.totals(getattr(reward, 'timing', dict)()))
  return verdicts, agreement.totals(getattr(reward, 'metrics', dict)())
