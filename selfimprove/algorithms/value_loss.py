"""The loss of a critic."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.ops import values as value_losses
from selfimprove.types import Experience, Scores


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
