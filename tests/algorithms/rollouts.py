"""Rollouts of which only the turns and groups mean something."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int

from selfimprove.types import Rollout


def of_turns(
  turn: Int[Array, 'b t'], spans: tuple[tuple[int, int], ...], group_size: int
) -> Rollout:
  """A rollout whose trained tokens are those that belong to a turn."""
  rows = jnp.arange(turn.shape[0])
  slots = jnp.arange(turn.shape[1])
  return Rollout(
    tokens=jnp.zeros_like(turn),
    positions=jnp.broadcast_to(slots[None], turn.shape),
    loss_mask=turn >= 0,
    turn=turn,
    sampler_logprobs=jnp.zeros(turn.shape),
    temperature=jnp.ones(rows.shape),
    group_id=rows // group_size,
    example_id=rows // group_size,
    finished=jnp.ones((turn.shape[0], len(spans)), bool),
    off_context=jnp.zeros(rows.shape, bool),
    spans=spans,
    group_size=group_size,
    prompt_slots=1,
  )
