"""Losses of reward models that learn from labels of answers and of steps.

Those that learn from comparisons are in `preferences`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.algorithms.preferences import on_first_token
from selfimprove.ops import masks, preferences
from selfimprove.types import Experience, Scores


@types.record
class JudgeSteps:
  """Cross-entropy of the critic's verdicts on steps; needs `values`.

  A step is a turn and its label is the reward of that turn (`judged.Steps`).
  The log-odds that a step is right are the value of the state behind it: of
  the token that follows, which is EOS behind the last step.

  Source: arXiv 2305.20050, section 2.
  """

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the loss of each step on its last token."""
    rollout, labels = experience.rollout, experience.rewards
    last = masks.at_ends(jnp.ones_like(labels), rollout.turn) > 0
    values = preferences.binary_cross_entropy(
      masks.behind(scores.stream('values')),
      masks.take_by_turn(labels, rollout.turn),
    )
    return jnp.where(last, values, 0)


@types.record
class JudgeOutcome:
  """Cross-entropy of whole answers under an implicit reward (PRIME).

    ℓ = −y log σ(r) − (1 − y) log σ(−r),  r = β Σₜ log π_φ(yₜ) − log π_ref(yₜ)

  with the reward of the last attempt for y. Needs `ref_logprobs`.

  Source: arXiv 2502.01456 (PRIME), equation 5.

  Attributes:
    beta: β above 0.
  """

  beta: float | Array = 0.05

  def __call__(
    self, experience: Experience, scores: Scores
  ) -> Float[Array, 'b t']:
    """Returns the loss of each row on its first token."""
    rollout = experience.rollout
    reward = preferences.implicit_reward(
      scores.logprobs, experience.stream('ref_logprobs'), beta=self.beta
    )
    whole = jnp.sum(jnp.where(rollout.loss_mask, reward, 0), axis=1)
    values = preferences.binary_cross_entropy(whole, experience.rewards[:, -1])
    return on_first_token(values, rollout)
