"""Losses of samples that a hint has helped: Guide-GRPO and Guide-PPO.

Rows with `off_context` were sampled behind a hint and are scored without it:
ρₜ = π(yₜ | prompt) / π_old(yₜ | prompt and hint).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.algorithms import ratios
from selfimprove.algorithms.base import NO_STREAMS, Streams, TermFn
from selfimprove.algorithms.corrections import CorrectionFn
from selfimprove.ops import ratios as ratio_ops
from selfimprove.types import Experience, Rollout, Scores


@types.record
class HalfRatio:
  """γ of `corrections.Shaped`: a quantile of the ratios of hinted tokens.

  Fills `Algorithm.derived`; needs `old_logprobs`. Taken before the update and
  over the whole batch, so that micro-batches change nothing.

  Source: the released code of arXiv 2506.13923.
  Differs: there it is taken anew in each micro-batch, padding included.

  Attributes:
    level: of the quantile, in [0, 1].
    lowest: of γ, above 0.
  """

  level: float | Array = 0.9
  lowest: float | Array = 1e-4

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, 'b turns'],
    streams: Streams = NO_STREAMS,
  ) -> Float[Array, 'b t']:
    """Returns γ on each token."""
    del rewards
    hinted = rollout.loss_mask & rollout.off_context[:, None]
    log_ratio = jnp.where(
      hinted, streams['old_logprobs'] - rollout.sampler_logprobs, 0
    )
    half = ratio_ops.masked_quantile(jnp.exp(log_ratio), hinted, self.level)
    return jnp.broadcast_to(jnp.maximum(half, self.lowest), hinted.shape)


@types.record
class Guided:
  """One loss for rows sampled in their own context, another for hinted ones.

  Attributes:
    fn: of rows that were sampled as they are scored.
    correction: of hinted rows.
  """

  fn: TermFn
  correction: CorrectionFn

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the loss of each token."""
    hinted = experience.rollout.off_context[:, None]
    behind = ratios.TokenRatio(behaviour=ratios.Sampler())
    log_ratio = jnp.where(hinted, behind(experience, scores), 0)
    return jnp.where(
      hinted,
      self.correction(log_ratio, experience, scores),
      self.fn(experience, scores),
    )
