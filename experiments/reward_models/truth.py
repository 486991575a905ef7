"""The true scores, which only the experiment knows: no reward model sees them.

Outcomes: an answer is good if it has `BEST` digits equal to the first of its
prompt; more are as bad as fewer. Steps: step i of an answer is digit i of its
prompt plus one, modulo 10.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove import types
from selfimprove.ops import masks
from selfimprove.types import Prompts, Rollout

BEST = 5
"""Digits of an answer that should equal the first of the prompt."""

DIGITS = 4
"""Digits of a prompt, each with a separator or an equals sign behind it."""


@types.record
class Count:
  """1 − |n − BEST| / BEST for n digits equal to the first of the prompt."""

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns the true score of each attempt."""
    first = jnp.repeat(prompts.tokens[:, :1], rollout.group_size, axis=0)
    same = (rollout.tokens == first).astype(jnp.float32)
    count = masks.turn_sums(same, rollout.turn, turns=len(rollout.spans))
    return 1 - jnp.abs(count - BEST) / BEST


@types.record
class Successors:
  """(right steps − other steps) / DIGITS, where DIGITS steps can be right.

  Attributes:
    digits: ids of the ten digits in order.
  """

  digits: Array

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns the true score of each attempt, of which there is one."""
    ids = jnp.asarray(self.digits)
    value = lambda x: jnp.argmax(x[..., None] == ids[None, None], axis=-1)  # noqa: E731
    after = (value(prompts.tokens[:, : 2 * DIGITS : 2]) + 1) % 10
    wanted = jnp.repeat(ids[after], rollout.group_size, axis=0)
    written = rollout.turn >= 0
    # Token 2i is step i and token 2i + 1 its end; a step of another shape puts
    # those behind it out of place, where they are wrong.
    rank = jnp.cumsum(written, axis=1) - 1
    place, inside = rank // 2, written & (rank % 2 == 0)
    want = jnp.take_along_axis(wanted, jnp.clip(place, 0, DIGITS - 1), axis=1)
    right = inside & (rollout.tokens == want) & (place < DIGITS)
    finished = masks.at_ends(rollout.finished.astype(jnp.float32), rollout.turn)
    other = inside & ~right & ~(finished > 0)
    score = right.astype(jnp.float32) - other.astype(jnp.float32)
    return masks.turn_sums(score, rollout.turn, turns=1) / DIGITS
