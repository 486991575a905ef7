"""The nouns of the framework: frozen dataclasses of arrays, one per arrow.

    Prompts -rollout-> Rollout -reward, credit-> Experience -terms-> Estimate

Every structure is made whole by one stage and only read by the later ones: a
new stage makes a new type, it never adds a field to an earlier one.

Dimensions, here and in every shape string: `p` prompts, `g` samples of one
prompt (the group), `b = p * g` rows, rows of one group being neighbours; `s`
prompt slots, `t` slots of a whole row, `a` answer slots, `v` vocabulary,
`d` embedding, `h` heads, `k` head size, `l` layers.

A *slot* is a column of `tokens`; a *position* counts the real tokens of a row
from 0, and is -1 in an empty slot. Columns mean the same in every row (prompt,
attempt, instruction, attempt), so rows of unequal length leave gaps; the gaps
have position -1, are attended by nobody and change no result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_T = TypeVar('_T')

Params = Any
"""A pytree of parameter arrays."""

Metrics = dict[str, Any]
"""Metric name (`stage/quantity`) -> scalar array or `Estimate`."""


def static(**kwargs: Any) -> Any:
  """Declares a field of a `record` that is structure, not data.

  Static fields are hashed into the compilation key instead of being traced.

  Args:
    **kwargs: passed to `dataclasses.field`.

  Returns:
    The dataclass field.
  """
  return dataclasses.field(metadata={'static': True}, **kwargs)


@dataclass_transform(
  frozen_default=True, kw_only_default=True, field_specifiers=(static,)
)
def record(cls: type[_T]) -> type[_T]:
  """Makes `cls` a frozen, keyword-only dataclass that is also a pytree.

  Whatever fills a slot of an algorithm is a record: its numbers are array
  leaves and its type is structure, so two algorithms that differ in numbers
  only share one compiled program.

  Args:
    cls: class whose annotations are the fields; mark structure with `static`.

  Returns:
    The dataclass, registered with JAX.
  """
  data_cls: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
  fields = [field for field in dataclasses.fields(data_cls) if field.init]
  meta = [f.name for f in fields if f.metadata.get('static')]
  data = [f.name for f in fields if not f.metadata.get('static')]

  # Not `register_dataclass`: for JAX two of its structures are the same where
  # only the types differ, so that one algorithm could run another's program.
  def structure(x: Any) -> tuple[Any, ...]:
    return data_cls, *(getattr(x, name) for name in meta)

  def flatten(x: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return tuple(getattr(x, name) for name in data), structure(x)

  def flatten_with_keys(x: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    keyed = ((jax.tree_util.GetAttrKey(n), getattr(x, n)) for n in data)
    return tuple(keyed), structure(x)

  def unflatten(aux: tuple[Any, ...], children: Iterable[Any]) -> Any:
    return data_cls(
      **dict(zip(data, children, strict=True)),
      **dict(zip(meta, aux[1:], strict=True)),
    )

  jax.tree_util.register_pytree_with_keys(
    data_cls, flatten_with_keys, unflatten, flatten
  )
  return data_cls


@record
class Text:
  """One text per problem, as token ids padded on the right.

  Attributes:
    tokens: ids.
    mask: True on real ids.
  """

  tokens: Int[Array, 'p n']
  mask: Bool[Array, 'p n']


@record
class Prompts:
  """A batch of problems, made by the data room.

  Attributes:
    tokens: prompt ids, padded on the LEFT: the last slot of a row is real.
    mask: True on real tokens.
    example_id: `row + epoch * rows`: the row of the host table of references
      (modulo its length), and the identity of the draw for keyed sampling.
    answer: reference answer ids, padded on the right, without EOS.
    answer_mask: True on real answer ids; a row without a token-exact answer
      is all False.
    extra: further texts of the problem that the task names, such as a hint,
      read with `text`.
  """

  tokens: Int[Array, 'p s']
  mask: Bool[Array, 'p s']
  example_id: Int[Array, 'p']
  answer: Int[Array, 'p a']
  answer_mask: Bool[Array, 'p a']
  extra: Mapping[str, Text]

  def text(self, name: str) -> Text:
    """Returns the named extra text; KeyError names what the task has."""
    if name not in self.extra:
      raise KeyError(
        f'The task gives no text {name!r} with its problems, only '
        f'{sorted(self.extra)}; add {name!r} and its width to the '
        '`extra_tokens` of the task.'
      )
    return self.extra[name]


@record
class Rollout:
  """Finished samples: everything a reward, a credit rule or a loss may read.

  Attributes:
    tokens: ids of prompt, attempts and whatever was put between them.
    positions: index of the token among the real tokens of its row, -1 in an
      empty slot.
    loss_mask: True exactly on the tokens that the policy wrote (its EOS
      included): not prompt, instruction, hint, tool output or padding.
    turn: index of the attempt that a policy-written token belongs to; -1 on
      every other token.
    sampler_logprobs: log-probability, in the distribution that the token was
      drawn from (temperature and truncation included); 0 where `loss_mask` is
      False.
    temperature: at which the row was sampled, 1 for demonstrations and for
      greedy rows; the trainer scores in the same distribution.
    group_id: index of the row's prompt in the batch.
    example_id: `Prompts.example_id` of the row's prompt.
    finished: True where the attempt ended with an EOS token rather than at its
      length limit.
    off_context: True where the row was sampled behind another context than
      the one in its columns (behind a hint); its `sampler_logprobs` belong to
      that other context.
    spans: first and last-plus-one slot of each attempt.
    group_size: rows per prompt; the rows of a group are neighbours and share
      the first `prompt_slots` slots.
    prompt_slots: width of the prompt.
  """

  tokens: Int[Array, 'b t']
  positions: Int[Array, 'b t']
  loss_mask: Bool[Array, 'b t']
  turn: Int[Array, 'b t']
  sampler_logprobs: Float[Array, 'b t']
  temperature: Float[Array, 'b']
  group_id: Int[Array, 'b']
  example_id: Int[Array, 'b']
  finished: Bool[Array, 'b turns']
  off_context: Bool[Array, 'b']
  spans: tuple[tuple[int, int], ...] = static()
  group_size: int = static()
  prompt_slots: int = static()


@record
class Experience:
  """What the loss terms read: a rollout with its credit.

  Attributes:
    rollout: the samples; a micro-batch holds whole groups.
    rewards: of each attempt, as the verifier gave them.
    advantages: credit of each token; 0 where the token has none.
    weight: sample weight; 0 drops the row from every term and every count.
    streams: per-token arrays without gradient that the algorithm `needs`
      (`old_logprobs`, `ref_logprobs`, `values`, ...), read with `stream`.
  """

  rollout: Rollout
  rewards: Float[Array, 'b turns']
  advantages: Float[Array, 'b t']
  weight: Float[Array, 'b']
  streams: Mapping[str, Float[Array, 'b t']]

  def stream(self, name: str) -> Float[Array, 'b t']:
    """Returns the named stream; KeyError names what to add to `needs`."""
    return _declared(self.streams, name)


@record
class Scores:
  """What the policy being trained says about the tokens of a rollout.

  Attributes:
    logprobs: log-probability of each token given its past, differentiable; 0
      in slots that no token of the row predicts.
    streams: further differentiable per-token quantities that the algorithm
      `needs` (`entropy`, `exact_kl`, `values`), read with `stream`.
  """

  logprobs: Float[Array, 'b t']
  streams: Mapping[str, Float[Array, 'b t']]

  def stream(self, name: str) -> Float[Array, 'b t']:
    """Returns the named stream; KeyError names what to add to `needs`."""
    return _declared(self.streams, name)


@record
class Estimate:
  """A mean that has not been divided yet.

  Totals and counts add up over micro-batches and devices, so that the mean
  does not depend on how a batch was cut.

  Attributes:
    total: sum of the values.
    count: what the sum is to be divided by.
  """

  total: Float[Array, '']
  count: Float[Array, '']

  def __add__(self, other: Estimate) -> Estimate:
    return Estimate(
      total=self.total + other.total, count=self.count + other.count
    )

  def mean(self) -> Float[Array, '']:
    """Returns total / count, and 0 where nothing was counted."""
    return self.total / jnp.maximum(self.count, 1e-9)


class Policy(NamedTuple):
  """A language model as pure functions.

  A cache is an argument and a result. It holds a *shared* part that is only
  read, each row of it serving a run of neighbouring rows of the batch, and an
  *own* part that calls append to.

  Attributes:
    init: (key) -> params.
    apply: (params, tokens i32[b n], positions i32[b n], cache or None) ->
      (hidden f[b n d], cache). The tokens see the cache and, causally, each
      other; empty slots (position -1) are seen by nobody. Without a cache the
      result is one whose own part holds exactly these tokens.
    follow: (params, prompts (tokens i32[p m], positions i32[p m]), tokens
      i32[b n], positions i32[b n], segments i32[b n] or None) -> (hidden of the
      prompts f[p m d], hidden of what follows f[b n d]). What `apply` says of
      the prompts and of b / p neighbouring rows behind each, of which tokens
      see none of other segments; for training, where each layer of parameters
      is then fetched once for both.
    unembed: (params, hidden f[... d]) -> logits f32[... v].
    fork: (cache, group_size, slots) -> cache in which all that was own is
      shared by `group_size` rows each, with room for `slots` own tokens.
    decode_params: (params) -> the same parameters laid out for many small
      calls; `apply` and `unembed` take either.
    logical_axes: () -> tree of tuples of logical axis names, like params.
  """

  init: Callable[[jax.Array], Params]
  apply: Callable[..., tuple[Array, Any]]
  follow: Callable[..., tuple[Array, Array]]
  unembed: Callable[[Params, Array], Array]
  fork: Callable[..., Any]
  decode_params: Callable[[Params], Params]
  logical_axes: Callable[[], Any]


class Critic(NamedTuple):
  """A network that says one number about every token, as pure functions.

  It serves as value function and as reward model: the same trunk as a policy,
  with another head.

  Attributes:
    init: (key) -> params.
    follow: like `Policy.follow`, to hidden states.
    value: (params, hidden f[... d]) -> f32[...].
    logical_axes: () -> tree of tuples of logical axis names, like params.
  """

  init: Callable[[jax.Array], Params]
  follow: Callable[..., tuple[Array, Array]]
  value: Callable[[Params, Array], Array]
  logical_axes: Callable[[], Any]


class Adapters(NamedTuple):
  """Few parameters that are trained in place of all of a policy's.

  Attributes:
    init: (key) -> adapters with which the policy is still its base.
    join: (base, adapters) -> params of the policy; the arrays of the base are
      handed on, not copied. Without adapters, `{}`, they are the base.
    logical_axes: () -> tree of tuples of logical axis names, like adapters.
  """

  init: Callable[[jax.Array], Params]
  join: Callable[[Params, Params], Params]
  logical_axes: Callable[[], Any]


def _declared(streams: Mapping[str, Any], name: str) -> Any:
  if name not in streams:
    raise KeyError(
      f'Stream {name!r} was not computed; available: {sorted(streams)}. '
      f'Add {name!r} to `Algorithm.needs`.'
    )
  return streams[name]
