"""Where the real tokens are, and which turn wrote them.

Empty slots may lie anywhere in a row (see `types`), so "the first n slots"
means nothing here; the mask does.
"""

from __future__ import annotations

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

  Source: none; a convention of this project.
  Differs: no.

  >>> take_by_turn(jnp.array([[3.0, 4.0]]), jnp.array([[0, -1, 1]])).tolist()
  [[3.0, 0.0, 4.0]]
  """
  placed = jnp.take_along_axis(values, jnp.maximum(turn, 0), axis=1)
  return jnp.where(turn >= 0, placed, 0)


def turn_sums(
  values: Float[Array, 'b t'], turn: Int[Array, 'b t'], *, turns: int
) -> Float[Array, 'b turns']:
  """Sums of per-token values over the tokens that each turn wrote.

  Sᵢ = Σₜ xₜ 1{turnₜ = i}

  Args:
    values: per-token values; ignored on tokens that no turn wrote.
    turn: turn that wrote the token, from 0 and below `turns`; -1 on every
      other token.
    turns: how many, at least 1.

  Returns:
    One sum per row and turn.

  Source: none; a convention of this project.
  Differs: no.

  >>> turn_sums(jnp.ones((1, 3)), jnp.array([[0, -1, 0]]), turns=2).tolist()
  [[2.0, 0.0]]
  """
  sums = [
    jnp.sum(jnp.where(turn == i, values, 0), axis=1) for i in range(turns)
  ]
  return jnp.stack(sums, axis=1)


def take_at_ends(
  values: Float[Array, 'b t'], turn: Int[Array, 'b t'], *, turns: int
) -> Float[Array, 'b turns']:
  """Of each turn the value on the last token that it wrote.

  Vᵢ = xₜ at the largest t with turnₜ = i, and 0 where there is none

  Args:
    values: per-token values.
    turn: turn that wrote the token, from 0 and below `turns`; -1 on every
      other token.
    turns: how many, at least 1.

  Returns:
    One value per row and turn; what `at_ends` placed there.

  Source: none; a convention of this project.
  Differs: no.

  >>> x = jnp.array([[1.0, 2.0, 3.0]])
  >>> take_at_ends(x, jnp.array([[0, 0, -1]]), turns=2).tolist()
  [[2.0, 0.0]]
  """
  ones = jnp.ones((turn.shape[0], turns), values.dtype)
  last = at_ends(ones, turn) > 0
  return turn_sums(jnp.where(last, values, 0), turn, turns=turns)


def at_ends(
  values: Float[Array, 'b turns'], turn: Int[Array, 'b t']
) -> Float[Array, 'b t']:
  """Per-turn values, placed on the last token that each turn wrote.

  xₜ = values[turnₜ] where no later token is of that turn, else 0

  Args:
    values: one value per row and turn.
    turn: turn that wrote the token, from 0 and below `turns`; -1 on every
      other token.

  Returns:
    Per-token values; a turn that wrote nothing is nowhere.

  Source: none; a convention of this project.
  Differs: no.

  >>> at_ends(jnp.array([[3.0, 4.0]]), jnp.array([[0, 0, -1, 1]])).tolist()
  [[0.0, 3.0, 0.0, 4.0]]
  """
  slots = jnp.arange(turn.shape[1], dtype=jnp.int32)[None, :]
  placed = jnp.zeros(turn.shape, values.dtype)
  for i in range(values.shape[1]):
    last = jnp.max(jnp.where(turn == i, slots, -1), axis=1, keepdims=True)
    placed = jnp.where(slots == last, values[:, i : i + 1], placed)
  return placed


def behind(values: Float[Array, 'b t']) -> Float[Array, 'b t']:
  """For each slot the value of the next one.

  yₜ = xₜ₊₁, and 0 in the last slot

  What a critic says about a token is about the state in which it is still to
  be written; this is what it says about the state behind the token.

  Args:
    values: per-token values.

  Returns:
    Per-token values.

  Source: none; a convention of this project.
  Differs: no.

  >>> behind(jnp.array([[1.0, 2.0, 3.0]])).tolist()
  [[2.0, 3.0, 0.0]]
  """
  return jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
