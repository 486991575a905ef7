"""One attempt at each prompt."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from selfimprove import types
from selfimprove.rollout.assemble import assemble
from selfimprove.rollout.decode import (
  Sampling,
  check_sizes,
  decode,
  prefill,
  row_keys,
)
from selfimprove.types import Params, Policy, Prompts, Rollout


@types.record
class Single:
  """Samples `group_size` independent attempts at each prompt.

  Attributes:
    eos_ids: ids that end an attempt.
    sampling: how tokens are drawn.
    group_size: attempts per prompt, >= 1.
    max_new_tokens: length limit of an attempt, EOS included.
  """

  eos_ids: Int[Array, 'e'] | tuple[int, ...]
  sampling: Sampling
  group_size: int = types.static()
  max_new_tokens: int = types.static()

  def __post_init__(self) -> None:
    check_sizes(self.group_size, (self.max_new_tokens,))

  def __call__(
    self, policy: Policy, params: Params, prompts: Prompts, key: jax.Array
  ) -> Rollout:
    """Returns a rollout with one turn; see `algorithms.base.RolloutFn`."""
    params = policy.decode_params(params)
    context = prefill(
      policy,
      params,
      prompts,
      group_size=self.group_size,
      slots=self.max_new_tokens,
    )
    attempt = decode(
      policy,
      params,
      context,
      row_keys(key, prompts, self.group_size),
      first_slot=0,
      max_new_tokens=self.max_new_tokens,
      eos_ids=jnp.asarray(self.eos_ids),
      how=self.sampling,
    )
    return assemble(
      prompts,
      [attempt.written],
      group_size=self.group_size,
      temperature=self.sampling.temperature,
    )
