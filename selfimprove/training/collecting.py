"""The step of an algorithm that samples until its batch is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from selfimprove import partitioning, placement
from selfimprove.algorithms.base import Algorithm, HostReward
from selfimprove.training import collect
from selfimprove.training import step as steps
from selfimprove.training.programs import Batch, Build, StepFn, judged
from selfimprove.training.state import TrainState, stream_key
from selfimprove.training.timing import PhaseTimers
from selfimprove.types import Prompts, Rollout

_Judged = tuple[Rollout, Float[Array, 'b turns']]


class Programs(NamedTuple):
  """What is compiled for a step that collects.

  Attributes:
    sample: (algorithm, state, prompts) -> rollout.
    retry: the same, for second tries.
    verify: (algorithm, rollout, prompts) -> rewards in graph.
    merge: (algorithm, first, second, groups) -> `collect.merge`.
    put: (algorithm, state, rollout, rewards) -> `keep_taught`.
    learn: (algorithm, state) -> `learn_waiting`.
  """

  sample: Callable[..., Any]
  retry: Callable[..., Any]
  verify: Callable[..., Any]
  merge: Callable[..., Any]
  put: Callable[..., Any]
  learn: Callable[..., Any]


def programs(made: Build) -> Programs:
  """The programs of a step that collects, none of them compiled yet.

  Args:
    made: what they are made from; its algorithm has `collect`.

  Returns:
    Jitted functions.
  """
  rows = partitioning.rows(made.mesh)
  whole = partitioning.replicated(made.mesh)
  return Programs(
    sample=made.sampled(steps.sample),
    retry=made.sampled(sample_again),
    verify=jax.jit(verify, out_shardings=rows),
    merge=jax.jit(collect.merge, out_shardings=rows),
    put=jax.jit(
      keep_taught,
      out_shardings=(made.state_shardings, whole),
      donate_argnums=(1,),
    ),
    learn=made.compiled(learn_waiting),
  )


def build(made: Build) -> StepFn:
  """A step that draws prompts until enough groups teach something.

  Sampling, second tries and the update are programs; the host only asks how
  many groups failed and how many wait.

  Args:
    made: what it is made from; its algorithm has `collect`.

  Returns:
    The step; it donates the state it is given.
  """
  compiled = programs(made)
  run_round, learn = _Round(made, compiled), compiled.learn
  prompts, rounds = made.stage.prompts_per_step, _settings(made).max_rounds

  def run(state: TrainState, batch: Batch, timers: PhaseTimers) -> Any:
    counts: dict[str, float] = {}
    waiting = int(state.buffer.count)
    for _ in range(rounds):
      if waiting >= prompts:
        break
      state, found = run_round(state, batch, timers)
      counts = _add(counts, found)
      waiting = int(state.buffer.count)
    with timers.phase('update', variant=made.stage.name):
      out = learn(made.algorithm, state)
      state, metrics, codes = jax.block_until_ready(out)
    return state, {**metrics, **_shares(counts, waiting, prompts)}, codes

  return run


def _shares(
  counts: dict[str, float], waiting: int, prompts: int
) -> dict[str, float]:
  """Metrics of the collection, from what its rounds have counted."""
  rounds = counts.get('rounds', 0.0)
  metrics = {
    'collect/rounds': rounds,
    'collect/full': min(waiting / prompts, 1.0),
    'rollout/tokens': counts.get('tokens', 0.0),
    # Those of a reward on the host have the names of metrics already.
    **{name: value for name, value in counts.items() if '/' in name},
  }
  if rounds:
    groups = rounds * prompts
    metrics['collect/accuracy'] = counts['reward'] / rounds
    metrics['collect/taught'] = counts['kept'] / groups
    metrics['collect/retried'] = counts['retried'] / groups
  if counts.get('retried'):
    metrics['collect/retry_accuracy'] = (
      counts['retry_reward'] / counts['retried']
    )
  return metrics


def _settings(made: Build) -> Any:
  return made.stage.algorithm.collect


def learn_waiting(
  models: Any,
  optimizers: Any,
  algorithm: Algorithm,
  state: TrainState,
  *,
  plan: steps.Plan,
) -> Any:
  """The updates that follow from the oldest groups of the buffer.

  Args:
    models: the networks.
    optimizers: of the stage.
    algorithm: its combiner, label, credit and terms.
    state: whose buffer holds groups that wait.
    plan: how many updates, and in which parts.

  Returns:
    What `step.learn` returns.
  """
  buffer = state.buffer
  groups = buffer.rewards.shape[0] // (2 * buffer.rollout.group_size)
  state, rollout, rewards, real = collect.take(state, groups=groups)
  return steps.learn(
    models, optimizers, algorithm, state, rollout, rewards, plan=plan, real=real
  )


class _Round:
  """One batch of prompts: sampled, judged, retried where it failed, kept."""

  def __init__(self, made: Build, compiled: Programs) -> None:
    self._made = made
    self._reward: Any = made.stage.algorithm.reward
    self._programs = compiled

  def __call__(
    self, state: TrainState, batch: Batch, timers: PhaseTimers
  ) -> tuple[TrainState, dict[str, float]]:
    """Returns the state with a fuller buffer, and what was counted."""
    made = self._made
    with timers.phase('data'):
      prompts = batch(int(state.position))
    first, calls = self._judged(self._programs.sample, state, prompts, timers)
    counts = {
      **calls,
      'rounds': 1.0,
      'tokens': _tokens(first[0]),
      'reward': float(jnp.mean(first[1][:, -1])),
      'retried': 0.0,
    }
    if collect.retry_of(made.algorithm) is not None:
      first, found = self._tried_again(state, prompts, first, timers)
      counts = _add(counts, found)
    with timers.phase('collect', variant=made.stage.name):
      state, kept = self._programs.put(made.algorithm, state, *first)
      counts['kept'] = float(kept)
    return state, counts

  def _judged(
    self, sample: Any, state: TrainState, prompts: Prompts, timers: PhaseTimers
  ) -> tuple[_Judged, dict[str, float]]:
    made = self._made
    placed = made.place(prompts)
    with timers.phase('rollout', variant=made.stage.name):
      rollout = jax.block_until_ready(sample(made.algorithm, state, placed))
    with timers.phase('reward'):
      if isinstance(self._reward, HostReward):
        verdicts, calls = judged(made, self._reward, rollout, timers)
        return (rollout, made.place(verdicts)), calls
      return (
        rollout,
        self._programs.verify(made.algorithm, rollout, placed),
      ), {}

  def _tried_again(
    self,
    state: TrainState,
    prompts: Prompts,
    first: _Judged,
    timers: PhaseTimers,
  ) -> tuple[_Judged, dict[str, float]]:
    """The batch with second tries in place of failed groups."""
    retry = collect.retry_of(self._made.algorithm)
    group = first[0].group_size
    where = collect.failed(
      first[1], group_size=group, threshold=retry.threshold
    )
    failed = np.flatnonzero(placement.gathered(where, self._made.mesh))
    if not failed.size:
      return first, {}
    total = prompts.tokens.shape[0]
    shards = partitioning.row_shards(self._made.mesh)
    room = _room(
      len(failed),
      total,
      group=group,
      shards=shards,
      plan=self._made.stage.plan,
    )
    # Places that are too many sample the first failed prompt once more, and
    # replace nothing.
    rows = np.full(room, failed[0])
    rows[: len(failed)] = failed
    groups = np.full(room, total)
    groups[: len(failed)] = failed
    hard = jax.tree.map(lambda x: x[rows], prompts)
    second, calls = self._judged(self._programs.retry, state, hard, timers)
    merged = self._programs.merge(self._made.algorithm, first, second, groups)
    real = np.repeat(groups < total, group)
    rewards, written = placement.gathered(
      (second[1], second[0].loss_mask), self._made.mesh
    )
    last = rewards[:, -1]
    return merged, {
      **calls,
      'retried': float(len(failed)),
      'retry_reward': float(last[real].sum() / group),
      'tokens': float(written[real].sum()),
    }


def _add(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
  return {k: a.get(k, 0.0) + b.get(k, 0.0) for k in a | b}


def _room(
  count: int, total: int, *, group: int, shards: int, plan: steps.Plan
) -> int:
  """The smallest of few widths that hold `count`: each is compiled once."""

  def divides(room: int) -> bool:
    at_once = room // plan.parts_to_sample(room)
    return at_once * group % shards == 0

  room = total
  while room % 2 == 0 and room // 2 >= count and divides(room // 2):
    room //= 2
  return room


def _tokens(rollout: Rollout) -> float:
  return float(jnp.sum(rollout.loss_mask))


def sample_again(
  models: Any,
  algorithm: Algorithm,
  state: TrainState,
  prompts: Prompts,
  *,
  plan: steps.Plan = steps.WHOLE,
) -> Rollout:
  """Second tries, with randomness of their own.

  Args:
    models: the networks.
    algorithm: whose `collect.retry` samples.
    state: parameters, seed and step.
    prompts: that failed.
    plan: how many of them are sampled for at one time.

  Returns:
    `p * group_size` samples.
  """
  key = jax.random.fold_in(stream_key(state.seed, 'retry'), state.step)
  retry = collect.retry_of(algorithm)
  params = steps.sampled_params(models, algorithm, state)
  return steps.draw(
    retry.rollout, models.policy, params, prompts, key, plan=plan
  )


def verify(
  algorithm: Algorithm, rollout: Rollout, prompts: Prompts
) -> Float[Array, 'b turns']:
  """The verdicts of a reward that is computed in graph.

  Args:
    algorithm: whose reward judges.
    rollout: the samples.
    prompts: that were sampled for.

  Returns:
    Rewards of each attempt.
  """
  judge: Any = algorithm.reward
  return judge(rollout, prompts)


def keep_taught(
  algorithm: Algorithm,
  state: TrainState,
  rollout: Rollout,
  rewards: Float[Array, 'b turns'],
) -> tuple[TrainState, Array]:
  """The state with the groups that teach, its prompts consumed.

  Args:
    algorithm: whose label decides.
    state: whose buffer has room for a batch.
    rollout: the batch.
    rewards: of each attempt.

  Returns:
    The state, and how many groups were kept.
  """
  keep = collect.teaches(algorithm, rollout, rewards)
  state = steps.consume(state, keep.shape[0])
  return collect.put(state, rollout, rewards, keep), jnp.sum(keep)
