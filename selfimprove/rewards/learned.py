"""Rewards of networks that were trained to judge; their parameters are leaves.

Nothing here knows a network: `read` is a function of parameters and rows that
says one number per token, such as a critic's values (`learned_from` makes it
from the folder of a run). No gradient reaches the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from selfimprove import types
from selfimprove.ops import masks, preferences
from selfimprove.types import Params, Prompts, Rollout

Read = Callable[[Params, Rollout], Array]
"""(params, rollout) -> f32[b t]: values, or log-probabilities, of tokens."""


@types.record
class OutcomeReward:
  """The score that a critic gives to each attempt.

  It is what the critic says where the last token of the attempt, its EOS, is
  still to be written. An attempt that was cut off is scored without its last
  token. A classifier of whole sequences (`learned_from.classifier_reward`) is
  read behind that token instead.

  Attributes:
    read: values of tokens.
    params: of the critic.
  """

  read: Read = types.static()
  params: Params

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns one score per attempt."""
    del prompts  # They are in the rows.
    said = _read(self.read, self.params, rollout)
    turns = len(rollout.spans)
    return masks.take_at_ends(said, rollout.turn, turns=turns)


@types.record
class ProcessReward:
  """The probability that no step of an attempt is wrong.

    r = Πᵢ σ(zᵢ),  zᵢ: what the critic says behind step i

  Source: arXiv 2305.20050, section 2 and its appendix F.
  Differs: no.

  Attributes:
    read: values of tokens.
    params: of the critic.
    step_ends: ids that end a step.
  """

  read: Read = types.static()
  params: Params
  step_ends: Int[Array, 'n'] | tuple[int, ...]

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns one reward in (0, 1] per attempt; 1 without a judged step."""
    del prompts  # They are in the rows.
    said = masks.behind(_read(self.read, self.params, rollout))
    ends = last_of_steps(rollout, self.step_ends)
    log_right = jnp.where(ends, jax.nn.log_sigmoid(said), 0)
    turns = len(rollout.spans)
    return jnp.exp(masks.turn_sums(log_right, rollout.turn, turns=turns))


@types.record
class StepRewards:
  """What a critic says of each step, on its last token.

    rₜ = σ(z) − baseline,  z: what the critic says behind the step

  Fills `Algorithm.token_reward`; with `Summed` it is a reward of
  attempts.

  Attributes:
    read: values of tokens.
    params: of the critic.
    step_ends: ids that end a step.
    baseline: subtracted from each step. With 0 every further step pays.
  """

  read: Read = types.static()
  params: Params
  step_ends: Int[Array, 'n'] | tuple[int, ...]
  baseline: float | Array = 0.5

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Mapping[str, Float[Array, 'b t']],
  ) -> Float[Array, 'b t']:
    """Returns the reward of each token, 0 on all but the last of steps."""
    del rewards, streams
    said = masks.behind(_read(self.read, self.params, rollout))
    ends = last_of_steps(rollout, self.step_ends)
    return jnp.where(ends, jax.nn.sigmoid(said) - self.baseline, 0)


@types.record
class ImplicitRewards:
  """β log π_φ/π_ref of each token (`ops.preferences.implicit_reward`).

  Fills `Algorithm.token_reward`; with `Summed` it is a reward of
  attempts.

  Attributes:
    read: log-probabilities of tokens.
    params: φ, of the policy that was trained to judge.
    ref_params: of what it was measured against.
    beta: β of its training.
  """

  read: Read = types.static()
  params: Params
  ref_params: Params
  beta: float | Array = 0.05

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Mapping[str, Float[Array, 'b t']],
  ) -> Float[Array, 'b t']:
    """Returns the reward of each token, 0 outside `loss_mask`."""
    del rewards, streams
    found = preferences.implicit_reward(
      _read(self.read, self.params, rollout),
      _read(self.read, self.ref_params, rollout),
      beta=self.beta,
    )
    return jnp.where(rollout.loss_mask, found, 0)


@types.record
class Summed:
  """Rewards of tokens, summed over each attempt.

  Attributes:
    tokens: (rollout, rewards, streams) -> f32[b t]; reads no streams.
  """

  tokens: Any

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns one reward per attempt."""
    del prompts  # They are in the rows.
    nothing = jnp.zeros(rollout.finished.shape, jnp.float32)
    found = self.tokens(rollout, nothing, {})
    return masks.turn_sums(found, rollout.turn, turns=len(rollout.spans))


@types.record
class Normalized:
  """Another reward in standard units: (r − mean) / deviation.

  Attributes:
    reward: of attempts.
    mean: of that reward, on samples of the first policy for example.
    deviation: its standard deviation, above 0.
  """

  reward: Any
  mean: float | Array = 0.0
  deviation: float | Array = 1.0

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns the rewards."""
    return (self.reward(rollout, prompts) - self.mean) / self.deviation


@types.record
class Clipped:
  """Another reward within bounds.

  Attributes:
    reward: of attempts.
    low: lowest reward.
    high: highest reward, at least `low`.
  """

  reward: Any
  low: float | Array
  high: float | Array

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns the rewards."""
    return jnp.clip(self.reward(rollout, prompts), self.low, self.high)


@types.record
class Ensemble:
  """Several rewards made one.

  Source: arXiv 2310.02743: the worst case, and the mean.
  Differs: no.

  Attributes:
    rewards: of attempts, at least one.
    reduce: `jnp.mean`, `jnp.min` or another function with `axis`.
  """

  rewards: tuple[Any, ...]
  reduce: Callable[..., Array] = types.static(default=jnp.mean)

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns the rewards."""
    found = [reward(rollout, prompts) for reward in self.rewards]
    return self.reduce(jnp.stack(found), axis=0)


def last_of_steps(
  rollout: Rollout, step_ends: Int[Array, 'n'] | tuple[int, ...]
) -> Bool[Array, 'b t']:
  """Which tokens are the last of a step that is over.

  A step is over where one of `step_ends` was written, or the attempt ended with
  EOS right behind it. What follows it must be there to be read: a step that the
  length limit ends is not judged.

  Args:
    rollout: samples.
    step_ends: ids.

  Returns:
    True on one token per step.
  """
  finished = rollout.finished.astype(jnp.float32)
  eos = masks.at_ends(finished, rollout.turn) > 0
  shift = ((0, 0), (0, 1))
  follows = jnp.pad(rollout.turn[:, 1:], shift, constant_values=-1)
  goes_on = (rollout.turn >= 0) & (follows == rollout.turn)
  before_eos = jnp.pad(eos[:, 1:], shift)
  ends = jnp.isin(rollout.tokens, jnp.asarray(step_ends))
  return goes_on & (ends | before_eos)


def _read(read: Read, params: Params, rollout: Rollout) -> Array:
  frozen = jax.lax.stop_gradient(params)
  return jax.lax.stop_gradient(read(frozen, rollout))
