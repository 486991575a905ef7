"""An attempt, an instruction to correct it, another attempt, and so on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from selfimprove import types
from selfimprove.rollout.assemble import assemble
from selfimprove.rollout.decode import (
  Attempt,
  Insertion,
  Sampling,
  Written,
  check_sizes,
  decode,
  extend,
  insertion,
  prefill,
  row_keys,
)
from selfimprove.types import Params, Policy, Prompts, Rollout


@types.record
class Revise:
  """Samples conversations of two or more attempts (SCoRe, arXiv 2409.12917).

  Prompt, attempt, instruction and further attempts are one program: each
  attempt continues the cache of the one before, and nothing is decoded to text
  between them.

  Attributes:
    eos_ids: ids that end an attempt.
    instruction: ids put behind an attempt, at least one; they never say whether
      it was right.
    closing: ids put before the instruction where an attempt does not end with
      the last of them, because it was cut at its limit; None for nothing.
    sampling: how tokens are drawn.
    group_size: conversations per prompt, >= 1.
    max_new_tokens: length limit of each attempt, EOS included; as many attempts
      as limits, at least two.
  """

  eos_ids: Int[Array, 'e'] | tuple[int, ...]
  instruction: Int[Array, 'i']
  closing: Int[Array, 'c'] | None = None
  sampling: Sampling
  group_size: int = types.static()
  max_new_tokens: tuple[int, ...] = types.static()

  def __post_init__(self) -> None:
    if len(self.max_new_tokens) < 2:
      raise ValueError(
        f'Revise.max_new_tokens is {self.max_new_tokens}: it has one limit per '
        'attempt, at least two; for a single attempt use single.Single.'
      )
    check_sizes(self.group_size, self.max_new_tokens)

  def __call__(
    self, policy: Policy, params: Params, prompts: Prompts, key: jax.Array
  ) -> Rollout:
    """Returns a rollout with as many turns; see `algorithms.base.RolloutFn`."""
    params = policy.decode_params(params)
    closing = () if self.closing is None else self.closing
    between = self.instruction.shape[0] + len(closing)
    keys = row_keys(key, prompts, self.group_size)
    context = prefill(
      policy,
      params,
      prompts,
      group_size=self.group_size,
      slots=sum(self.max_new_tokens) + between * (len(self.max_new_tokens) - 1),
    )
    pieces: list[Written | Insertion] = []
    attempt: Attempt | None = None
    slot = 0
    for limit in self.max_new_tokens:
      if attempt is not None:
        told = insertion(
          attempt.written, context.position, self.instruction, self.closing
        )
        context = extend(policy, params, attempt, told)
        pieces.append(told)
        slot += between
      attempt = decode(
        policy,
        params,
        context,
        keys,
        first_slot=slot,
        max_new_tokens=limit,
        eos_ids=jnp.asarray(self.eos_ids),
        how=self.sampling,
      )
      pieces.append(attempt.written)
      slot += limit
    return assemble(
      prompts,
      pieces,
      group_size=self.group_size,
      temperature=self.sampling.temperature,
    )
