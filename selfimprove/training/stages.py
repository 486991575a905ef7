"""Stages of a run: data that says what to train, how long, and against whom."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from selfimprove.algorithms.base import Algorithm
from selfimprove.training import compiler_options
from selfimprove.training.conditions import Condition
from selfimprove.training.state import Models, Optimizers, TrainState
from selfimprove.training.step import Plan
from selfimprove.types import Params


def keep_reference(state: TrainState) -> Params:
  """The reference policy, unchanged.

  Args:
    state: when a stage begins.

  Returns:
    Its reference parameters.
  """
  return state.ref_params


def current_policy(state: TrainState) -> Params:
  """A copy of the policy: what follows is measured against it.

  Args:
    state: when a stage begins.

  Returns:
    Its parameters, in buffers of their own.
  """
  return jax.tree.map(jnp.copy, state.params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """A part of a run in which one algorithm is optimised.

  The optimizer starts afresh at the beginning of a stage.

  Attributes:
    name: for metrics and messages.
    algorithm: what is sampled and minimised.
    optimizer: of the policy; None trains the critic alone, as for a reward
      model, and the policy is not even read.
    steps: updates, at least 1; the most, if there is a condition.
    prompts_per_step: problems of a batch, at least 1.
    microbatches: parts in which a gradient is computed.
    epochs: times that a batch is gone through.
    minibatches: updates in each epoch, over as many parts of the batch; with
      `microbatches` it divides the prompts.
    packed_rows: rows, fewer than the samples of a group, into which these are
      packed for the update: less to compute where most are short. A batch that
      does not fit is read unpacked; nothing is lost. 0 for a row each.
    prompts_at_once: prompts whose samples are drawn at one time, which bounds
      the memory of the cache and changes no sample; 0 for all of a step.
    critic_optimizer: of the critic; None trains none.
    reference: (state) -> reference parameters, applied when the stage begins.
    advance: condition that ends the stage early.
    problems: (fields of a problem) -> whether the stage draws from it, such as
      `selection.Having` for a level; None for all.
    compiler_options: name=value each, for the programs that sample and learn.
      They are a platform's own: another's compiler refuses them.
  """

  name: str
  algorithm: Algorithm
  optimizer: optax.GradientTransformation | None
  steps: int
  prompts_per_step: int
  microbatches: int = 1
  epochs: int = 1
  minibatches: int = 1
  packed_rows: int = 0
  prompts_at_once: int = 0
  critic_optimizer: optax.GradientTransformation | None = None
  reference: Callable[[TrainState], Params] = keep_reference
  advance: Condition | None = None
  problems: Callable[[Mapping[str, Any]], bool] | None = None
  compiler_options: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    for name in (
      'steps',
      'prompts_per_step',
      'microbatches',
      'epochs',
      'minibatches',
    ):
      value = getattr(self, name)
      if not isinstance(value, int) or value < 1:
        raise ValueError(
          f'Stage {self.name!r}: {name}={value!r} but must be an integer, at '
          'least 1; to leave a stage out, take it off the list.'
        )
    for name, meaning in (
      ('packed_rows', 'rows per group, or 0 for no packing'),
      ('prompts_at_once', 'prompts sampled together, or 0 for all'),
    ):
      value = getattr(self, name)
      if not isinstance(value, int) or value < 0:
        raise ValueError(
          f'Stage {self.name!r}: {name}={value!r} but must be an integer: '
          f'{meaning}.'
        )
    compiler_options.parsed(self.compiler_options)
    if self.optimizer is None and self.critic_optimizer is None:
      raise ValueError(
        f'Stage {self.name!r} has neither an optimizer nor a critic_optimizer, '
        'so it trains nothing; bind one.'
      )
    parts = self.minibatches * self.microbatches
    if self.prompts_per_step % parts:
      raise ValueError(
        f'Stage {self.name!r}: prompts_per_step={self.prompts_per_step} does '
        f'not divide into minibatches={self.minibatches} times '
        f'microbatches={self.microbatches}; choose divisors.'
      )

  @property
  def plan(self) -> Plan:
    """How a batch becomes updates."""
    return Plan(
      epochs=self.epochs,
      minibatches=self.minibatches,
      microbatches=self.microbatches,
      packed_rows=self.packed_rows,
      prompts_at_once=self.prompts_at_once,
    )

  @property
  def optimizers(self) -> Optimizers:
    """What updates the policy and the critic."""
    return Optimizers(policy=self.optimizer, critic=self.critic_optimizer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cursor:
  """Where in the list of stages a run is; survives JSON.

  Attributes:
    stage: index of the current stage; the number of stages at the end.
    stage_step: updates done in it.
    condition: state of its condition to advance.
  """

  stage: int = 0
  stage_step: int = 0
  condition: dict[str, Any] = dataclasses.field(default_factory=dict)

  def after_step(self, stage: Stage, metrics: dict[str, float]) -> Cursor:
    """Returns where the run is after one more update of `stage`.

    Args:
      stage: the current one.
      metrics: of the update.

    Returns:
      The next cursor, at the start of the next stage if this one is done.
    """
    done, condition = stage.steps <= self.stage_step + 1, self.condition
    if stage.advance is not None:
      met, condition = stage.advance.update(condition, metrics)
      done = done or met
    if done:
      return Cursor(stage=self.stage + 1)
    return Cursor(
      stage=self.stage,
      stage_step=self.stage_step + 1,
      condition=dict(condition),
    )


def unroll(stages: Sequence[Stage], rounds: int) -> tuple[Stage, ...]:
  """The stages of a run that goes through its list several times.

  Args:
    stages: at least one.
    rounds: how often, at least 1 (SCoRe's first version has two).

  Returns:
    The stages in order; their names get the round's number if there are more.

  Raises:
    ValueError: nothing would be trained.
  """
  if not stages or rounds < 1:
    raise ValueError(
      f'{len(stages)} stages and rounds={rounds} train nothing; give at '
      'least one stage and one round.'
    )
  if rounds == 1:
    return tuple(stages)
  return tuple(
    dataclasses.replace(stage, name=f'{stage.name}_{i + 1}')
    for i in range(rounds)
    for stage in stages
  )


def needs_reference(stages: Sequence[Stage]) -> bool:
  """Whether any stage compares with a reference policy, or samples from it.

  Args:
    stages: of the run.

  Returns:
    True if `ref_logprobs`, `exact_kl` or samples of the reference are needed.
  """
  if any(stage.algorithm.samples_of == 'reference' for stage in stages):
    return True
  needs = {name for stage in stages for name in stage.algorithm.needs}
  return bool(needs & {'ref_logprobs', 'exact_kl'})


def holds_reference(stages: Sequence[Stage], models: Models) -> bool:
  """Whether the state of a run has parameters for its reference policy.

  Adapters are measured against their base, which is there anyway, until a
  stage takes another reference; of that the adapters are kept.

  Args:
    stages: of the run.
    models: its networks.

  Returns:
    True if there is a reference that is not the base of adapters.
  """
  if not needs_reference(stages):
    return False
  moves = any(stage.reference is not keep_reference for stage in stages)
  return models.adapters is None or moves


def needs_critic(stages: Sequence[Stage]) -> bool:
  """Whether any stage asks a critic or trains one.

  Args:
    stages: of the run.

  Returns:
    True if `values` are needed or a critic has an optimizer.
  """
  return any(
    'values' in stage.algorithm.needs or stage.critic_optimizer is not None
    for stage in stages
  )
