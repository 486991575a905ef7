"""From the pieces of a conversation to one `Rollout`."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from selfimprove.ops import masks
from selfimprove.rollout.decode import Insertion, Written
from selfimprove.types import Prompts, Rollout


def assemble(
  prompts: Prompts,
  pieces: Sequence[Written | Insertion],
  *,
  group_size: int,
  temperature: float | Array = 1.0,
) -> Rollout:
  """The rollout whose columns are the prompt and then the pieces in order.

  Args:
    prompts: left-padded prompts, one per group.
    pieces: turns, numbered from turn 0, and what was put between them.
    group_size: rows per prompt.
    temperature: at which the attempts were drawn.

  Returns:
    The rollout; only tokens of turns are in its `loss_mask`.
  """
  tokens = _per_row(prompts.tokens, group_size)
  columns = {
    'tokens': [tokens],
    'positions': [
      _per_row(masks.positions_from_mask(prompts.mask), group_size)
    ],
    'turn': [jnp.full_like(tokens, -1)],
    'logprobs': [jnp.zeros(tokens.shape, jnp.float32)],
  }
  spans, finished, slot = [], [], prompts.tokens.shape[1]
  for piece in pieces:
    width = piece.tokens.shape[1]
    columns['tokens'].append(piece.tokens)
    columns['positions'].append(piece.positions)
    if isinstance(piece, Written):
      turn = jnp.where(piece.positions >= 0, len(spans), -1)
      columns['turn'].append(turn.astype(jnp.int32))
      columns['logprobs'].append(piece.logprobs)
      spans.append((slot, slot + width))
      finished.append(piece.finished)
    else:
      columns['turn'].append(jnp.full_like(piece.tokens, -1))
      columns['logprobs'].append(jnp.zeros(piece.tokens.shape, jnp.float32))
    slot += width
  joined = {k: jnp.concatenate(v, axis=1) for k, v in columns.items()}
  count = prompts.tokens.shape[0]
  warm = jnp.where(jnp.asarray(temperature) > 0, temperature, 1.0)
  return Rollout(
    tokens=joined['tokens'],
    positions=joined['positions'],
    loss_mask=joined['turn'] >= 0,
    turn=joined['turn'],
    sampler_logprobs=joined['logprobs'],
    temperature=jnp.full((count * group_size,), warm, jnp.float32),
    group_id=_per_row(jnp.arange(count, dtype=jnp.int32), group_size),
    example_id=_per_row(prompts.example_id, group_size),
    finished=jnp.stack(finished, axis=1),
    off_context=jnp.zeros((count * group_size,), bool),
    spans=tuple(spans),
    group_size=group_size,
    prompt_slots=prompts.tokens.shape[1],
  )


def write(
  tokens: Int[Array, 'b n'], mask: Bool[Array, 'b n'], start: Int[Array, 'b']
) -> Written:
  """A finished turn that somebody else than the policy has written.

  Args:
    tokens: ids.
    mask: True on real ones.
    start: position of the first.

  Returns:
    The turn, with log-probability 0.
  """
  slots = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1
  return Written(
    tokens=jnp.where(mask, tokens, 0),
    positions=jnp.where(mask, start[:, None] + slots, -1),
    logprobs=jnp.zeros(tokens.shape, jnp.float32),
    finished=jnp.ones(start.shape, bool),
  )


def _per_row(x: Array, group_size: int) -> Array:
  return jnp.repeat(x, group_size, axis=0)
