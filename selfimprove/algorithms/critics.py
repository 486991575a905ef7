"""What a critic is for: advantages from its values, and its own losses."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.algorithms.base import NO_STREAMS, CreditFn, Streams
from selfimprove.ops import masks, returns
from selfimprove.ops import values as value_losses
from selfimprove.types import Experience, Rollout, Scores


@types.record
class GeneralizedAdvantage:
  """Advantages from a critic (`ops.returns.gae`); needs `values`.

  The reward of an attempt is that of its last token; `dense_rewards`, where
  there are any, are those of theirs.

  Attributes:
    discount: γ in [0, 1], per token.
    gae_lambda: λ in [0, 1].
  """

  discount: float | Array = 1.0
  gae_lambda: float | Array = 0.95

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Streams = NO_STREAMS,
  ) -> Float[Array, 'b t']:
    """Returns the advantage of each token, 0 outside `loss_mask`."""
    turn = jnp.where(rollout.loss_mask, rollout.turn, -1)
    placed = masks.at_ends(rewards, turn)
    if 'dense_rewards' in streams:
      placed = placed + streams['dense_rewards']
    return returns.gae(
      placed,
      _values(streams),
      rollout.loss_mask,
      discount=self.discount,
      gae_lambda=self.gae_lambda,
    )


@types.record
class ReturnTargets:
  """What the values should have been: advantages plus values.

  Fills `Algorithm.derived` under the name `returns`; needs `values`.

  Attributes:
    credit: advantages over the values, neither normalised nor whitened.
  """

  credit: CreditFn

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Streams = NO_STREAMS,
  ) -> Float[Array, 'b t']:
    """Returns the target of each token, 0 outside `loss_mask`."""
    gained = self.credit(rollout, rewards, streams)
    return jnp.where(rollout.loss_mask, gained + _values(streams), 0)


@types.record
class Whitened:
  """Another credit with mean 0 and deviation 1 over the batch's tokens.

  Attributes:
    credit: advantages of tokens.
  """

  credit: CreditFn

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Streams = NO_STREAMS,
  ) -> Float[Array, 'b t']:
    """Returns the advantage of each token, 0 outside `loss_mask`."""
    found = self.credit(rollout, rewards, streams)
    return returns.whiten(found, rollout.loss_mask)


@types.record
class ValueLoss:
  """Squared errors of the critic, clipped (`ops.values.clipped_value`).

  Needs `values`, and `returns` among the derived streams.

  Attributes:
    clip: how far a value may move from that before the update, in units of
      reward; infinite is no clip.
  """

  clip: float | Array = 0.2

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the loss of each token."""
    mask = experience.rollout.loss_mask
    values, old_values, targets = (
      jnp.where(mask, stream, 0)
      for stream in (
        scores.stream('values'),
        experience.stream('values'),
        experience.stream('returns'),
      )
    )
    return value_losses.clipped_value(
      values, old_values, targets, clip=self.clip
    )


def _values(streams: Streams) -> Float[Array, 'b t']:
  if 'values' not in streams:
    raise KeyError(
      'This credit rule reads `values`, which were not computed; add '
      "'values' to `Algorithm.needs` and bind `critic_optimizer`."
    )
  return streams['values']
