"""The slots that an algorithm fills.

An algorithm is data: a gin file builds an `Algorithm` whose fields are
records (see `types.record`). Nothing in the framework asks for its name.

| slot      | signature                                               |
|-----------|---------------------------------------------------------|
| `rollout` | (policy, params, prompts, key) -> Rollout               |
| `reward`  | in graph: (rollout, prompts) -> f32[b turns];           |
|           | on the host: see `HostReward`                           |
| `combine` | (rewards f32[b turns]) -> f32[b turns]                  |
| `label`   | (rollout, rewards) -> f32[b], the weight of each sample |
| `credit`  | (rollout, rewards, streams) -> f32[b t]                 |
| `terms`   | name -> `Term`                                          |
| `needs`   | names of the streams that credit and terms read         |
| `derived` | name -> (rollout, rewards, streams) -> f32[b t];        |
|           | `token_reward` is one of them, without a name           |
| `collect` | which groups make a batch, and what failed ones get     |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from selfimprove import types
from selfimprove.types import Estimate, Experience, Prompts, Rollout, Scores


class RolloutFn(Protocol):
  """Samples attempts. Group size, lengths and temperature are its fields."""

  @property
  def group_size(self) -> int:
    """Rows of the rollout per prompt."""

  def __call__(
    self,
    policy: Any,
    params: types.Params,
    prompts: Prompts,
    key: jax.Array,
  ) -> Rollout:
    """Returns `p * group_size` rows; a pure function, called inside jit."""


class RewardFn(Protocol):
  """Judges attempts inside the graph."""

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns one reward per attempt."""


@runtime_checkable
class HostReward(Protocol):
  """Judges attempts on the host, from text.

  The training step is then two programs with the verdicts between them.
  """

  def judge(
    self,
    attempts: Sequence[Sequence[str]],
    references: Sequence[Mapping[str, Any]],
    *,
    finished: np.ndarray,
  ) -> np.ndarray:
    """Returns f32[b turns] for `b` rows of attempt texts and data rows.

    `finished` bool[b turns] says which attempts ended by themselves; the
    others were cut off by the length limit.
    """


@runtime_checkable
class StreamVerdict(Protocol):
  """Judges networks by what they say of given attempts.

  It stands in the place of a reward where a reward model is evaluated.
  """

  @property
  def needs(self) -> tuple[str, ...]:
    """Names of the streams that it reads."""

  def verdicts(
    self,
    rollout: Rollout,
    prompts: Prompts,
    streams: Mapping[str, Float[Array, 'b t']],
  ) -> Float[Array, 'b n']:
    """Returns 1 where a network was right, else 0; called inside jit."""


class CombineFn(Protocol):
  """Shapes the verifier's rewards into those that are credited."""

  def __call__(
    self, rewards: Float[Array, 'b turns']
  ) -> Float[Array, 'b turns']:
    """Returns shaped rewards, one per attempt."""


class LabelFn(Protocol):
  """Chooses samples."""

  def __call__(
    self, rollout: Rollout, rewards: Float[Array, 'b turns']
  ) -> Float[Array, 'b']:
    """Returns the weight of each sample; 0 drops it."""


Streams = Mapping[str, Float[Array, 'b t']]
"""Per-token arrays of the policy, critic and reference before the update."""

NO_STREAMS: Streams = MappingProxyType({})
"""For algorithms whose credit reads rewards alone."""


class CreditFn(Protocol):
  """Turns rewards into advantages of tokens."""

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Streams,
  ) -> Float[Array, 'b t']:
    """Returns the advantage of each token, 0 outside `loss_mask`."""


class MergeFn(Protocol):
  """Makes one group of a failed one and of its second try."""

  def __call__(
    self, rewards: Float[Array, 'b turns'], retried: Float[Array, 'b turns']
  ) -> Bool[Array, 'b']:
    """Returns which rows are taken from the second try."""


