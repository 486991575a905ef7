"""Where the real tokens are, what precedes them, and which turn wrote them.

Empty slots may lie anywhere in a row (see `types`), so neither "the slot to
the left" nor "the first n slots" means anything here; the mask does.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def positions_from_mask(mask: Bool[Array, 'b t']) -> Int[Array, 'b t']:
  """Positions: how many real tokens of the row precede each token.

  positionₜ = Σ_{u ≤ t} maskᵤ − 1 on real tokens, −1 on empty slots.

  Args:
    mask: True on real tokens.

  Returns:
    Positions from 0, and -1 in empty slots.

  Source: none; a convention of this project.
  Differs: no.

  >>> positions_from_mask(jnp.array([[False, True, False, True]])).tolist()
  [[-1, 0, -1, 1]]
  """
  return jnp.where(mask, jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, -1)


def predecessor(mask: Bool[Array, 'b t']) -> Int[Array, 'b t']:
  """Slots of the tokens that predict each token.

  predecessorₜ = max {u < t : maskᵤ} on real tokens: with gaps inside a row, the
  output that predicts a token is not always that of the slot to its left.

  Args:
    mask: True on real tokens.

  Returns:
    Slot of the previous real token of the row; -1 for the first real token of
    a row and in empty slots.

  Source: none; a convention of this project.
  Differs: no.

  >>> predecessor(jnp.array([[False, True, False, True]])).tolist()
  [[-1, -1, -1, 1]]
  """
  slots = jnp.arange(mask.shape[1], dtype=jnp.int32)
  latest = jax.lax.cummax(jnp.where(mask, slots[None, :], -1), axis=1)
  before = jnp.pad(latest, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
  return jnp.where(mask, before, -1)


def turn_sums(
  values: Float[Array, 'b t'], turn: Int[Array, 'b t'], *, turns: int
) -> Float[Array, 'b turns']:
  """Sums of per-token values over the tokens of each turn.

  sᵢ = Σₜ valuesₜ · 1{turnₜ = i}

  Args:
    values: per-token values; those of tokens without a turn are ignored, also
      where they are not finite.
    turn: turn that wrote the token, from 0; -1 on every other token.
    turns: number of turns, at least 1.

  Returns:
    One sum per row and turn.

  Source: none; the transpose of `take_by_turn`.
  Differs: no.

  >>> turn_sums(jnp.ones((1, 3)), jnp.array([[0, -1, 1]]), turns=2).tolist()
  [[1.0, 1.0]]
  """
  index = jnp.arange(turns, dtype=turn.dtype)
  chosen = turn[:, :, None] == index[None, None, :]
  return jnp.sum(jnp.where(chosen, values[:, :, None], 0), axis=1)


def take_by_turn(
  values: Float[Array, 'b turns'], turn: Int[Array, 'b t']
) -> Float[Array, 'b t']:
  """Per-turn values, placed on the tokens that each turn wrote.

  xₜ = values[turnₜ], and 0 where turnₜ = −1

  Args:
    values: one value per row and turn.
    turn: turn that wrote the token, from 0 and below `turns`; -1 on every
      other token.

  Returns:
    Per-token values; 0 on tokens that no turn wrote.

  Source: none; the transpose of `turn_sums`.
  Differs: no.

  >>> take_by_turn(jnp.array([[3.0, 4.0]]), jnp.array([[0, -1, 1]])).tolist()
  [[3.0, 0.0, 4.0]]
  """
  placed = jnp.take_along_axis(values, jnp.maximum(turn, 0), axis=1)
  return jnp.where(turn >= 0, placed, 0)
