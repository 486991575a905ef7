"""Which samples of a second try replace those of a failed first one."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from selfimprove import types


@types.record
class Replace:
  """All of them: the group is sampled anew (arXiv 2506.13923)."""

  def __call__(
    self, rewards: Float[Array, 'b turns'], retried: Float[Array, 'b turns']
  ) -> Bool[Array, 'b']:
    """Returns True for each row."""
    del retried
    return jnp.ones(rewards.shape[:1], bool)


@types.record
class Mixin:
  """Those that succeeded; failures of the first try fill up the group.

  Source: `mixin` in the released code of arXiv 2506.13923.

  Attributes:
    threshold: a last reward above it is a success.
  """

  threshold: float | Array = 0.5

  def __call__(
    self, rewards: Float[Array, 'b turns'], retried: Float[Array, 'b turns']
  ) -> Bool[Array, 'b']:
    """Returns True for rows whose second try succeeded."""
    del rewards
    return retried[:, -1] > self.threshold
