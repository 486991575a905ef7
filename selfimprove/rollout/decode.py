"""The decode loop: one attempt, from a cache to tokens, inside jit."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from selfimprove import types
from selfimprove.ops import masks, sampling
from selfimprove.types import Params, Policy, Prompts

_RANGES = {
  'temperature': 'a finite number from 0 on',
  'top_k': 'at least 1; None keeps all tokens',
  'top_p': 'in (0, 1]; None keeps all tokens',
}


@types.record
class Sampling:
  """How a token is drawn from logits.

  Attributes:
    temperature: at least 0; 0 takes the likeliest token.
    top_k: tokens kept, at least 1; None for all.
    top_p: probability kept, in (0, 1]; None for all.
  """

  temperature: float | Array = 1.0
  top_k: int | None = types.static(default=None)
  top_p: float | Array | None = None

  def __post_init__(self) -> None:
    # Inside a traced function they are not numbers.
    for name, value, least, most in (
      ('temperature', self.temperature, 0, sys.float_info.max),
      ('top_k', self.top_k, 1, math.inf),
      ('top_p', self.top_p, math.ulp(0.0), 1),
    ):
      if isinstance(value, float | int) and not least <= value <= most:
        raise ValueError(f'{name}={value} is not {_RANGES[name]}.')


@types.record
class Context:
  """A row's past, ready to be continued.

  Attributes:
    cache: the policy's cache of all tokens but the pending one.
    logits: of the next token.
    position: of the next token.
  """

  cache: object
  logits: Float[Array, 'b v']
  position: Int[Array, 'b']


@types.record
class Written:
  """What the policy (or a demonstrator in its place) wrote in one turn.

  Attributes:
    tokens: ids, 0 behind the end.
    positions: -1 behind the end.
    logprobs: of the distribution each token was drawn from.
    finished: whether the turn ended with an EOS token.
  """

  tokens: Int[Array, 'b n']
  positions: Int[Array, 'b n']
  logprobs: Float[Array, 'b n']
  finished: Bool[Array, 'b']


@types.record
class Insertion:
  """Tokens that the policy reads but did not write.

  Attributes:
    tokens: ids, 0 in an empty slot.
    positions: their positions, -1 in an empty slot.
  """

  tokens: Int[Array, 'b i']
  positions: Int[Array, 'b i']


@types.record
class Attempt:
  """A turn that was sampled, and the state in which it ended.

  Attributes:
    written: the turn.
    pending: last token if it is not in the cache yet.
    pending_position: its position, -1 if there is none.
    cache: the cache of everything but the pending token.
  """

  written: Written
  pending: Int[Array, 'b']
  pending_position: Int[Array, 'b']
  cache: object


def check_sizes(group_size: int, limits: Sequence[int]) -> None:
  """Refuses rollouts without samples or without tokens.

  Args:
    group_size: samples per prompt.
    limits: length limit of each attempt.

  Raises:
    ValueError: one of them is below 1.
  """
  for name, value in (
    ('group_size', group_size),
    *(('max_new_tokens', limit) for limit in limits),
  ):
    if value < 1:
      raise ValueError(f'{name}={value} samples nothing; choose at least 1.')


def next_position(start: Int[Array, 'b'], written: Written) -> Int[Array, 'b']:
  """The position behind a turn.

  Args:
    start: position at which the turn began.
    written: the turn.

  Returns:
    Position of the next token of each row.
  """
  return start + jnp.sum(written.positions >= 0, axis=-1, dtype=jnp.int32)


def row_keys(
  key: Key[Array, ''], prompts: Prompts, group_size: int
) -> Key[Array, 'b']:
  """One key per sample: a function of key, prompt identity and sample number.

  Args:
    key: of the step.
    prompts: whose `example_id` identifies each prompt.
    group_size: samples per prompt.

  Returns:
    Keys of the `p * group_size` rows.
  """

  def of_prompt(example_id: Array) -> Array:
    prompt_key = jax.random.fold_in(key, example_id)
    return jax.vmap(lambda i: jax.random.fold_in(prompt_key, i))(
      jnp.arange(group_size)
    )

  return jax.vmap(of_prompt)(prompts.example_id).reshape(-1)


@jax.named_scope('phase.prefill')
def prefill(
  policy: Policy,
  params: Params,
  prompts: Prompts,
  *,
  group_size: int,
  slots: int,
) -> Context:
  """The state before the first token: each prompt read once per group.

  Args:
    policy: the model.
    params: its parameters, in decode layout or not.
    prompts: left-padded prompts.
    group_size: samples per prompt.
    slots: room for what follows the prompt.

  Returns:
    The context of all `p * group_size` rows.
  """
  positions = masks.positions_from_mask(prompts.mask)
  hidden, cache = policy.apply(params, prompts.tokens, positions, None)
  logits = policy.unembed(params, hidden[:, -1])
  return Context(
    cache=policy.fork(cache, group_size=group_size, slots=slots),
    logits=jnp.repeat(logits, group_size, axis=0),
    position=jnp.repeat(positions[:, -1] + 1, group_size, axis=0),
  )


def insertion(
  written: Written,
  start: Int[Array, 'b'],
  instruction: Int[Array, 'i'],
  closing: Int[Array, 'c'] | None = None,
) -> Insertion:
  """What is put behind a turn: the instruction, and what closes the turn first.

  A turn that was cut at its length limit has not been closed by who wrote it;
  where the closing ids end the turn already, their slots stay empty.

  Args:
    written: the turn.
    start: position at which it began.
    instruction: ids, the same for all rows; at least one.
    closing: ids that end a turn, the last of which tells that it has ended;
      None or none where turns need no end.

  Returns:
    Tokens and positions; the last slot is real in every row.
  """
  if closing is None:
    closing = instruction[:0]
  begin = next_position(start, written)
  if closing.shape[0]:
    length = jnp.sum(written.positions >= 0, axis=-1, dtype=jnp.int32)
    last = jnp.take_along_axis(
      written.tokens, jnp.maximum(length - 1, 0)[:, None], axis=1
    )[:, 0]
    open_ = (last != closing[-1]) | (length == 0)
  else:
    open_ = jnp.zeros(start.shape, bool)
  ids = jnp.concatenate([closing, instruction]).astype(jnp.int32)
  slots = jnp.arange(ids.shape[0], dtype=jnp.int32)[None, :]
  real = open_[:, None] | (slots >= closing.shape[0])
  skipped = jnp.where(open_, 0, closing.shape[0])[:, None]
  return Insertion(
    tokens=jnp.where(real, ids[None, :], 0),
    positions=jnp.where(real, begin[:, None] + slots - skipped, -1),
  )


@jax.named_scope('phase.extend')
def extend(
  policy: Policy,
  params: Params,
  attempt: Attempt,
  inserted: Insertion,
) -> Context:
  """The state after given tokens have been put behind an attempt.

  The pending token of each row and the inserted ids enter the cache in one
  call; rows may have ended at different lengths.

  Args:
    policy: the model.
    params: its parameters.
    attempt: what came before.
    inserted: what follows it; its last slot is real in every row.

  Returns:
    The context behind the insertion.
  """
  before, position = attempt.pending, attempt.pending_position
  hidden, cache = policy.apply(
    params,
    jnp.concatenate([before[:, None], inserted.tokens], axis=1),
    jnp.concatenate([position[:, None], inserted.positions], axis=1),
    attempt.cache,
  )
  return Context(
    cache=cache,
    logits=policy.unembed(params, hidden[:, -1]),
    position=inserted.positions[:, -1] + 1,
  )


def decode(
  policy: Policy,
  params: Params,
  context: Context,
  keys: Key[Array, 'b'],
  *,
  first_slot: int,
  max_new_tokens: int,
  eos_ids: Int[Array, 'e'],
  how: Sampling,
) -> Attempt:
  """One attempt of every row, ended by EOS or by its length limit.

  The loop stops as soon as every row has ended. Each row's randomness is keyed
  by its own key and the slot of the token, so a row does not change with its
  neighbours.

  Args:
    policy: the model.
    params: its parameters, best in decode layout.
    context: the state to continue; its cache has room for `max_new_tokens`.
    keys: one key per row.
    first_slot: slot of the first token in the rollout; tells turns apart.
    max_new_tokens: >= 1; length limit, EOS included.
    eos_ids: ids that end an attempt.
    how: how tokens are drawn.

  Returns:
    The attempt, with the cache ready to be extended.
  """
  slots = first_slot + jnp.arange(max_new_tokens)
  uniforms = sampling.keyed_uniforms(keys, slots)

  def write(attempt: Attempt, logits: Array, step: Array) -> Attempt:
    drawn = _draw(logits, uniforms, step, how)
    return _append(attempt, drawn, context.position + step, step, eos_ids)

  def more(state: tuple[Array, Attempt]) -> Array:
    step, attempt = state
    return (step < max_new_tokens) & ~jnp.all(attempt.written.finished)

  def body(state: tuple[Array, Attempt]) -> tuple[Array, Attempt]:
    step, attempt = state
    hidden, cache = policy.apply(
      params,
      attempt.pending[:, None],
      attempt.pending_position[:, None],
      attempt.cache,
    )
    attempt = dataclasses.replace(attempt, cache=cache)
    logits = policy.unembed(params, hidden[:, 0])
    return step + 1, write(attempt, logits, step)

  first = write(
    _unwritten(context, max_new_tokens), context.logits, jnp.int32(0)
  )
  # The name tells the attempts of a compiled program apart (`scale`).
  with jax.named_scope(f'phase.decode_{first_slot}'):
    return jax.lax.while_loop(more, body, (jnp.int32(1), first))[1]


def _unwritten(context: Context, slots: int) -> Attempt:
  """An attempt without a token."""
  rows = context.position.shape[0]
  blank = jnp.zeros((rows, slots), jnp.int32)
  return Attempt(
    written=Written(
      tokens=blank,
      positions=blank - 1,
      logprobs=blank.astype(jnp.float32),
      finished=jnp.zeros((rows,), bool),
    ),
    pending=blank[:, 0],
    pending_position=context.position,
    cache=context.cache,
  )


def _draw(
  logits: Float[Array, 'b v'],
  uniforms: Float[Array, 'b n 2'],
  step: Int[Array, ''],
  how: Sampling,
) -> tuple[Int[Array, 'b'], Float[Array, 'b']]:
  """Tokens and their log-probabilities, by the numbers kept for the step."""
  return sampling.sample_tokens(
    logits,
    jax.lax.dynamic_index_in_dim(uniforms, step, axis=1, keepdims=False),
    temperature=how.temperature,
    top_k=how.top_k,
    top_p=how.top_p,
  )


def _append(
  attempt: Attempt,
  drawn: tuple[Int[Array, 'b'], Float[Array, 'b']],
  position: Int[Array, 'b'],
  step: Int[Array, ''],
  eos_ids: Int[Array, 'e'],
) -> Attempt:
  """The attempt with one more token in the rows that have not ended."""
  done, (chosen, logprob) = attempt.written.finished, drawn
  token = jnp.where(done, 0, chosen)
  position = jnp.where(done, -1, position)
  ended = jnp.any(chosen[:, None] == eos_ids[None, :], axis=-1)

  def put(buffer: Array, column: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(
      buffer, column[:, None], step, axis=1
    )

  written = Written(
    tokens=put(attempt.written.tokens, token),
    positions=put(attempt.written.positions, position),
    logprobs=put(attempt.written.logprobs, jnp.where(done, 0.0, logprob)),
    finished=done | ended,
  )
  return Attempt(
    written=written,
    pending=token,
    pending_position=position,
    cache=attempt.cache,
  )
