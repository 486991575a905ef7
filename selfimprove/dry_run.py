"""What a run would do, without doing it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax

from selfimprove import configuration
from selfimprove.experiment import Experiment
from selfimprove.scale.programs import abstract_prompts
from selfimprove.training import step as steps
from selfimprove.training.programs import check_divides
from selfimprove.training.stages import Stage, holds_reference
from selfimprove.training.state import Models, TrainState, abstract_state
from selfimprove.types import Rollout


def report(experiment: Experiment) -> str:
  """The resolved config, shapes, parameter count and memory of a run.

  Args:
    experiment: what would be run; nothing of it is initialised or read.

  Returns:
    Text for the terminal.

  Raises:
    ValueError: the prompts of a stage do not divide over the devices.
  """
  models, mesh = experiment.models(), experiment.mesh.make()
  stages = experiment.unrolled()
  lines = ['# Resolved config', configuration.operative_config(), '# Run']
  lines.append(f'devices: {dict(mesh.shape)} of {jax.devices()[0].device_kind}')
  with_reference = holds_reference(stages, models)
  with jax.set_mesh(mesh):
    state = abstract_state(
      models, stages[0].optimizers, mesh, with_reference=with_reference
    )
    lines += _parameters(state)
    for stage in stages:
      check_divides(stage, mesh)
      state = abstract_state(
        models, stage.optimizers, mesh, with_reference=with_reference
      )
      lines += _stage(experiment, models, stage, state)
  return '\n'.join(lines)


def _parameters(state: TrainState) -> list[str]:
  """Shapes, count and bytes of the parameters."""
  lines = ['', '# Parameters']
  for path, leaf in jax.tree.leaves_with_path(state.params):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    lines.append(f'{name:50s} {leaf.dtype}{list(leaf.shape)}')
    lines[-1] += f' {leaf.sharding.spec}'
  count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  lines += [f'parameters: {count:,}']
  if frozen := sum(leaf.size for leaf in jax.tree.leaves(state.frozen)):
    lines[-1] += f' of adapters, beside {frozen:,} of their base'
  lines += [f'train state: {_bytes(state)}', '']
  return lines


def _stage(
  experiment: Experiment, models: Models, stage: Stage, state: TrainState
) -> list[str]:
  """Batch shapes and memory of one stage's program."""
  prompts = abstract_prompts(experiment, stage)
  rollout = jax.eval_shape(
    functools.partial(steps.sample, models), stage.algorithm, state, prompts
  )
  lines = [
    f'# Stage {stage.name}: at most {stage.steps} steps',
    f'prompts {list(prompts.tokens.shape)} -> rollout '
    f'{list(rollout.tokens.shape)}, attempts at slots '
    f'{list(rollout.spans)}, {stage.microbatches} micro-batches',
    f'terms: {", ".join(stage.algorithm.terms)}; '
    f'needs: {", ".join(stage.algorithm.needs) or "nothing more"}',
  ]
  return [*lines, *_memory(models, stage, state, rollout), '']


def _memory(
  models: Models, stage: Stage, state: TrainState, rollout: Rollout
) -> Sequence[str]:
  """The compiler's own count for the update, the larger of the programs."""
  update = functools.partial(
    steps.learn, models, stage.optimizers, plan=stage.plan
  )
  rows, turns = rollout.finished.shape
  rewards = jax.ShapeDtypeStruct((rows, turns), 'float32')
  program = jax.jit(update, donate_argnums=(1,))
  algorithm = stage.algorithm
  compiled = program.lower(algorithm, state, rollout, rewards).compile()
  memory = compiled.memory_analysis()
  if memory is None:
    return ['memory: this backend does not tell']
  total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  return [
    f'memory of the update on a device: {_mebibytes(total)} '
    f'({_mebibytes(memory.argument_size_in_bytes)} state and batch, '
    f'{_mebibytes(memory.temp_size_in_bytes)} temporary)'
  ]


def _bytes(tree: object) -> str:
  return _mebibytes(
    sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
  )


def _mebibytes(count: int) -> str:
  return f'{count / 2**20:,.1f} MiB'
