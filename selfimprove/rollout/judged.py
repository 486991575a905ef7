"""Rollouts of answers that come with a judgement: data of reward models."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from selfimprove import types
from selfimprove.rollout.assemble import assemble, write
from selfimprove.rollout.demonstrations import ended
from selfimprove.types import Params, Policy, Prompts, Rollout, Text


@types.record
class Compare:
  """Two rows per prompt: the answer of the task, and one that is worse.

  Attributes:
    eos_ids: ids of which the first ends an answer.
    rejected: name of the worse answer among the extra texts of the task.
  """

  eos_ids: Int[Array, 'e'] | tuple[int, ...]
  rejected: str = types.static(default='rejected')

  @property
  def group_size(self) -> int:
    """Rows per prompt."""
    return 2

  def __call__(
    self, policy: Policy, params: Params, prompts: Prompts, key: jax.Array
  ) -> Rollout:
    """Returns pairs, the better row first; see `algorithms.base.RolloutFn`."""
    del policy, params, key  # Nothing is sampled.
    eos = jnp.asarray(self.eos_ids)
    chosen = Text(tokens=prompts.answer, mask=prompts.answer_mask)
    pair = [ended(chosen, eos), ended(prompts.text(self.rejected), eos)]
    width = max(text.tokens.shape[1] for text in pair)

    def joined(*columns: Array) -> Array:
      room = [((0, 0), (0, width - x.shape[1])) for x in columns]
      wide = [jnp.pad(x, pad) for x, pad in zip(columns, room)]
      return jnp.stack(wide, axis=1).reshape(-1, width)

    both = jax.tree.map(joined, *pair)
    start = jnp.sum(prompts.mask, axis=-1, dtype=jnp.int32)
    turn = write(both.tokens, both.mask, jnp.repeat(start, 2))
    return assemble(prompts, [turn], group_size=2)


@types.record
class Steps:
  """The answer of the task, in which each labelled step is a turn of its own.

  Step i is what `step_ends` divides the answer into. Turn i is step i, so that
  the reward of an attempt is that of a step; the EOS token and steps behind
  the last label, which are there to be read, belong to none.

  Attributes:
    eos_ids: ids of which the first ends the answer.
    step_ends: ids that end a step; the last step may go without.
    labels: name among the extra texts of the task of the labels of the steps:
      one token each. Its width is the most steps that are judged.
  """

  eos_ids: Int[Array, 'e'] | tuple[int, ...]
  step_ends: Int[Array, 'n'] | tuple[int, ...]
  labels: str = types.static(default='labels')

  @property
  def group_size(self) -> int:
    """Rows per prompt."""
    return 1

  def __call__(
    self, policy: Policy, params: Params, prompts: Prompts, key: jax.Array
  ) -> Rollout:
    """Returns divided answers; see `algorithms.base.RolloutFn`."""
    del policy, params, key  # Nothing is sampled.
    answer = Text(tokens=prompts.answer, mask=prompts.answer_mask)
    whole = ended(answer, jnp.asarray(self.eos_ids))
    start = jnp.sum(prompts.mask, axis=-1, dtype=jnp.int32)
    made = assemble(
      prompts, [write(whole.tokens, whole.mask, start)], group_size=1
    )
    labels = prompts.text(self.labels).mask
    turn = self._turn(made, jnp.sum(labels, axis=1))
    turns = labels.shape[1]
    return dataclasses.replace(
      made,
      turn=turn,
      loss_mask=turn >= 0,
      finished=jnp.ones((turn.shape[0], turns), bool),
      spans=made.spans * turns,
    )

  def _turn(
    self, made: Rollout, labelled: Int[Array, 'p']
  ) -> Int[Array, 'p t']:
    """The step of each token, -1 outside of those that have a label."""
    ends = jnp.isin(made.tokens, jnp.asarray(self.step_ends)) & made.loss_mask
    step = jnp.cumsum(ends, axis=1, dtype=jnp.int32) - ends
    length = jnp.sum(made.loss_mask, axis=1, dtype=jnp.int32)
    rank = jnp.cumsum(made.loss_mask, axis=1, dtype=jnp.int32)
    inside = made.loss_mask & (rank < length[:, None])  # Without EOS.
    return jnp.where(inside & (step < labelled[:, None]), step, -1)
