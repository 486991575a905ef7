"""The tasks and arms of the ledger, as data."""

from __future__ import annotations

import dataclasses

HERE = 'experiments/ledger'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A task, its base model, and what every arm may spend on it.

  Attributes:
    name: of its gin file.
    base_steps: updates that make the base model, at most.
    base: gin lines of the base model.
    arm: gin lines of all arms.
    seeds: that are reported, chosen after the settings were frozen.
    budget: tokens that an arm samples.
    prompts: per step.
    group: attempts per prompt.
    rates: learning rates that are tried on the tuning seed.
    chosen_by: the field of a row by which the best of them is chosen.
    shared: gin lines of arms and base model.
  """

  name: str
  base_steps: int
  budget: int
  prompts: int
  group: int
  rates: tuple[float, ...]
  chosen_by: str = 'accuracy'
  base: tuple[str, ...] = ()
  arm: tuple[str, ...] = ()
  shared: tuple[str, ...] = ()
  seeds: tuple[int, ...] = (11, 12, 13, 14, 15)

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
      base_steps=300,
      budget=200_000,
      prompts=8,
      group=16,
      rates=(2e-3, 4e-3, 8e-3),
      # All end near 100 %: what differs is how soon.
      chosen_by='along',
      # The usual ones were seen before attempts had a fixed length.
      seeds=(21, 22, 23, 24, 25),
      # In training attempts end with the padding, which the base model never
      # writes, so that all have 27 tokens: with EOS, runs unlearned to answer.
      arm=(
        'single.Single.eos_ids = (0,)',
        'eval/single.Single.eos_ids = @vocabularies.eos_ids()',
        'ATTEMPT_TOKENS = 27',
      ),
    ),
    Task(
      name='facts',
      base_steps=1000,
      budget=150_000,
      prompts=16,
      group=8,
      rates=(5e-4, 1e-3, 2e-3, 4e-3),
    ),
    Task(
      name='many_answers',
      # Stopped on its way to knowing the rule.
      base_steps=3000,
      base=(
        'stages.Stage.advance = @conditions.MetricAtLeast()',
        "conditions.MetricAtLeast.metric = 'eval/acc_last'",
        'conditions.MetricAtLeast.threshold = 0.22',
        'loop.Schedule.evaluate_every = 50',
        'experiment.Evaluation.problems = 0',
        'toys.many_answers.right = 1.0',
      ),
      budget=400_000,
      prompts=32,
      group=8,
      rates=(1e-3, 2e-3, 4e-3),
      shared=(
        'toys.many_answers.operands = 3',
        'toys.many_answers.noise = 1',
        'toys.many_answers.problems = 16384',
      ),
    ),
  )
}

_D, _F, _M = ('decisions',), ('facts',), ('many_answers',)
# Nothing pulls back to the base model: in all arms alike.
_NO_KL = ('KL_WEIGHT = 0.0',)
_HINTS = ("HINT_OPENING = '?'", "HINT_CLOSING = '='")
# Every batch is gone through four times: its samples grow stale.
_STALE = ('EPOCHS = 4',)
# Tied groups are dropped and not sampled past: so NFT and Dr. GRPO learn from
# the same samples and can be compared number by number.
_NFT_ONCE = ('base.Algorithm.collect = None',)
_DR_GRPO_ONCE = ('base.Algorithm.label = @labels.DropTiedGroups()',)


def _guided(name: str, *bindings: str, algorithm: str = 'guide_grpo') -> Arm:
  return Arm(
    name=name, algorithm=algorithm, tasks=_F, bindings=(*_HINTS, *bindings)
  )


# Those first that a claim is about.
ARMS = (
  Arm(name='grpo', algorithm='grpo', tasks=_D + _F + _M, bindings=_NO_KL),
  Arm(name='tempo', algorithm='tempo', tasks=_D),
  _guided('guide_grpo_raw', 'guide.Guided.correction = @corrections.Raw()'),
  _guided('guide_grpo_shaped'),
  _guided(
    'guide_grpo_none', 'guide.Guided.correction = @corrections.Uncorrected()'
  ),
  Arm(
    name='dr_grpo_once',
    algorithm='dr_grpo',
    tasks=_D + _M,
    bindings=_DR_GRPO_ONCE,
  ),
  Arm(name='nft_once', algorithm='nft', tasks=_D + _M, bindings=_NFT_ONCE),
  Arm(
    name='dr_grpo_stale',
    algorithm='dr_grpo',
    tasks=_D + _M,
    bindings=(*_DR_GRPO_ONCE, *_STALE),
  ),
  Arm(
    name='nft_stale',
    algorithm='nft',
    tasks=_D + _M,
    bindings=(*_NFT_ONCE, *_STALE),
  ),
  Arm(name='rft', algorithm='rft', tasks=_D + _M),
  Arm(name='rft_stale', algorithm='rft', tasks=_D + _M, bindings=_STALE),
  Arm(name='nft', algorithm='nft', tasks=_D + _M),
  Arm(name='dr_grpo', algorithm='dr_grpo', tasks=_D + _M),
  Arm(name='dapo', algorithm='dapo', tasks=_D + _F + _M),
  Arm(name='rloo', algorithm='rloo', tasks=_D + _F + _M),
  Arm(name='reinforce', algorithm='reinforce', tasks=_D),
  Arm(name='gspo', algorithm='gspo', tasks=_D),
  Arm(name='cispo', algorithm='cispo', tasks=_D),
  Arm(name='ppo', algorithm='ppo', tasks=_D),
  Arm(name='dpo', algorithm='dpo', tasks=_D + _M),
  _guided(
    'guide_grpo_clipped', 'guide.Guided.correction = @corrections.Clipped()'
  ),
  _guided('guide_ppo', algorithm='guide_ppo'),
  _guided('star', algorithm='star'),
)
