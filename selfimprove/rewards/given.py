"""Rewards that the data states: what reward models learn from."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from selfimprove import types
from selfimprove.types import Prompts, Rollout


@types.record
class Preferred:
  """1.0 for the first row of a group, 0.0 for others (`judged.Compare`)."""

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns which of the rows are the preferred ones."""
    del prompts  # The order of the rows says it.
    rows, turns = rollout.finished.shape
    first = jnp.arange(rows) % rollout.group_size == 0
    return jnp.broadcast_to(first[:, None], (rows, turns)).astype(jnp.float32)


@types.record
class Labelled:
  """1.0 where the label of an attempt says that it is right, else 0.0.

  The labels are a text of the task with one token per attempt: of the whole
  answer, or of its steps (`judged.Steps`).

  Attributes:
    right: ids of the label of what is right.
    field: name among the extra texts of the task.
  """

  right: Int[Array, 'n'] | tuple[int, ...]
  field: str = types.static()

  def __call__(
    self, rollout: Rollout, prompts: Prompts
  ) -> Float[Array, 'b turns']:
    """Returns the labels.

    Args:
      rollout: the rows.
      prompts: the problems, with their labels.

    Returns:
      1.0 or 0.0 per attempt; 0.0 for an attempt without a label.

    Raises:
      ValueError: there is not room for one label per attempt.
    """
    text, turns = prompts.text(self.field), len(rollout.spans)
    if text.tokens.shape[1] != turns:
      raise ValueError(
        f'The text {self.field!r} has {text.tokens.shape[1]} tokens for '
        f'{turns} attempts; give the task extra_tokens[{self.field!r}] = '
        f'{turns}, one label each.'
      )
    right = jnp.isin(text.tokens, jnp.asarray(self.right)) & text.mask
    rows = jnp.repeat(right, rollout.group_size, axis=0)
    return rows.astype(jnp.float32)
