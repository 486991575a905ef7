"""Attempts and their references as token ids, for verdicts inside the graph."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from selfimprove.types import Prompts, Rollout


def reference_ids(
  rollout: Rollout, prompts: Prompts
) -> tuple[Int[Array, 'b a'], Bool[Array, 'b a']]:
  """The reference answer of each row of a rollout, and its mask.

  Args:
    rollout: samples; prompt i has the rows i*g .. i*g + g-1.
    prompts: the problems they were sampled for.

  Returns:
    Ids and mask of the answers, row by row.

  Raises:
    ValueError: the rollout does not have `group_size` rows per prompt.
  """
  count, group = prompts.answer.shape[0], rollout.group_size
  if rollout.tokens.shape[0] != count * group:
    raise ValueError(
      f'The rollout has {rollout.tokens.shape[0]} rows for {count} prompts, '
      f'which with group_size {group} have {count * group}; give the prompts '
      'it was made from.'
    )
  return (
    jnp.repeat(prompts.answer, group, axis=0),
    jnp.repeat(prompts.answer_mask, group, axis=0),
  )


def attempt_ids(
  rollout: Rollout, turn: int
) -> tuple[Int[Array, 'b n'], Bool[Array, 'b n'], Int[Array, 'b n']]:
  """The slots of an attempt.

  Args:
    rollout: samples.
    turn: which attempt, from 0.

  Returns:
    Tokens; whether the policy wrote them; the place of each among the written
    ones, from 0.
  """
  first, end = rollout.spans[turn]
  written = rollout.turn[:, first:end] == turn
  return (
    rollout.tokens[:, first:end],
    written,
    jnp.cumsum(written, axis=1) - 1,
  )