class TermFn(Protocol):
  """One summand of the loss, per token."""

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the loss of each token; slots outside `loss_mask` are ignored."""


class AggregateFn(Protocol):
  """Reduces per-token values to an undivided mean."""

  def __call__(
    self,
    values: Float[Array, 'b t'],
    mask: Bool[Array, 'b t'],
    weight: Float[Array, 'b'],
  ) -> Estimate:
    """Returns sum and count; the count must not depend on `values`."""


@types.record
class Term:
  """One summand of the loss.

  Attributes:
    fn: per-token loss.
    aggregate: how its tokens are averaged.
    weight: coefficient; a tuple gives one coefficient per attempt.
    turns: attempts that the term sees and counts; None for all.
  """

  fn: TermFn
  aggregate: AggregateFn
  weight: float | tuple[float, ...] | Array = 1.0
  turns: tuple[int, ...] | None = types.static(default=None)


@types.record
class Retry:
  """What is sampled again for prompts whose whole group failed.

  Attributes:
    rollout: the second try, with the columns of the first (see
      `rollout.hinted`).
    merge: which of its rows replace those of the first.
    threshold: a group has failed if none of its samples was rewarded above it
      at the last attempt.
  """

  rollout: RolloutFn
  merge: MergeFn
  threshold: float | Array = 0.001


@types.record
class Collect:
  """Sampling until a batch is full of groups that teach something.

  A group counts if `Algorithm.label` gives any of its samples a positive
  weight. Groups that are left over wait for the next step.

  Attributes:
    retry: for failed groups; None to sample each prompt once.
    max_rounds: batches of prompts that are tried for one step, at least 1.
  """

  retry: Retry | None = None
  max_rounds: int = types.static(default=10)

  def __post_init__(self) -> None:
    if self.max_rounds < 1:
      raise ValueError(
        f'Collect.max_rounds is {self.max_rounds}: a step samples at least 1 '
        'batch of prompts.'
      )


@types.record
class Algorithm:
  """What is sampled, how it is judged and credited, and what is minimised.

  Attributes:
    rollout: prompts -> samples.
    reward: samples -> rewards, in graph or on the host.
    combine: rewards -> shaped rewards.
    label: samples and rewards -> sample weights.
    credit: samples and shaped rewards -> advantages.
    terms: summands of the loss by name; metrics are logged as `loss/<name>`.
    needs: streams that credit and terms read: `ref_logprobs`, `old_logprobs`
      (without gradient), `entropy`, `exact_kl` (with gradient), `values` (both:
      of the critic before the update, and of the critic that is trained).
    token_reward: rewards of single tokens, as of a learned process reward; they
      come to `dense_rewards`, which credit rules add to those of attempts.
    derived: further streams without gradient: first `dense_rewards`, which are
      added to the `token_reward`, then the others by their names' alphabet;
      each may read those before it.
    collect: how a batch is filled; None to learn from every group.
    samples_of: whose samples are learned from: of the `policy` as it is, or of
      the `reference`, which stays as it was when the stage began.
  """

  rollout: RolloutFn
  reward: RewardFn | HostReward
  combine: CombineFn
  label: LabelFn
  credit: CreditFn
  terms: Mapping[str, Term]
  needs: tuple[str, ...] = types.static(default=())
  token_reward: CreditFn | None = None
  derived: Mapping[str, CreditFn] = dataclasses.field(default_factory=dict)
  collect: Collect | None = None
  samples_of: str = types.static(default='policy')

  def __post_init__(self) -> None:
    if self.samples_of not in ('policy', 'reference'):
      raise ValueError(
        f"samples_of={self.samples_of!r} is nobody; name 'policy' or "
        "'reference'."
      )
    if self.samples_of == 'reference' and 'old_logprobs' in self.needs:
      raise ValueError(
        "samples_of='reference' and a ratio against `old_logprobs`, which are "
        "the policy's; read `ratios.Sampler()` and leave them out of `needs`."
      )
