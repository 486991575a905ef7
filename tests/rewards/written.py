"""Rollouts of two attempts, written by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from selfimprove.types import Prompts, Rollout

PROMPT_SLOTS = 2
SPANS = ((2, 6), (7, 11))  # Slot 6 holds an instruction.
_INSTRUCTION = 9


def rollout(rows, *, finished=True, group_size=1, pad=0):
  """Rows of two attempts, each the list of ids that the policy wrote."""
  b, t = len(rows), SPANS[-1][1]
  tokens, turn = np.full((b, t), _INSTRUCTION), np.full((b, t), -1)
  for row, attempts in enumerate(rows):
    for index, ((first, end), ids) in enumerate(zip(SPANS, attempts)):
      tokens[row, first:end] = pad
      tokens[row, first : first + len(ids)] = ids
      turn[row, first : first + len(ids)] = index
  prompt = jnp.arange(b, dtype=jnp.int32) // group_size
  return Rollout(
    tokens=jnp.asarray(tokens, jnp.int32),
    positions=jnp.zeros((b, t), jnp.int32),
    loss_mask=jnp.asarray(turn >= 0),
    turn=jnp.asarray(turn, jnp.int32),
    sampler_logprobs=jnp.zeros((b, t)),
    temperature=jnp.ones(b),
    group_id=prompt,
    example_id=prompt,
    finished=jnp.broadcast_to(jnp.asarray(finished), (b, len(SPANS))),
    off_context=jnp.zeros(b, bool),
    spans=SPANS,
    group_size=group_size,
    prompt_slots=PROMPT_SLOTS,
  )


def prompts(answers, *, width=3, pad=0):
  """Prompts whose reference answers are lists of ids."""
  p = len(answers)
  answer, mask = np.full((p, width), pad), np.zeros((p, width), bool)
  for row, ids in enumerate(answers):
    answer[row, : len(ids)], mask[row, : len(ids)] = ids, True
  return Prompts(
    tokens=jnp.zeros((p, PROMPT_SLOTS), jnp.int32),
    mask=jnp.ones((p, PROMPT_SLOTS), bool),
    example_id=jnp.arange(p, dtype=jnp.int32),
    answer=jnp.asarray(answer, jnp.int32),
    answer_mask=jnp.asarray(mask),
    extra={},
  )
