"""An attempt, an instruction to correct it, and a second attempt."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from selfimprove import types
from selfimprove.rollout.assemble import Insertion, assemble
from selfimprove.rollout.decode import (
  Sampling,
  check_sizes,
  decode,
  extend,
  prefill,
  row_keys,
)
from selfimprove.types import Params, Policy, Prompts, Rollout


@types.record
class Revise:
  """Samples two-attempt conversations (SCoRe, arXiv 2409.12917, section 3).

  Prompt, attempt, instruction and second attempt are one program: the second
  attempt continues the cache of the first, and nothing is decoded to text
  between them.

  Attributes:
    eos_ids: ids that end an attempt.
    instruction: ids put behind the first attempt, at least one; they never say
      whether it was right.
    sampling: how tokens are drawn.
    group_size: conversations per prompt, >= 1.
    max_new_tokens: length limit of each of the two attempts, EOS included.
  """

  eos_ids: Int[Array, 'e'] | tuple[int, ...]
  instruction: Int[Array, 'i']
  sampling: Sampling
  group_size: int = types.static()
  max_new_tokens: tuple[int, int] = types.static()

  def __post_init__(self) -> None:
    check_sizes(self.group_size, self.max_new_tokens)

  def __call__(
    self, policy: Policy, params: Params, prompts: Prompts, key: jax.Array
  ) -> Rollout:
    """Returns a rollout with two turns; see `algorithms.base.RolloutFn`."""
    params = policy.decode_params(params)
    first_limit, second_limit = self.max_new_tokens
    between = self.instruction.shape[0]
    keys = row_keys(key, prompts, self.group_size)
    context = prefill(
      policy,
      params,
      prompts,
      group_size=self.group_size,
      slots=first_limit + between + second_limit,
    )
    first = decode(
      policy,
      params,
      context,
      keys,
      first_slot=0,
      max_new_tokens=first_limit,
      eos_ids=jnp.asarray(self.eos_ids),
      how=self.sampling,
    )
    middle, positions = extend(
      policy, params, first, context.position, self.instruction
    )
    second = decode(
      policy,
      params,
      middle,
      keys,
      first_slot=first_limit + between,
      max_new_tokens=second_limit,
      eos_ids=jnp.asarray(self.eos_ids),
      how=self.sampling,
    )
    told = jnp.broadcast_to(self.instruction[None, :], positions.shape)
    insertion = Insertion(tokens=told, positions=positions)
    return assemble(
      prompts,
      [first.written, insertion, second.written],
      group_size=self.group_size,
      temperature=self.sampling.temperature,
    )
