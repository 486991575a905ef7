"""Right answers imitated, wrong ones by the policy that they imply: NFT."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.algorithms import ratios
from selfimprove.ops import masks
from selfimprove.ops import negative_aware as ops
from selfimprove.types import Experience, Scores


@types.record
class NegativeAware:
  """Eq. 10 of arXiv 2505.18116 (`ops.negative_aware.negative_aware`).

  An attempt is right if its reward exceeds `threshold`; the success rate of a
  prompt is that of its group, attempt by attempt.

  Attributes:
    floor: smallest factor inside the logarithm of wrong answers.
    neg_weight: of wrong answers; 0 is rejection fine-tuning.
    prompt_weight: (success rates) -> weights of prompts.
    ratio: of tokens or of sequences, and to what.
    threshold: a reward above it is right.
  """

  floor: float | Array = 1.0
  neg_weight: float | Array = 1.0
  ratio: ratios.RatioFn = ratios.TokenRatio()
  threshold: float | Array = 0.5
  prompt_weight: Callable[[Array], Array] = types.static(
    default=ops.failure_weight
  )

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the loss of each token."""
    rollout = experience.rollout
    right = (experience.rewards > self.threshold).astype(jnp.float32)
    grouped = right.reshape(-1, rollout.group_size, right.shape[1])
    rate = jnp.repeat(jnp.mean(grouped, axis=1), rollout.group_size, axis=0)
    place = lambda x: masks.take_by_turn(x, rollout.turn)  # noqa: E731
    values = ops.negative_aware(
      self.ratio(experience, scores),
      place(right),
      place(rate),
      floor=self.floor,
      neg_weight=self.neg_weight,
    )
    return place(self.prompt_weight(rate)) * values
