"""Every program that a run would compile, with the shapes of its operands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from selfimprove import partitioning
from selfimprove.algorithms.base import HostReward
from selfimprove.experiment import Experiment
from selfimprove.training import collect, collecting
from selfimprove.training import step as steps
from selfimprove.training.programs import Build, check_divides
from selfimprove.training.stages import Stage, holds_reference
from selfimprove.training.state import Models, TrainState, abstract_state
from selfimprove.types import Prompts, Rollout, Text


class Program(NamedTuple):
  """A function as a run would compile it.

  Attributes:
    stage: that runs it.
    name: which of its programs.
    mesh: of devices that need not be there.
    function: jitted.
    operands: as `jax.ShapeDtypeStruct`s that are laid out over the mesh.
    state: of the run, which stays in memory whether it is read or not.
    rollout: shapes of the samples of the stage.
  """

  stage: Stage
  name: str
  mesh: Mesh
  function: Any
  operands: tuple[Any, ...]
  state: TrainState
  rollout: Rollout

  @property
  def title(self) -> str:
    """Stage and name."""
    return f'{self.stage.name}/{self.name}'

  @property
  def others(self) -> tuple[Any, ...]:
    """The operands that are not the state."""
    return tuple(x for x in self.operands if x is not self.state)

  def lower(self) -> Any:
    """Returns the lowered program; `compile()` it for what it takes."""
    # Nothing may be computed in this context: its devices are not there.
    with jax.set_mesh(self.mesh):
      return self.function.lower(*self.operands)


def of_run(experiment: Experiment, mesh: Mesh) -> Iterator[Program]:
  """The programs of all stages of a run, in the order in which they run.

  Args:
    experiment: nothing of it is initialised or read.
    mesh: of devices that need not be there.

  Yields:
    Programs.

  Raises:
    ValueError: the samples of a stage do not divide over the mesh.
  """
  models, stages = experiment.models(), experiment.unrolled()
  with_reference = holds_reference(stages, models)
  for stage in stages:
    check_divides(stage, mesh)
    state = abstract_state(
      models, stage.optimizers, mesh, with_reference=with_reference
    )
    prompts = abstract_prompts(experiment, stage, mesh)
    yield from of_stage(models, stage, state, prompts, mesh)


def of_stage(
  models: Models,
  stage: Stage,
  state: TrainState,
  prompts: Prompts,
  mesh: Mesh,
) -> Iterator[Program]:
  """The programs of one stage.

  Args:
    models: the networks.
    stage: what they do.
    state: abstract, without a buffer.
    prompts: abstract.
    mesh: where all lives.

  Yields:
    One program, or those around what happens on the host.
  """
  made = Build(
    models=models,
    stage=stage,
    mesh=mesh,
    state_shardings=jax.tree.map(lambda x: x.sharding, state),
    judge=_nobody,
  )
  algorithm = _abstract(made.algorithm, mesh)
  sample = made.sampled(steps.sample)
  shapes = jax.eval_shape(sample, algorithm, state, prompts)
  rollout = _rows(shapes, mesh)

  def program(name: str, function: Any, *operands: Any) -> Program:
    return Program(
      stage=stage,
      name=name,
      mesh=mesh,
      function=function,
      operands=(algorithm, *operands),
      state=next((x for x in operands if isinstance(x, TrainState)), state),
      rollout=rollout,
    )

  if algorithm.collect is not None:
    yield from _collecting(made, program, state, prompts, rollout)
    return
  if not isinstance(stage.algorithm.reward, HostReward):
    yield program('step', made.compiled(steps.step), state, prompts)
    return
  yield program('sample', sample, state, prompts)
  learn = made.compiled(steps.consume_and_learn)
  yield program('learn', learn, state, prompts, rollout, _rewards(rollout))


def _collecting(
  made: Build,
  program: Any,
  state: TrainState,
  prompts: Prompts,
  rollout: Rollout,
) -> Iterator[Program]:
  """Those of an algorithm that samples until its batch is full."""
  models, mesh = made.models, made.mesh
  algorithm = _abstract(made.algorithm, mesh)
  buffer = collect.abstract_buffer(
    models.policy, algorithm, state.params, prompts, mesh
  )
  state = dataclasses.replace(state, buffer=buffer)
  of_buffer = jax.tree.map(lambda x: x.sharding, state)
  made = dataclasses.replace(made, state_shardings=of_buffer)
  compiled = collecting.programs(made)
  yield program('sample', compiled.sample, state, prompts)
  rewards = _rewards(rollout)
  if not isinstance(made.stage.algorithm.reward, HostReward):
    yield program('reward', compiled.verify, rollout, prompts)
  if collect.retry_of(algorithm) is not None:
    yield program('retry', compiled.retry, state, prompts)
    groups = _rows(
      jax.ShapeDtypeStruct(prompts.example_id.shape, 'int32'), mesh
    )
    judged = (rollout, rewards)
    yield program('merge', compiled.merge, judged, judged, groups)
  yield program('collect', compiled.put, state, rollout, rewards)
  yield program('learn', compiled.learn, state)


def abstract_prompts(
  experiment: Experiment, stage: Stage, mesh: Mesh | None = None
) -> Prompts:
  """The shapes of a batch of a stage.

  Args:
    experiment: whose task gives the widths.
    stage: gives the number of prompts.
    mesh: over which the rows are divided; None leaves it open.

  Returns:
    `Prompts` of `jax.ShapeDtypeStruct`s.
  """
  task, count = experiment.task, stage.prompts_per_step
  prompt = (count, task.max_prompt_tokens)
  answer = (count, task.max_answer_tokens)

  def make() -> Prompts:
    return Prompts(
      tokens=jnp.zeros(prompt, jnp.int32),
      mask=jnp.zeros(prompt, bool),
      example_id=jnp.zeros((count,), jnp.int32),
      answer=jnp.zeros(answer, jnp.int32),
      answer_mask=jnp.zeros(answer, bool),
      extra={
        name: Text(
          tokens=jnp.zeros((count, width), jnp.int32),
          mask=jnp.zeros((count, width), bool),
        )
        for name, width in task.extra_tokens.items()
      },
    )

  shapes = jax.eval_shape(make)
  return shapes if mesh is None else _rows(shapes, mesh)


def _rewards(rollout: Any) -> jax.ShapeDtypeStruct:
  like = rollout.finished
  return jax.ShapeDtypeStruct(like.shape, 'float32', sharding=like.sharding)


def _rows(shapes: Any, mesh: Mesh) -> Any:
  """Shapes divided over the mesh along their first axis."""
  return jax.tree.map(
    lambda x: _placed(x, partitioning.rows(mesh, x.shape[0])), shapes
  )


def _abstract(tree: Any, mesh: Mesh) -> Any:
  """Shapes of small arrays and numbers, a copy on every device."""
  whole = partitioning.replicated(mesh)
  shapes = jax.eval_shape(lambda x: x, tree)
  return jax.tree.map(lambda x: _placed(x, whole), shapes)


def _placed(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(
    x.shape, x.dtype, sharding=sharding, weak_type=x.weak_type
  )


def _nobody(reward: Any, rollout: Any) -> Any:
  raise AssertionError(f'nothing is judged here: {reward}, {rollout}')
