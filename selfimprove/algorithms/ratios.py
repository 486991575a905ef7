"""Log-ratios of the policy to what sampled: fillers of a term's `ratio`.

Tokens outside `loss_mask` get 0: a term can drop an infinite value, but not the
NaN that differentiating it makes.
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.ops import ratios
from selfimprove.types import Experience, Scores


class BehaviourFn(Protocol):
  """What the ratio is taken to."""

  def __call__(self, experience: Experience) -> Float[Array, 'b t']:
    """Returns log-probabilities of the distribution that sampled."""


class RatioFn(Protocol):
  """How far the policy has moved, per token."""

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns log-ratios, 0 outside `loss_mask`."""


@types.record
class BeforeUpdate:
  """The policy before the first update, as the trainer sees it.

  Needs `old_logprobs`.
  """

  def __call__(self, experience: Experience) -> Float[Array, 'b t']:
    """Returns the stream `old_logprobs`."""
    return experience.stream('old_logprobs')


@types.record
class Sampler:
  """The distribution that the tokens were drawn from, truncation included."""

  def __call__(self, experience: Experience) -> Float[Array, 'b t']:
    """Returns `sampler_logprobs`."""
    return experience.rollout.sampler_logprobs


@types.record
class TokenRatio:
  """Each token by itself: log π(yₜ) − log π_old(yₜ).

  Attributes:
    behaviour: π_old.
  """

  behaviour: BehaviourFn = BeforeUpdate()

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns log-ratios of tokens."""
    old = jax.lax.stop_gradient(self.behaviour(experience))
    mask = experience.rollout.loss_mask
    return jnp.where(mask, scores.logprobs - old, 0)


@types.record
class SequenceRatio:
  """Whole attempts, per token (`ops.ratios.sequence_log_ratio`): GSPO.

  Attributes:
    behaviour: π_old.
  """

  behaviour: BehaviourFn = BeforeUpdate()

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the log-ratio of its attempt on each token."""
    rollout = experience.rollout
    turn = jnp.where(rollout.loss_mask, rollout.turn, -1)
    return ratios.sequence_log_ratio(
      scores.logprobs,
      self.behaviour(experience),
      turn,
      turns=len(rollout.spans),
    )
