"""Attempts at held-out problems, and whether they were right."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool

from selfimprove import partitioning, placement
from selfimprove.algorithms.base import (
  HostReward,
  RewardFn,
  RolloutFn,
  StreamVerdict,
)
from selfimprove.data.pipeline import Table, in_order
from selfimprove.evaluation.intervals import Measurement
from selfimprove.evaluation.metrics import attempt_metrics, changed
from selfimprove.rewards.texts import attempt_ids
from selfimprove.types import Params, Policy, Prompts, Rollout

RIGHT = 0.5
"""An attempt with a reward above it counts as right."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempts:
  """What was tried, problem by problem.

  Attributes:
    correct: whether each attempt was right.
    answers: token ids of each attempt, EOS included, by problem, sample and
      turn.
  """

  correct: Bool[np.ndarray, 'n k turns']
  answers: list[list[list[tuple[int, ...]]]]

  def where(self, chosen: Sequence[bool]) -> Attempts:
    """Returns the attempts at some of the problems.

    Args:
      chosen: for each problem, whether it is one of them.
    """
    answers = [found for found, keep in zip(self.answers, chosen) if keep]
    correct = self.correct[np.asarray(chosen, bool)]
    return Attempts(correct=correct, answers=answers)


Networks = Mapping[str, Params]
"""Parameters of the `policy`, and where they are asked for of the `critic` and
of the `reference` policy."""

Collect = Callable[[Networks, jax.Array], Attempts]
"""(networks, key) -> attempts at every problem of a table."""

ReadStreams = Callable[[Networks, Rollout, tuple[str, ...]], Any]
"""(networks, rollout, names) -> streams f32[b t] by name."""


def make_collect(
  policy: Policy,
  *,
  rollout: RolloutFn,
  reward: RewardFn | HostReward | StreamVerdict,
  judge: Callable[[HostReward, Rollout], np.ndarray],
  streams: ReadStreams | None = None,
  table: Table,
  batch_size: int,
  mesh: Mesh,
) -> Collect:
  """The function that tries every problem of a table; compiled once.

  Args:
    policy: the model.
    rollout: how attempts are sampled, with how many samples per problem.
    reward: how they are judged.
    judge: reads a rollout for rewards that are computed from text.
    streams: reads it for a `StreamVerdict`.
    table: the problems.
    batch_size: problems at a time, rounded up to what the mesh divides; the
      result does not depend on it.
    mesh: where the arrays live.

  Returns:
    (networks, key) -> attempts.
  """
  shards = partitioning.row_shards(mesh)
  # Samples divide over the devices; so many problems have enough of them.
  fewest = shards // math.gcd(shards, rollout.group_size)
  batch_size = -(-min(batch_size, len(table)) // fewest) * fewest
  # The rollout is an operand, so that equal shapes share a program.
  sample = jax.jit(
    lambda how, params, prompts, key: how(policy, params, prompts, key),
    out_shardings=partitioning.rows(mesh),
  )
  verdicts = _verdicts(reward, judge, streams, mesh)

  def collect(networks: Networks, key: jax.Array) -> Attempts:
    correct, answers = [], []
    for prompts, valid in in_order(table, batch_size=batch_size):
      placed = placement.place_rows(prompts, mesh)
      with jax.set_mesh(mesh):
        samples = sample(rollout, networks['policy'], placed, key)
        rewards = verdicts(networks, samples, placed)
      by_problem = rewards.reshape(len(valid), rollout.group_size, -1)
      correct.append(by_problem[valid] > RIGHT)
      answers.extend(_grouped(placement.gathered(samples, mesh), valid))
    return Attempts(correct=np.concatenate(correct), answers=answers)

  return collect


def _verdicts(
  reward: RewardFn | HostReward | StreamVerdict,
  judge: Callable[[HostReward, Rollout], np.ndarray],
  streams: ReadStreams | None,
  mesh: Mesh,
) -> Callable[[Networks, Rollout, Prompts], np.ndarray]:
  """The function that judges samples, in graph or on the host."""
  if isinstance(reward, HostReward):
    return lambda _, samples, __: judge(reward, samples)
  # The reward is an operand, so that equal shapes share a program.
  if isinstance(reward, StreamVerdict):
    read: Any = streams
    verify = jax.jit(
      lambda how, networks, samples, prompts: how.verdicts(
        samples, prompts, read(networks, samples, how.needs)
      )
    )
    return lambda *inputs: placement.gathered(verify(reward, *inputs), mesh)
  verify = jax.jit(lambda how, samples, prompts: how(samples, prompts))
  return lambda _, *inputs: placement.gathered(verify(reward, *inputs), mesh)


def _grouped(samples: Rollout, valid: np.ndarray) -> list[Any]:
  """Ids of attempts by problem, those that only filled the batch left out."""
  ids, group = attempt_ids(samples), samples.group_size
  return [
    ids[i * group : (i + 1) * group] for i in range(len(valid)) if valid[i]
  ]


def measure(attempts: Attempts) -> dict[str, Measurement]:
  """All metrics of attempts, with their intervals.

  Args:
    attempts: at every problem of a split.

  Returns:
    What `attempt_metrics` measures, and with several turns `changed`.
  """
  found = attempt_metrics(attempts.correct)
  if attempts.correct.shape[2] > 1:
    found['changed'] = changed(attempts.answers)
  return found


def logged(measured: Mapping[str, Measurement]) -> dict[str, float]:
  """Measurements as plain metrics `eval/<name>`.

  Args:
    measured: by name; those without a value are left out.

  Returns:
    Values, and `eval/acc_last`, the accuracy of the last attempt.
  """
  out = {
    f'eval/{name}': float(found.value)
    for name, found in measured.items()
    if found.value is not None
  }
  turns = sum(name.startswith('acc_t') for name in measured)
  last = f'acc_t{turns}'
  return {**out, 'eval/acc_last': out[f'eval/{last}']}
