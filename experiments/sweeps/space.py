"""What a sweep goes through: points, from products and zips of axes.

A space is a tuple of points; one after another they are joined by `+`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

Point = Mapping[str, Any]
"""Values by the name that they are bound to: `LEARNING_RATE`, or any other that
may stand on the left of a line of gin."""

Space = tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class Gin:
  """A value that is gin and no literal, as `@stages.current_policy`.

  Attributes:
    text: as it stands behind the `=`.
  """

  text: str


def axis(name: str, values: Sequence[Any]) -> Space:
  """One point per value.

  Args:
    name: what is bound, as `KL_WEIGHT` or `experiment.MeshShape.fsdp`.
    values: at least one; what `literal` can write.

  Returns:
    The points, in the order of the values.

  Raises:
    ValueError: there is no value, or one that gin cannot say.

  >>> axis('SEED', (1, 2))
  ({'SEED': 1}, {'SEED': 2})
  """
  if not values:
    raise ValueError(f'The axis {name!r} has no values; give at least one.')
  for value in values:
    literal(value)
  return tuple({name: value} for value in values)


def product(*spaces: Space) -> Space:
  """Every point of each space with every point of the others.

  Args:
    spaces: no two of which bind one name.

  Returns:
    The points; the last space goes round fastest.

  >>> [
  ...   binding
  ...   for point in product(axis('A', (1, 2)), axis('B', (3,)))
  ...   for binding in bindings(point)
  ... ]
  ['A = 1', 'B = 3', 'A = 2', 'B = 3']
  """
  return tuple(_joined(points) for points in itertools.product(*spaces))


def zipped(*spaces: Space) -> Space:
  """First points joined, second points joined, and so on.

  Args:
    spaces: of one length, no two of which bind one name.

  Returns:
    The points.

  Raises:
    ValueError: the lengths differ.

  >>> zipped(axis('A', (1, 2)), axis('B', (3, 4)))
  ({'A': 1, 'B': 3}, {'A': 2, 'B': 4})
  """
  lengths = [len(space) for space in spaces]
  if len({*lengths}) > 1:
    raise ValueError(
      f'Spaces of {lengths} points cannot be zipped; give them one length.'
    )
  return tuple(_joined(points) for points in zip(*spaces, strict=True))


def bindings(point: Point) -> list[str]:
  """The lines of gin that make a run the one of a point.

  Args:
    point: names and values.

  Returns:
    A line per name.

  >>> bindings({'LEARNING_RATE': 5e-4, 'NAME': 'x'})
  ['LEARNING_RATE = 0.0005', "NAME = 'x'"]
  """
  return [f'{name} = {literal(value)}' for name, value in point.items()]


def literal(value: Any) -> str:
  """A value as gin writes it.

  Args:
    value: number, text, bool, None, `Gin`, or tuples, lists and dictionaries
      of such.

  Returns:
    Text that gin reads as the same value.

  Raises:
    ValueError: gin has no literal for it.
  """
  if isinstance(value, Gin):
    return value.text
  if isinstance(value, tuple | list):
    inner = ''.join(f'{literal(item)}, ' for item in value)
    return f'({inner})' if isinstance(value, tuple) else f'[{inner}]'
  if isinstance(value, dict):
    pairs = (f'{literal(k)}: {literal(v)}, ' for k, v in value.items())
    return '{' + ''.join(pairs) + '}'
  # By type, not `isinstance`: a NumPy number prints as no literal.
  plain = value is None or type(value) in (bool, int, float, str)
  if not plain or (isinstance(value, float) and not math.isfinite(value)):
    raise ValueError(
      f'{value!r:.80} cannot be bound in a sweep; give finite numbers, text, '
      "bool, None, Gin('@reference'), or tuples, lists and dictionaries of "
      'such.'
    )
  return repr(value)


def _joined(points: Sequence[Point]) -> Point:
  names = [name for point in points for name in point]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise ValueError(
      f'{", ".join(twice)} is on two axes that are combined; name each once.'
    )
  return {name: point[name] for point in points for name in point}
