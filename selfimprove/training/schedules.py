"""Optimizers and learning rates: a thin, checked layer over Optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def constant(*, peak: float, warmup_steps: int = 0) -> optax.Schedule:
  """A learning rate that rises linearly and then stays.

      lr(n) = peak · min(1, (n + 1) / (warmup_steps + 1))

  Args:
    peak: largest learning rate, above 0.
    warmup_steps: updates below the peak; the first is not zero.

  Returns:
    Function of the number of updates done.

  Raises:
    ValueError: a number is out of range.
  """
  _check_rate(peak, warmup_steps)
  if warmup_steps == 0:
    return optax.constant_schedule(peak)
  return optax.linear_schedule(peak / (warmup_steps + 1), peak, warmup_steps)


def cosine(
  *,
  peak: float,
  total_steps: int,
  warmup_steps: int = 0,
  final_fraction: float = 0.0,
) -> optax.Schedule:
  """A learning rate that rises linearly and falls along half a cosine.

      lr(n) = peak · (f + (1 - f) · ½(1 + cos(π (n - w) / (N - w)))), n ≥ w

  Args:
    peak: largest learning rate, above 0.
    total_steps: N, updates after which it stays at the end of the fall.
    warmup_steps: w, updates of the rise; below `total_steps`.
    final_fraction: f in [0, 1], the last rate as a fraction of the peak.

  Returns:
    Function of the number of updates done.

  Raises:
    ValueError: a number is out of range.
  """
  if not 0 <= final_fraction <= 1:
    raise ValueError(f'final_fraction={final_fraction} is not in [0, 1].')
  if warmup_steps >= total_steps:
    raise ValueError(
      f'warmup_steps={warmup_steps} leaves nothing of total_steps='
      f'{total_steps}; warm up for fewer steps.'
    )
  rise = constant(peak=peak, warmup_steps=warmup_steps)
  fall = optax.cosine_decay_schedule(
    peak, total_steps - warmup_steps, alpha=final_fraction
  )
  return optax.join_schedules([rise, fall], [warmup_steps])


def adam(
  *,
  learning_rate: float | optax.Schedule,
  b1: float = 0.9,
  b2: float = 0.98,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  decay_mask: Callable[[Any], Any] | None = None,
  max_grad_norm: float | None = None,
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay after clipping by the global norm.

  Args:
    learning_rate: number above 0, or function of the number of updates done.
    b1: decay of the first moment, in [0, 1).
    b2: decay of the second moment, in [0, 1).
    eps: added to the root of the second moment, above 0.
    weight_decay: pull towards 0 per unit of learning rate, at least 0.
    decay_mask: parameters -> pytree of booleans: which are pulled; None is all.
    max_grad_norm: global norm above which gradients are scaled down; None for
      no limit.

  Returns:
    The Optax transformation.

  Raises:
    ValueError: a number is out of range.

  Source: arXiv 1412.6980, algorithm 1; arXiv 1711.05101, algorithm 2.
  """
  if not callable(learning_rate):
    learning_rate = constant(peak=learning_rate)
  for name, beta in (('b1', b1), ('b2', b2)):
    if not 0 <= beta < 1:
      raise ValueError(f'{name}={beta} is not in [0, 1).')
  if eps <= 0 or weight_decay < 0:
    raise ValueError(
      f'eps={eps} must be above 0 and weight_decay={weight_decay} at least 0.'
    )
  if max_grad_norm is not None and max_grad_norm <= 0:
    raise ValueError(
      f'max_grad_norm={max_grad_norm} is not above 0; None means no limit.'
    )
  clip = (
    optax.identity()
    if max_grad_norm is None
    else optax.clip_by_global_norm(max_grad_norm)
  )
  return optax.chain(
    clip,
    optax.adamw(
      learning_rate,
      b1=b1,
      b2=b2,
      eps=eps,
      weight_decay=weight_decay,
      mask=decay_mask,
    ),
  )


class InFloat32(NamedTuple):
  """The state of `in_float32`.

  Attributes:
    master: the parameters in f32.
    inner: the state of the optimizer that updates them.
  """

  master: Any
  inner: Any


def in_float32(
  *, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
  """An optimizer for parameters that are stored in bfloat16.

  It steps from parameters that it keeps in f32, where small steps are not
  lost; what is stored is these, rounded. Its moments are in f32 too.

      m ← m + step(∇, m),  θ = bf16(m)

  Args:
    optimizer: what steps, such as `adam`.

  Returns:
    The Optax transformation; its state holds the parameters in f32.

  Source: arXiv 1710.03740, section 3.1.
  """

  def widen(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

  def init(params: Any) -> InFloat32:
    master = widen(params)
    return InFloat32(master=master, inner=optimizer.init(master))

  def update(updates: Any, state: Any, params: Any = None) -> Any:
    grads = widen(updates)
    steps, inner = optimizer.update(grads, state.inner, state.master)
    master: Any = optax.apply_updates(state.master, steps)

    def change(new: jax.Array, old: jax.Array) -> jax.Array:
      # Of what is stored, so that adding it gives the rounded value exactly.
      rounded = new.astype(old.dtype).astype(jnp.float32)
      return rounded - old.astype(jnp.float32)

    changes = jax.tree.map(change, master, params)
    return changes, InFloat32(master=master, inner=inner)

  return optax.GradientTransformation(init, update)


def _check_rate(peak: float, warmup_steps: int) -> None:
  if peak <= 0:
    raise ValueError(
      f'A learning rate of {peak} learns nothing; give one above 0.'
    )
  if warmup_steps < 0:
    raise ValueError(f'warmup_steps={warmup_steps} is below 0.')
