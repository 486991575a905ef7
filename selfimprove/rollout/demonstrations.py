"""Rollouts that imitate references: the data of supervised training."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from selfimprove import types
from selfimprove.ops import sampling
from selfimprove.ops.keys import named_key
from selfimprove.rollout.assemble import assemble, write
from selfimprove.rollout.decode import (
  Sampling,
  Written,
  decode,
  insertion,
  prefill,
  row_keys,
)
from selfimprove.types import Params, Policy, Prompts, Rollout, Text


@types.record
class Demonstrate:
  """One turn per prompt: the reference answer and an EOS token.

  Attributes:
    eos_ids: the first of them ends the answer.
  """

  eos_ids: Int[Array, 'e'] | tuple[int, ...]
  group_size: int = types.static(default=1)

  def __call__(
    self, policy: Policy, params: Params, prompts: Prompts, key: jax.Array
  ) -> Rollout:
    """Returns demonstrations; see `algorithms.base.RolloutFn`."""
    del policy, params, key  # Demonstrations are not sampled.
    tokens, mask = _answers(prompts, jnp.asarray(self.eos_ids), self.group_size)
    start = jnp.sum(prompts.mask, axis=-1, dtype=jnp.int32)
    start = jnp.repeat(start, self.group_size)
    turn = write(tokens, mask, start)
    return assemble(prompts, [turn], group_size=self.group_size)


@types.record
class NoisyRevisions:
  """Two turns that show how answers are revised, rightly and wrongly.

  The warm start of the self-correction demo. It gives a model the habits that
  SCoRe (arXiv 2409.12917, section 4) finds in pretrained ones: second attempts
  mostly copy the first, sometimes spoil it, and correct it now and then.

  Even rows begin with the reference answer whose first token is replaced, with
  probability `spoil_first`, by another of `alternatives`, and teach both
  turns. Odd rows begin with an attempt sampled from the policy and teach the
  second turn only. The second turn is the reference answer with probability
  `truth`, a near miss of the first turn (its first token moved to a neighbour
  in `alternatives`) with probability `near_miss`, else a copy of it.

  Attributes:
    eos_ids: ids that end a turn; the first is written.
    instruction: ids between the turns.
    closing: see `revise.Revise`.
    alternatives: ids of interchangeable tokens, such as the digits, in order.
    spoil_first: probability, in [0, 1].
    truth: probability, in [0, 1].
    near_miss: probability, in [0, 1 - truth].
    group_size: rows per prompt, even.
  """

  eos_ids: Int[Array, 'e'] | tuple[int, ...]
  instruction: Int[Array, 'i']
  closing: Int[Array, 'c'] | None = None
  alternatives: Int[Array, 'k']
  spoil_first: float = 0.35
  truth: float = 0.25
  near_miss: float = 0.30
  group_size: int = types.static(default=2)

  def __post_init__(self) -> None:
    if self.group_size < 2 or self.group_size % 2:
      raise ValueError(
        f'group_size={self.group_size} is not even; half of the rows of a '
        'prompt begin with a spoilt answer, half with an attempt.'
      )
    shares = (self.spoil_first, self.truth, self.near_miss)
    # Inside a traced function they are not numbers.
    if all(isinstance(share, float | int) for share in shares) and not (
      all(0 <= share <= 1 for share in shares)
      and self.truth + self.near_miss <= 1
    ):
      raise ValueError(
        f'spoil_first={self.spoil_first}, truth={self.truth} and near_miss='
        f'{self.near_miss} are probabilities in [0, 1], the last two of one '
        'choice: their sum is at most 1.'
      )

  def __call__(
    self, policy: Policy, params: Params, prompts: Prompts, key: jax.Array
  ) -> Rollout:
    """Returns demonstrations; see `algorithms.base.RolloutFn`."""
    answer, mask = _answers(prompts, jnp.asarray(self.eos_ids), self.group_size)
    keys = row_keys(named_key(key, 'noise'), prompts, self.group_size)
    noise = sampling.keyed_uniforms(keys, jnp.arange(3)).reshape(-1, 6)
    start = jnp.sum(prompts.mask, axis=-1, dtype=jnp.int32)
    start = jnp.repeat(start, self.group_size)
    spoilt = write(self._spoil(answer, noise), mask, start)
    sampled = self._sample(policy, params, prompts, key, answer.shape[1])
    scripted = jnp.arange(start.shape[0]) % 2 == 0
    first = _choose(scripted, spoilt, sampled)
    between = insertion(first, start, self.instruction, self.closing)
    begin = between.positions[:, -1] + 1
    second = self._revise(first, write(answer, mask, begin), begin, noise)
    rollout = assemble(
      prompts, [first, between, second], group_size=self.group_size
    )
    taught = scripted[:, None] | (rollout.turn == 1)
    return dataclasses.replace(
      rollout,
      loss_mask=rollout.loss_mask & taught,
      sampler_logprobs=jnp.where(taught, rollout.sampler_logprobs, 0.0),
    )

  def _sample(
    self,
    policy: Policy,
    params: Params,
    prompts: Prompts,
    key: jax.Array,
    slots: int,
  ) -> Written:
    """First turns written by the policy itself."""
    params = policy.decode_params(params)
    group = self.group_size
    context = prefill(policy, params, prompts, group_size=group, slots=slots)
    attempt = decode(
      policy,
      params,
      context,
      row_keys(key, prompts, group),
      first_slot=0,
      max_new_tokens=slots,
      eos_ids=jnp.asarray(self.eos_ids),
      how=Sampling(),
    )
    return attempt.written

  def _spoil(
    self, answer: Int[Array, 'b n'], noise: Float[Array, 'b 6']
  ) -> Int[Array, 'b n']:
    """The answer, its first token perhaps another of the alternatives."""
    count = self.alternatives.shape[0]
    jump = 1 + jnp.floor(noise[:, 1] * (count - 1)).astype(jnp.int32)
    return self._move(
      answer, jnp.where(noise[:, 0] < self.spoil_first, jump, 0)
    )

  def _revise(
    self,
    first: Written,
    truth: Written,
    begin: Int[Array, 'b'],
    noise: Float[Array, 'b 6'],
  ) -> Written:
    """Second turns: the truth, a near miss of the first turn, or its copy."""
    step = jnp.where(noise[:, 2] < 0.5, 1, -1)
    near = (noise[:, 3] >= self.truth) & (
      noise[:, 3] < self.truth + self.near_miss
    )
    tokens = self._move(first.tokens, jnp.where(near, step, 0))
    length = jnp.sum(first.positions >= 0, axis=-1, dtype=jnp.int32)
    slots = jnp.arange(tokens.shape[1])[None, :]
    copy = write(tokens, slots < length[:, None], begin)
    copy = dataclasses.replace(copy, finished=first.finished)
    return _choose(noise[:, 3] < self.truth, truth, copy)

  def _move(
    self, tokens: Int[Array, 'b n'], steps: Int[Array, 'b']
  ) -> Int[Array, 'b n']:
    """`tokens` with the first moved cyclically along `alternatives`."""
    same = tokens[:, :1] == self.alternatives[None, :]
    place = (jnp.argmax(same, axis=-1) + steps) % self.alternatives.shape[0]
    moved = jnp.where(
      jnp.any(same, axis=-1), self.alternatives[place], tokens[:, 0]
    )
    return tokens.at[:, 0].set(moved)


def _answers(
  prompts: Prompts, eos_ids: Int[Array, 'e'], group_size: int
) -> tuple[Int[Array, 'b n'], Bool[Array, 'b n']]:
  """Reference answers with EOS behind them, and which slots are real."""
  answer = Text(tokens=prompts.answer, mask=prompts.answer_mask)
  whole = ended(answer, eos_ids)
  return (
    jnp.repeat(whole.tokens, group_size, axis=0),
    jnp.repeat(whole.mask, group_size, axis=0),
  )


def ended(text: Text, eos_ids: Int[Array, 'e']) -> Text:
  """Texts with an EOS token behind them.

  Args:
    text: padded on the right.
    eos_ids: of which the first is written.

  Returns:
    Texts of one more slot.
  """
  lengths = jnp.sum(text.mask, axis=-1, dtype=jnp.int32)[:, None]
  slots = jnp.arange(text.tokens.shape[1] + 1)[None, :]
  padded = jnp.pad(text.tokens, ((0, 0), (0, 1)))
  tokens = jnp.where(slots == lengths, eos_ids[0], padded)
  mask = slots <= lengths
  return Text(tokens=jnp.where(mask, tokens, 0), mask=mask)


def _choose(where: Bool[Array, 'b'], a: Written, b: Written) -> Written:
  """Row by row `a` or `b`."""

  def pick(x: Array, y: Array) -> Array:
    return jnp.where(where.reshape((-1,) + (1,) * (x.ndim - 1)), x, y)

  return jax.tree.map(pick, a, b)
