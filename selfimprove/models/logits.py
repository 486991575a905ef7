"""The product with the matrix of the vocabulary."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def logits_of(
  hidden: Float[Array, '... d'], kernel: Array, axis: int
) -> Float[Array, '... v']:
  """Logits in f32, whatever they are made of.

  Their gradients are made in the dtype of hidden states and kernel, to which
  that of the logits is rounded first, as those of all other matrices: left to
  autodiff, that of the kernel, the largest of all, would be summed over devices
  in f32. It has no forward-mode derivative.

  Args:
    hidden: of the tokens.
    kernel: [d, v] or [v, d], in the dtype of `hidden`.
    axis: that of the kernel which has the size of `hidden`.

  Returns:
    hidden . kernel.
  """
  contracted = ((hidden.ndim - 1,), (axis,))
  return jax.lax.dot_general(
    hidden, kernel, (contracted, ((), ())), preferred_element_type=jnp.float32
  )


def _forward(hidden: Array, kernel: Array, axis: int) -> Any:
  return logits_of(hidden, kernel, axis), (hidden, kernel)


def _backward(axis: int, saved: Any, slope: Array) -> Any:
  hidden, kernel = saved
  slope = slope.astype(hidden.dtype)
  last, rows = slope.ndim - 1, tuple(range(slope.ndim - 1))
  of_hidden = jax.lax.dot_general(
    slope, kernel, (((last,), (1 - axis,)), ((), ()))
  )
  factors = (slope, hidden) if axis else (hidden, slope)
  of_kernel = jax.lax.dot_general(*factors, ((rows, rows), ((), ())))
  return of_hidden, of_kernel


logits_of.defvjp(_forward, _backward)
