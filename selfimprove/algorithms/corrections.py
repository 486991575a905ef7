"""What the ratio to the hinted context does to the loss of hinted tokens."""

from __future__ import annotations

from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.ops import losses
from selfimprove.ops import ratios as ratio_ops
from selfimprove.types import Experience, Scores


class CorrectionFn(Protocol):
  """The loss of hinted tokens."""

  def __call__(
    self, log_ratio: Float[Array, 'b t'], experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns losses; log ρ is 0 outside `loss_mask`."""


@types.record
class Uncorrected:
  """REINFORCE, as if the samples had been drawn without the hint."""

  def __call__(
    self, log_ratio: Float[Array, 'b t'], experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns −A log π."""
    del log_ratio
    return losses.reinforce(scores.logprobs, experience.advantages)


@types.record
class Raw:
  """The ratio as it is, without a clip."""

  def __call__(
    self, log_ratio: Float[Array, 'b t'], experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns −ρ A."""
    del scores
    return losses.importance_weighted(jnp.exp(log_ratio), experience.advantages)


@types.record
class Clipped:
  """The ratio with PPO's clip.

  Attributes:
    clip_low: how far below 1 the ratio is rewarded, in (0, 1].
    clip_high: how far above 1 the ratio is rewarded, above 0.
  """

  clip_low: float | Array = 0.2
  clip_high: float | Array = 0.2

  def __call__(
    self, log_ratio: Float[Array, 'b t'], experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns −min(ρA, clip(ρ)A)."""
    del scores
    return losses.clipped(
      log_ratio,
      experience.advantages,
      clip_low=self.clip_low,
      clip_high=self.clip_high,
    )


@types.record
class Shaped:
  """The ratio squeezed below 1 (`ops.ratios.shaped_ratio`), without a clip.

  Reads the derived stream `half_ratio`, which `guide.HalfRatio` makes.
  """

  def __call__(
    self, log_ratio: Float[Array, 'b t'], experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns −f(ρ) A."""
    del scores
    written = experience.rollout.loss_mask
    # It is the same everywhere.
    half = jnp.max(jnp.where(written, experience.stream('half_ratio'), 0))
    half = jnp.maximum(half, 1e-6)  # Of a part without tokens.
    return losses.importance_weighted(
      ratio_ops.shaped_ratio(log_ratio, half), experience.advantages
    )
