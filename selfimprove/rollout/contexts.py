"""What is put around a prompt: hints, where the rollout asks for them.

A context rule makes other prompts of given ones; `InContext` samples behind
them and gives the attempts back behind the prompts that they were meant for.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from selfimprove import types
from selfimprove.ops import masks
from selfimprove.types import Params, Policy, Prompts, Rollout, Text


class HintFn(Protocol):
  """Where the text of a hint comes from."""

  def __call__(self, prompts: Prompts) -> Text:
    """Returns one text per problem."""


@types.record
class FieldHint:
  """A hint that the task gives with its problems.

  Attributes:
    field: one of the `extra_tokens` of the task.
  """

  field: str = types.static(default='hint')

  def __call__(self, prompts: Prompts) -> Text:
    """Returns the field's text."""
    return prompts.text(self.field)


@types.record
class AnswerPrefix:
  """The beginning of the reference answer.

  Attributes:
    length: tokens of it, at least 1; more than there are give all of it.
  """

  length: int = types.static()

  def __call__(self, prompts: Prompts) -> Text:
    """Returns the first tokens of the answers."""
    return Text(
      tokens=prompts.answer[:, : self.length],
      mask=prompts.answer_mask[:, : self.length],
    )


@types.record
class FieldPrefix:
  """The beginning of a text that the task gives, such as a worked solution.

  Attributes:
    length: tokens of it, at least 1; more than there are give all of it.
    field: one of the `extra_tokens` of the task.
  """

  length: int = types.static()
  field: str = types.static(default='solution')

  def __call__(self, prompts: Prompts) -> Text:
    """Returns the first tokens of the field's text."""
    text = prompts.text(self.field)
    return Text(
      tokens=text.tokens[:, : self.length], mask=text.mask[:, : self.length]
    )


@types.record
class Hinted:
  """Prompts with a hint behind them: prompt, opening, hint, closing.

  Attributes:
    hint: where its text comes from.
    opening: ids before the hint; perhaps none.
    closing: ids behind the hint; perhaps none.
  """

  hint: HintFn
  opening: Int[Array, 'n']
  closing: Int[Array, 'm']

  def __call__(self, prompts: Prompts) -> Prompts:
    """Returns wider prompts, padded on the left."""
    found, count = self.hint(prompts), prompts.tokens.shape[0]

    def always(ids: Int[Array, 'n']) -> Text:
      tokens = jnp.broadcast_to(ids[None, :], (count, ids.shape[0]))
      return Text(tokens=tokens, mask=jnp.ones(tokens.shape, bool))

    parts = (prompts, always(self.opening), found, always(self.closing))
    tokens, mask = _left_padded(
      jnp.concatenate([part.tokens for part in parts], axis=1),
      jnp.concatenate([part.mask for part in parts], axis=1),
    )
    return dataclasses.replace(prompts, tokens=tokens, mask=mask)


@types.record
class InContext:
  """Attempts that were sampled behind other prompts than they stand behind.

  The rows hold the prompts as they are and the attempts to the hinted ones;
  `off_context` is set, and `sampler_logprobs` are those of the hinted context.

  Source: arXiv 2506.13923 (Guide), section 4.

  Attributes:
    rollout: how the attempts are sampled.
    context: (prompts) -> the prompts that are shown.
  """

  rollout: Any
  context: Any

  @property
  def group_size(self) -> int:
    """Rows per prompt."""
    return self.rollout.group_size

  def __call__(
    self, policy: Policy, params: Params, prompts: Prompts, key: jax.Array
  ) -> Rollout:
    """Returns attempts; see `algorithms.base.RolloutFn`."""
    shown = self.context(prompts)
    sampled = self.rollout(policy, params, shown, key)
    return behind(sampled, prompts, shown)


def behind(rollout: Rollout, prompts: Prompts, shown: Prompts) -> Rollout:
  """Attempts at some prompts, put behind others.

  Args:
    rollout: sampled from `shown`.
    prompts: that are to stand in its rows instead.
    shown: prompts of the same problems.

  Returns:
    The rollout with other prompt columns, positions counted from them.
  """
  group, start = rollout.group_size, rollout.prompt_slots
  shift = jnp.sum(shown.mask, axis=1) - jnp.sum(prompts.mask, axis=1)
  shift = jnp.repeat(shift, group)[:, None].astype(jnp.int32)
  width = prompts.tokens.shape[1]

  def columns(before: Array, x: Array) -> Array:
    before = jnp.repeat(before, group, axis=0)
    return jnp.concatenate([before, x[:, start:]], axis=1)

  place = rollout.positions
  place = jnp.where(place >= 0, place - shift, -1)
  nobody = jnp.full_like(prompts.tokens, -1)
  return dataclasses.replace(
    rollout,
    tokens=columns(prompts.tokens, rollout.tokens),
    positions=columns(masks.positions_from_mask(prompts.mask), place),
    loss_mask=columns(nobody >= 0, rollout.loss_mask),
    turn=columns(nobody, rollout.turn),
    sampler_logprobs=columns(
      jnp.zeros(nobody.shape, jnp.float32), rollout.sampler_logprobs
    ),
    off_context=jnp.ones_like(rollout.off_context),
    spans=tuple(
      (a - start + width, b - start + width) for a, b in rollout.spans
    ),
    prompt_slots=width,
  )


def _left_padded(
  tokens: Int[Array, 'p n'], mask: Bool[Array, 'p n']
) -> tuple[Int[Array, 'p n'], Bool[Array, 'p n']]:
  """The real tokens of each row moved to its end, in their order."""
  order = jnp.argsort(mask, axis=1, stable=True)
  return (
    jnp.take_along_axis(tokens, order, axis=1),
    jnp.take_along_axis(mask, order, axis=1),
  )
