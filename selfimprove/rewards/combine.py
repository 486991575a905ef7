"""From the verifier's rewards to those that are credited."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types


def progress_bonus(
  rewards: Float[Array, 'b turns'], *, alpha: Float[Array, ''] | float
) -> Float[Array, 'b turns']:
  """The bonus of each attempt for being better than the one before it.

  b₁ = 0,  bᵢ = α·(rᵢ − rᵢ₋₁)

  Args:
    rewards: verifier's reward of each attempt.
    alpha: weight of the change, >= 0; 10 in the paper.

  Returns:
    The bonus alone: what is to be added to the rewards.

  Source: arXiv 2409.12917, equations 4 and 5, the term with α.
  Differs: defined for any number of attempts; for two it is the paper's.

  >>> progress_bonus(jnp.array([[1.0, 0.0]]), alpha=10.0).tolist()
  [[0.0, -10.0]]
  """
  before = jnp.concatenate([rewards[:, :1], rewards[:, :-1]], axis=1)
  return alpha * (rewards - before)


@types.record
class Identity:
  """The rewards as they are."""

  def __call__(
    self, rewards: Float[Array, 'b turns']
  ) -> Float[Array, 'b turns']:
    """Returns `rewards`."""
    return rewards


@types.record
class ProgressBonus:
  """Weighted rewards with a bonus for improving on the attempt before.

  R₁ = w₁·r₁,  R₂ = w₂·r₂ + α·(r₂ − r₁)

  Stage I of SCoRe is w = (0, 1), α = 0; stage II is w = (1, 1), α = 10. All
  are numbers and enter as arguments, so both stages have the same program.

  Source: arXiv 2409.12917, equations 3 to 5.
  Differs: no.

  Attributes:
    alpha: weight of the change between attempts, >= 0.
    turn_weights: weight of each attempt's own reward, floats.
  """

  alpha: float | Array
  turn_weights: tuple[float | Array, ...]

  def __call__(
    self, rewards: Float[Array, 'b turns']
  ) -> Float[Array, 'b turns']:
    """Returns the shaped rewards.

    Args:
      rewards: verifier's reward of each attempt.

    Returns:
      What each attempt is credited with.

    Raises:
      ValueError: there is not one weight per attempt.
    """
    if len(self.turn_weights) != rewards.shape[1]:
      raise ValueError(
        f'turn_weights has {len(self.turn_weights)} entries for '
        f'{rewards.shape[1]} attempts; give one weight per attempt.'
      )
    weights = jnp.asarray(self.turn_weights, rewards.dtype)
    bonus = progress_bonus(rewards, alpha=self.alpha)
    return weights[None, :] * rewards + bonus
