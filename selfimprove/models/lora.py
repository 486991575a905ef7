"""Low-rank adapters: a side path beside linear maps that stay as they are."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from selfimprove.models.layers import DOWN, UP
from selfimprove.ops.keys import named_key
from selfimprove.types import Adapters, Params, Policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA:
  """Which linear maps get a side path, and how wide it is.

      y = x W + scale · (x A) B,   scale = alpha / rank^exponent

  There is no dropout on the side path: the policy that is trained has to be
  the one that was sampled from.

  Attributes:
    rank: r, width of the side path, at least 1.
    alpha: numerator of its scale, above 0.
    targets: regular expression that the whole name of a linear map matches:
      `attention/query`, `key`, `value` and `out`, `mlp/gate`, `up` and `down`.
    exponent: 1; with 1/2 the scale keeps pace with large ranks (rsLoRA, arXiv
      2312.03732).

  Source: arXiv 2106.09685, equation 3.
  Differs: no.
  """

  rank: int
  alpha: float
  targets: str
  exponent: float = 1.0

  def __post_init__(self) -> None:
    if not isinstance(self.rank, int) or self.rank < 1:
      raise ValueError(
        f'rank={self.rank!r} of LoRA is not an integer from 1 on; give the '
        'width of its side paths, 16 for example.'
      )
    for name in ('alpha', 'exponent'):
      value = getattr(self, name)
      least = 0 if name == 'exponent' else math.ulp(0.0)
      if not least <= value < math.inf:
        raise ValueError(
          f'{name}={value} of LoRA is no scale; give a finite number '
          f'{"from 0 on" if name == "exponent" else "above 0"}.'
        )
    try:
      re.compile(self.targets)
    except re.error as error:
      raise ValueError(
        f'targets={self.targets!r} of LoRA is no regular expression ({error}); '
        "give one such as '.*(query|value)'."
      ) from None

  @property
  def scale(self) -> float:
    """Factor on the side path."""
    return self.alpha / self.rank**self.exponent


class Target(NamedTuple):
  """A kernel that has a side path.

  Attributes:
    path: where it stands in the tree of the policy, without its own name.
    layers: how many are stacked.
    inputs: shape of what it maps.
    outputs: shape of what it maps to.
    axes: logical axes of the whole array.
  """

  path: tuple[str, ...]
  layers: int
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  axes: tuple[str, ...]


def make_adapters(lora: LoRA, policy: Policy) -> Adapters:
  """The pure functions of a policy's adapters.

  Args:
    lora: where they are.
    policy: of `transformer.make_policy`.

  Returns:
    `Adapters`; their parameters are `lora_a` [l, inputs, r] and `lora_b`
    [l, r, outputs] of each adapted linear map, under its path in the policy.
    A is uniform in ±1/√n for n inputs, as in `peft` (`kaiming_uniform_` with
    a = √5), and B is 0; both are kept in f32, where small steps are not lost.

  Raises:
    ValueError: `lora.targets` matches no linear map.
  """
  found = targets(lora, policy)
  return Adapters(
    init=functools.partial(_init, lora, found),
    join=functools.partial(_join, lora.scale),
    logical_axes=functools.partial(_logical_axes, found),
  )


def targets(lora: LoRA, policy: Policy) -> tuple[Target, ...]:
  """The kernels that get a side path.

  Args:
    lora: says which by their names.
    policy: of `transformer.make_policy`.

  Returns:
    At least one, in the order of names.

  Raises:
    ValueError: `lora.targets` matches no name.
  """
  layers = jax.eval_shape(policy.init, jax.random.key(0))['layers']
  flat, axes = (
    jax.tree.leaves_with_path(layers),
    policy.logical_axes()['layers'],
  )
  kernels = {
    '/'.join(keys[:-1]): (leaf.shape, _at(axes, keys))
    for keys, leaf in (
      (tuple(k.key for k in path), leaf) for path, leaf in flat
    )
    if keys[-1] == 'kernel'
  }
  found = tuple(
    _target(name, *kernels[name])
    for name in sorted(kernels)
    if re.fullmatch(lora.targets, name)
  )
  if not found:
    raise ValueError(
      f'targets={lora.targets!r} of LoRA matches none of '
      f'{", ".join(sorted(kernels))}; give a regular expression that matches '
      "the whole of some name, such as '.*(query|value)'."
    )
  return found


def _at(tree: Any, keys: Sequence[str]) -> Any:
  return functools.reduce(lambda node, key: node[key], keys, tree)


def _target(name: str, shape: tuple[int, ...], axes: Any) -> Target:
  # Each reads the residual stream, whose axis comes first, or writes it.
  split = 2 if axes[1] in ('embed', 'spread') else len(shape) - 1
  return Target(
    path=('layers', *name.split('/')),
    layers=shape[0],
    inputs=shape[1:split],
    outputs=shape[split:],
    axes=axes,
  )


def _init(lora: LoRA, found: Sequence[Target], key: jax.Array) -> Params:
  def pair(target: Target) -> dict[str, Array]:
    bound = math.prod(target.inputs) ** -0.5
    down = jax.random.uniform(
      named_key(key, '/'.join(target.path)),
      (target.layers, *target.inputs, lora.rank),
      jnp.float32,
      minval=-bound,
      maxval=bound,
    )
    up = jnp.zeros((target.layers, lora.rank, *target.outputs), jnp.float32)
    return {DOWN: down, UP: up}

  return _tree({target.path: pair(target) for target in found})


def _logical_axes(found: Sequence[Target]) -> Any:
  def pair(target: Target) -> dict[str, tuple[str | None, ...]]:
    layers, *axes = target.axes
    split = len(target.inputs)
    return {
      DOWN: (layers, *axes[:split], None),
      UP: (layers, None, *axes[split:]),
    }

  return _tree({target.path: pair(target) for target in found})


def _tree(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
  """Nested dictionaries from their paths."""
  tree: dict[str, Any] = {}
  for (*parents, last), leaf in leaves.items():
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[last] = leaf
  return tree


def _join(scale: float, base: Params, adapters: Params) -> Params:
  """The base with side paths; B carries their scale."""
  if UP in adapters:
    return {**base, DOWN: adapters[DOWN], UP: scale * adapters[UP]}
  below = {
    name: _join(scale, base[name], tree) for name, tree in adapters.items()
  }
  return {**base, **below}


def merge(params: Params, *, dtype: str = 'float32') -> Params:
  """The same policy without side paths: W + A B in place of W.

  Args:
    params: joined parameters, of stacked layers or of a tuple of layers.
    dtype: of the kernels that had a side path.

  Returns:
    Parameters without side paths; arrays that had none are handed on.
  """
  if isinstance(params, tuple):
    return tuple(merge(layer, dtype=dtype) for layer in params)
  if not isinstance(params, Mapping):
    return params
  if DOWN not in params:
    return {name: merge(tree, dtype=dtype) for name, tree in params.items()}
  rest = {name: x for name, x in params.items() if name not in (DOWN, UP)}
  kernel = rest['kernel'].astype(jnp.float32)
  added = _product(params[DOWN], params[UP], kernel.ndim)
  return {**rest, 'kernel': (kernel + added).astype(dtype)}


def _product(
  down: Float[Array, '...'], up: Float[Array, '...'], ndim: int
) -> Float[Array, '...']:
  """A B, for each layer where they are stacked, as an array of `ndim` axes."""
  multiply = functools.partial(
    jnp.tensordot, axes=1, precision=jax.lax.Precision.HIGHEST
  )
  stacked = down.ndim + up.ndim == ndim + 3
  return (jax.vmap(multiply) if stacked else multiply)(down, up)
