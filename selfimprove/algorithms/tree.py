"""Credit for the branches of a group's prefix tree: TEMPO."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.algorithms.base import NO_STREAMS, Streams
from selfimprove.algorithms.credit import rewards_of_turns
from selfimprove.ops import prefix_tree
from selfimprove.types import Rollout


@types.record
class PrefixTree:
  """Group advantages plus steps in prefix value (arXiv 2509.18314).

  The tree of a turn is that of everything the policy wrote up to it, and its
  leaves have the rewards of that turn.

  Attributes:
    advantages: `ops.prefix_tree.tree_normalized` or `tree_centered`.
  """

  advantages: Callable[..., Array] = types.static(
    default=prefix_tree.tree_normalized
  )

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Streams = NO_STREAMS,
  ) -> Float[Array, 'b t']:
    """Returns the advantage of each token, 0 outside `loss_mask`."""
    total = rewards_of_turns(rollout, rewards, streams)
    credited = jnp.zeros(rollout.tokens.shape, total.dtype)
    for turn in range(total.shape[1]):
      written = (rollout.turn >= 0) & (rollout.turn <= turn)
      found = self.advantages(
        rollout.tokens,
        written,
        total[:, turn],
        group_size=rollout.group_size,
      )
      credited = jnp.where(rollout.turn == turn, found, credited)
    return jnp.where(rollout.loss_mask, credited, 0)
