"""The tasks and arms of the ledger, as data."""

from __future__ import annotations

import dataclasses

HERE = 'experiments/ledger'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A task, its base model, and what every arm may spend on it.

  Attributes:
    name: of its gin file.
    base_steps: updates that make the base model.
    budget: tokens that an arm samples.
    prompts: per step.
    group: attempts per prompt.
    rates: learning rates that are tried on the tuning seed.
    bindings: gin lines of arms.
  """

  name: str
  base_steps: int
  budget: int
  prompts: int
  group: int
  rates: tuple[float, ...]
  bindings: tuple[str, ...] = ()

  @property
  def file(self) -> str:
    """The gin file."""
    return f'gin_configs/tasks/{self.name}.gin'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
  """An algorithm as it is run here.

  Attributes:
    name: in the ledger.
    algorithm: of its gin file.
    tasks: names.
    bindings: gin lines besides those of the task.
  """

  name: str
  algorithm: str
  tasks: tuple[str, ...]
  bindings: tuple[str, ...] = ()

  @property
  def file(self) -> str:
    """The gin file."""
    return f'gin_configs/algorithms/{self.algorithm}.gin'


TASKS = {
  task.name: task
  for task in (
    Task(
      name='decisions',
      base_steps=400,
      budget=200_000,
      prompts=8,
      group=16,
      rates=(2e-3, 4e-3, 8e-3),
    ),
    Task(
      name='facts',
      base_steps=1000,
      budget=150_000,
      prompts=16,
      group=8,
      rates=(5e-4, 1e-3, 2e-3),
    ),
    Task(
      name='many_answers',
      base_steps=1000,
      budget=100_000,
      prompts=16,
      group=8,
      rates=(5e-4, 1e-3, 2e-3),
    ),
  )
}

_D, _F, _M = ('decisions',), ('facts',), ('many_answers',)
_ALL = _D + _F + _M
# Behind the base model, nothing pulls back to it: of all arms alike.
_NO_KL = ('KL_WEIGHT = 0.0',)
_HINTS = ("HINT_OPENING = '?'", "HINT_CLOSING = '='")
# Every batch is gone through several times: its samples grow stale.
_STALE = ('EPOCHS = 4',)
# NFT as it is without its filter, to be compared number by number.
_UNFILTERED = (
  'base.Algorithm.collect = None',
  'base.Algorithm.label = @labels.KeepAll()',
)

ARMS = (
  Arm(name='grpo', algorithm='grpo', tasks=_ALL, bindings=_NO_KL),
  Arm(name='tempo', algorithm='tempo', tasks=_D),
  Arm(name='rloo', algorithm='rloo', tasks=_D),
  Arm(name='dapo', algorithm='dapo', tasks=_ALL),
  Arm(name='guide_grpo_raw', algorithm='guide_grpo', tasks=_F, bindings=(*_HINTS, 'guide.Guided.correction = @guide.Raw()')),
  Arm(name='guide_grpo_shaped', algorithm='guide_grpo', tasks=_F, bindings=_HINTS),
  Arm(name='guide_grpo_none', algorithm='guide_grpo', tasks=_F, bindings=(*_HINTS, 'guide.Guided.correction = @guide.Uncorrected()')),
)
