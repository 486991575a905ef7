"""What of a block is kept for the backward pass, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

MIXED = 'attention_mixed'
"""The name of what attention mixed, before it is projected."""
_OF_ATTENTION = (MIXED, 'query', 'key', 'value', 'out')
"""What attention multiplies with parameters, by their names."""

_POLICIES = jax.checkpoint_policies
_KEPT: dict[str, Callable[[], Any]] = {
  'full': lambda: None,
  'attention': lambda: _POLICIES.save_only_these_names(MIXED),
  'attention_dots': lambda: _POLICIES.save_only_these_names(*_OF_ATTENTION),
  'most_dots': lambda: _POLICIES.save_only_these_names(*_OF_ATTENTION, 'gate'),
  'dots': lambda: _POLICIES.save_from_both_policies(
    _POLICIES.dots_with_no_batch_dims_saveable,
    _POLICIES.save_only_these_names(MIXED),
  ),
  'offload_dots': lambda: _POLICIES.offload_dot_with_no_batch_dims(
    'device', 'pinned_host'
  ),
}


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
  return jax.checkpoint(run, policy=_KEPT[remat]())


def kept(x: jax.Array, name: str) -> jax.Array:
  """Returns `x`, under a name that policies know."""
  return checkpoint_name(x, name)
