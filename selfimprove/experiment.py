"""What a gin file describes: the one object that all entry points read."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from selfimprove import partitioning
from selfimprove.algorithms.base import (
  HostReward,
  RewardFn,
  RolloutFn,
  StreamVerdict,
)
from selfimprove.data import vocabularies
from selfimprove.data.pipeline import Table
from selfimprove.data.text_task import TextTask
from selfimprove.evaluation.attempts import ReadStreams
from selfimprove.models.config import TransformerConfig
from selfimprove.models.heads import make_critic
from selfimprove.models.lora import LoRA, make_adapters, targets
from selfimprove.models.transformer import make_policy
from selfimprove.rewards.failures import FAILURES_FILE
from selfimprove.rewards.texts import attempt_texts
from selfimprove.rewards.verifiers import ExactMatch, HostVerifier
from selfimprove.training.detectors import Detector, default_detectors
from selfimprove.training.judging import divided
from selfimprove.training.loop import Schedule
from selfimprove.training.stages import Stage, needs_critic, unroll
from selfimprove.training.state import Models, check_offload
from selfimprove.training.streams import before_update
from selfimprove.types import Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """How held-out problems are tried.

  Attributes:
    rollout: one sample per problem, at the temperature of its `sampling`; what
      a reward model is tried on.
    reward: what judges the attempts, or whether a reward model was right about
      them (`rewards.verdicts`).
    problems: of the validation split that are tried during training; 0 for
      all.
    batch_size: problems at a time.
  """

  rollout: RolloutFn
  reward: RewardFn | HostReward | StreamVerdict
  problems: int = 0
  batch_size: int = 512

  def with_attempts(self, count: int) -> Evaluation:
    """Returns the same with other numbers of attempts at a problem.

    Args:
      count: attempts, each told to correct the one before; at least 2.

    Raises:
      ValueError: the rollout makes single attempts, or `count` is below 2.
    """
    rollout: Any = self.rollout
    limits = getattr(rollout, 'max_new_tokens', None)
    if not isinstance(limits, tuple) or count < 2:
      raise ValueError(
        f'{count} attempts of {type(rollout).__name__}: a number of attempts, '
        'from 2 on, can be asked of revise.Revise; bind EVAL_ROLLOUT to it.'
      )
    longer = (*limits, *[limits[-1]] * count)[:count]
    return dataclasses.replace(
      self, rollout=dataclasses.replace(rollout, max_new_tokens=longer)
    )

  def sampled(self, *, samples: int, temperature: float) -> RolloutFn:
    """Returns `rollout` with several samples per problem.

    Args:
      samples: per problem, at least 1.
      temperature: of the samples; 0 is greedy.

    Raises:
      ValueError: there is no sample, the temperature is negative, or nothing
        is sampled.
    """
    if samples < 1:
      raise ValueError(f'samples={samples}, but a problem needs at least 1.')
    rollout: Any = self.rollout
    if not hasattr(rollout, 'sampling'):
      raise ValueError(
        f'{type(rollout).__name__} samples nothing: it shows given answers to '
        'a reward model; evaluate it with --samples=1.'
      )
    how = dataclasses.replace(rollout.sampling, temperature=temperature)
    return dataclasses.replace(rollout, group_size=samples, sampling=how)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
  """Devices along each axis of the mesh.

  Attributes:
    data: whole replicas; -1 for all devices that the others leave.
    fsdp: shards of the parameters, along the batch.
    sequence: shards of the tokens of a row, for long rows.
    model: shards of heads, feed-forward and vocabulary.
  """

  data: int = -1
  fsdp: int = 1
  sequence: int = 1
  model: int = 1

  def make(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of this shape.

    Args:
      devices: which; default all that are here.

    Returns:
      A mesh of all of them.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    return partitioning.make_mesh(
      data=self.data,
      fsdp=self.fsdp,
      sequence=self.sequence,
      model=self.model,
      devices=devices,
    )

  def make_or_replicate(self) -> Mesh:
    """Returns `make()`, or where these axes do not fit, replicas alone."""
    try:
      return self.make()
    except ValueError:
      return partitioning.make_mesh()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """A run from beginning to end, as data.

  Attributes:
    model: shape of the policy.
    task: problems, vocabulary and widths.
    stages: what is trained, in order.
    evaluation: how held-out problems are tried.
    rounds: how often the list of stages is gone through.
    seed: of parameters, data order and sampling.
    mesh: devices along each axis.
    schedule: when to evaluate and save.
    keep_last: newest checkpoints kept, besides those at the end of a stage.
    keep_best: best checkpoints kept besides.
    init_from: checkpoint directory, of a run or of a Hugging Face model, whose
      parameters the run begins with, and against which its reference is set;
      empty to initialise from the seed.
    offload: what is kept in the memory of the host between uses, some of
      `state.OFFLOADED`.
    lora: adapters that are trained in place of all parameters of the policy;
      None trains those. A critic has no adapters.
    adapters_from: folder of adapters in the format of `peft` that the run
      begins with; empty for some that change nothing yet. Its reference is
      without them.
    detectors: of runs that learn nothing.
    shown: metrics on the progress line.
  """

  model: TransformerConfig
  task: TextTask
  stages: Sequence[Stage]
  evaluation: Evaluation
  rounds: int = 1
  seed: int = 0
  mesh: MeshShape = MeshShape()
  schedule: Schedule = dataclasses.field(default_factory=Schedule)
  keep_last: int = 1
  keep_best: int = 1
  init_from: str = ''
  offload: Sequence[str] = ()
  lora: LoRA | None = None
  adapters_from: str = ''
  detectors: Sequence[Detector] = dataclasses.field(
    default_factory=default_detectors
  )
  shown: Sequence[str] = (
    'loss/total',
    'reward/verifier_t1',
    'reward/verifier_t2',
    'eval/acc_last',
  )

  def __post_init__(self) -> None:
    _check_vocabulary(self.model, self.task)
    _warn_of_foreign_text(self.init_from, self.task)
    if self.lora is not None:
      targets(self.lora, make_policy(self.model))
    elif self.adapters_from:
      raise ValueError(
        f'adapters_from={self.adapters_from!r}, but this run has no adapters; '
        'add --gin_file=gin_configs/models/lora.gin.'
      )
    algorithms = [stage.algorithm for stage in self.stages]
    for how in (*algorithms, self.evaluation):
      _check_room(how.rollout, how.reward, self.task)

  def unrolled(self) -> tuple[Stage, ...]:
    """Returns the stages of all rounds, in order."""
    return unroll(self.stages, self.rounds)

  def models(self) -> Models:
    """Returns the policy, and what the run needs beside it.

    That is a critic of its shape if a stage needs one, and its adapters if
    these are what is trained.
    """
    critic, adapters, policy = None, None, make_policy(self.model)
    if needs_critic(self.stages):
      critic = make_critic(self.model)
    if self.lora is not None:
      adapters = make_adapters(self.lora, policy)
    return Models(
      policy=policy,
      critic=critic,
      adapters=adapters,
      offload=check_offload(self.offload),
    )

  def close(self) -> None:
    """Ends the processes that rewards on the host have started."""
    for reward in self._host_rewards():
      getattr(reward, 'close', lambda: None)()

  def save_failures(self, workdir: str) -> None:
    """Lets rewards on the host save the samples that they cannot judge.

    Args:
      workdir: folder in which `verifier_failures.jsonl` is made when needed;
        of several processes each but the first puts its number behind the
        name.
    """
    number = jax.process_index()
    name = f'{FAILURES_FILE}.{number}' if number else FAILURES_FILE
    for reward in self._host_rewards():
      save = getattr(reward, 'save_failures', None)
      if save is not None:
        save(f'{workdir}/{name}')

  def _host_rewards(self) -> list[HostReward]:
    rewards = [stage.algorithm.reward for stage in self.stages]
    every = (*rewards, self.evaluation.reward)
    return [reward for reward in every if isinstance(reward, HostReward)]


def _check_vocabulary(model: TransformerConfig, task: TextTask) -> None:
  """Refuses a model that has no logit for some token."""
  needed = vocabularies.size(vocabulary=task.vocabulary)
  if model.vocab_size < needed:
    raise ValueError(
      f'The model has vocab_size={model.vocab_size}, but the vocabulary of '
      f'task {task.name!r} has {needed} ids; give the model at least as many.'
    )


class ForeignTextWarning(UserWarning):
  """A checkpoint has a tokenizer, and the task is written with another."""


def _warn_of_foreign_text(folder: str, task: TextTask) -> None:
  files = ('tokenizer.json', 'tokenizer.model')
  has_own = any(os.path.exists(os.path.join(folder, name)) for name in files)
  if folder and has_own and not hasattr(task.vocabulary, 'folder'):
    warnings.warn(
      f'The checkpoint {folder} has a tokenizer, and the problems of task '
      f'{task.name!r} are written with {type(task.vocabulary).__name__}, whose '
      'ids it has never read; put gin_configs/tasks/hugging_face_text.gin '
      'behind the file of the task.',
      ForeignTextWarning,
      stacklevel=2,
    )


def _check_room(
  rollout: RolloutFn,
  reward: RewardFn | HostReward | StreamVerdict,
  task: TextTask,
) -> None:
  """Refuses attempts that are too short for the longest right answer."""
  # Demonstrations have the room of the answers, and no such field.
  lengths = np.atleast_1d(getattr(rollout, 'max_new_tokens', ()))
  needed = task.max_answer_tokens + 1
  if isinstance(reward, ExactMatch) and np.any(lengths < needed):
    raise ValueError(
      f'Attempts of {lengths.min()} tokens cannot hold the {needed} of an '
      f'answer and EOS that task {task.name!r} allows, so ExactMatch would '
      'call long answers wrong; raise ATTEMPT_TOKENS (max_new_tokens) or lower '
      'MAX_ANSWER_TOKENS (max_answer_tokens).'
    )


def check_judged(
  reward: RewardFn | HostReward | StreamVerdict, table: Table
) -> None:
  """Refuses problems that a reward would call wrong whatever is answered.

  Args:
    reward: what judges the attempts.
    table: the problems.

  Raises:
    ValueError: the reward compares tokens and no problem has an answer in
      tokens, or it is a `HostVerifier` that cannot read a problem's row.
  """
  if isinstance(reward, HostVerifier):
    reward.check(table.fields)
  if isinstance(reward, ExactMatch) and not np.any(table.answer_mask):
    raise ValueError(
      f'None of the {len(table)} problems has a token-exact answer, so '
      'ExactMatch would reward every attempt with 0; bind REWARD to '
      '@verifiers.HostVerifier(), or give the problems answers.'
    )


def make_streams(models: Models) -> ReadStreams:
  """The function that reads rollouts for verdicts on reward models.

  Args:
    models: the networks.

  Returns:
    (networks, rollout, names) -> streams, which are those before an update.
  """

  def read(networks: Any, rollout: Rollout, names: tuple[str, ...]) -> Any:
    reference = networks.get('reference')
    return before_update(
      models, networks, reference, rollout, names=names, parts=1
    )

  return read


def make_judge(
  vocabulary: vocabularies.Vocabulary, table: Table, mesh: Mesh
) -> Callable[[HostReward, Rollout], np.ndarray]:
  """The function that shows rollouts to rewards on the host.

  Args:
    vocabulary: that writes the text.
    table: whose rows were sampled for; their fields are the references.
    mesh: of the devices that rollouts are on.

  Returns:
    (reward, rollout on the devices) -> f32[b turns]. Each process judges the
    rows that are its own, and all get the verdicts on all.
  """
  decode = functools.partial(vocabularies.decode, vocabulary=vocabulary)

  def judge(reward: HostReward, rollout: Rollout) -> np.ndarray:
    return reward.judge(
      attempt_texts(rollout, decode),
      table.references(np.asarray(rollout.example_id)),
      finished=np.asarray(rollout.finished),
    )

  return divided(judge, mesh)
