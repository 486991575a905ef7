"""What a critic is for: advantages from its values, and its targets."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.algorithms.base import NO_STREAMS, CreditFn, Streams
from selfimprove.ops import masks, returns
from selfimprove.types import Rollout


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


def _values(streams: Streams) -> Float[Array, 'b t']:
  if 'values' not in streams:
    raise KeyError(
      'This credit rule reads `values`, which were not computed; add '
      "'values' to `Algorithm.needs` and bind `critic_optimizer`."
    )
  return streams['values']
