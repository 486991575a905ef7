"""What of a block is kept for the backward pass, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

MIXED = 'attention_mixed'
"""The name of what attention mixed, before it is projected."""
_INPUTS = (MIXED, 'query', 'key', 'value')
_OF_ATTENTION = (*_INPUTS, 'out')
KEPT = {
  'full': (),
  'attention': (MIXED,),
  'attention_inputs': _INPUTS,
  'attention_dots': _OF_ATTENTION,
  'most_dots': (*_OF_ATTENTION, 'gate'),
  # Where `dots` does not fit: both wide products, not queries and `out`.
  'mlp_dots': (MIXED, 'key', 'value', 'gate', 'up'),
  'dots': (*_OF_ATTENTION, 'gate', 'up', 'down'),
}
"""Policy -> what it keeps of a block, by the names of its products."""


def recomputed(run: Callable[..., Any], remat: str) -> Callable[..., Any]:
  """`run`, of which the backward pass recomputes what is not kept.

  Args:
    run: a function of arrays.
    remat: one of `config.REMAT`.

  Returns:
    A function of the same values and gradients.
  """
  if remat == 'none':
    return run
  policies = jax.checkpoint_policies
  if remat == 'offload_dots':
    policy = policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[],
      names_which_can_be_offloaded=list(KEPT['dots']),
      offload_src='device',
      offload_dst='pinned_host',
    )
  else:
    policy = policies.save_only_these_names(*KEPT[remat])
  return jax.checkpoint(run, policy=policy)


def kept(x: jax.Array, name: str) -> jax.Array:
  """Returns `x`, under a name that policies know."""
  return checkpoint_name(x, name)
