"""Stops at the first number that is not one, and names where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_KINDS = ('finite', 'nan', 'inf')


START_AGAIN = (
  'start in another --workdir from the last checkpoint '
  "(experiment.Experiment.init_from = '<this workdir>/checkpoints')"
)
"""How to go on with other settings, which a workdir refuses."""


class NonFiniteError(FloatingPointError):
  """A loss term or a gradient is NaN or infinite."""


def finite_codes(
  losses: Mapping[str, Float[Array, '']], grads: Any
) -> Int[Array, 'checks']:
  """One small number per loss term and per gradient leaf, computed in graph.

      codeᵢ = 1 if a NaN is in xᵢ, else 2 if an infinity is, else 0

  Args:
    losses: terms of the loss by name.
    grads: pytree of gradients.

  Returns:
    Codes of the terms in the order of their names, then of the leaves.
  """
  checked = [losses[name] for name in sorted(losses)] + jax.tree.leaves(grads)
  return jnp.stack([_code(jnp.asarray(values)) for values in checked])


def nonfinite_name(
  codes: Int[Array, 'checks'] | np.ndarray, *, terms: Iterable[str], params: Any
) -> str | None:
  """The first thing that is not finite; the loss terms come first.

  Args:
    codes: what `finite_codes` returned.
    terms: names of the loss terms, in any order.
    params: pytree with the structure of the gradients.

  Returns:
    'loss term `kl` is not finite (nan)', or None if all is well.

  Raises:
    ValueError: the codes are of other terms or parameters.
  """
  names = [f'loss term `{name}`' for name in sorted(terms)]
  names += [
    f'gradient of `{jax.tree_util.keystr(path, simple=True, separator="/")}`'
    for path, _ in jax.tree.leaves_with_path(params)
  ]
  values = np.asarray(codes)
  if values.shape != (len(names),):
    raise ValueError(
      f'{values.shape} codes for {len(names)} names: give the terms and the '
      'parameters that `finite_codes` was given.'
    )
  bad = np.flatnonzero(values)
  if not bad.size:
    return None
  return f'{names[bad[0]]} is not finite ({_KINDS[values[bad[0]]]})'


def check_finite(
  step: int,
  codes: Int[Array, 'checks'] | np.ndarray,
  *,
  terms: Iterable[str],
  params: Any,
) -> None:
  """Lets finite steps pass.

  Args:
    step: whose loss and gradient were checked.
    codes: what `finite_codes` returned.
    terms: names of the loss terms, in any order.
    params: pytree with the structure of the gradients.

  Raises:
    NonFiniteError: something is NaN or infinite.
  """
  found = nonfinite_name(codes, terms=terms, params=params)
  if found is not None:
    raise NonFiniteError(
      f'Step {step}: {found}; lower the learning rate or `max_grad_norm` and '
      f'{START_AGAIN}, which is from before this step.'
    )


def _code(values: Array) -> Int[Array, '']:
  finite_or_inf = jnp.where(jnp.all(jnp.isfinite(values)), 0, 2)
  return jnp.where(jnp.any(jnp.isnan(values)), 1, finite_or_inf).astype(
    jnp.int32
  )
