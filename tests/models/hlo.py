"""What compiled programs hold and send, read from their text."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)
_BYTES = {
  'pred': 1,
  's8': 1,
  'u8': 1,
  's16': 2,
  'u16': 2,
  'f16': 2,
  'bf16': 2,
  's32': 4,
  'u32': 4,
  'f32': 4,
  's64': 8,
  'u64': 8,
  'f64': 8,
}
_SHAPE = re.compile(rf'\b({"|".join(_BYTES)})\[([\d,]*)\]')
_LINE = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(')


class Result(NamedTuple):
  """One array that an instruction makes, as one device sees it.

  Attributes:
    name: of the instruction.
    kind: its operation, such as `all-gather`, also where it is asynchronous.
    dtype: such as `f32`.
    shape: sizes on one device.
  """

  name: str
  kind: str
  dtype: str
  shape: tuple[int, ...]

  @property
  def size(self) -> int:
    """Elements."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Bytes."""
    return self.size * _BYTES[self.dtype]


def results(text: str) -> list[Result]:
  """Returns every array that an instruction of the program makes."""
  found = []
  for line in text.splitlines():
    match = _LINE.match(line)
    if match:
      name, types, kind = match.groups()
      found += [
        Result(
          name,
          kind.removesuffix('-start'),
          dtype,
          tuple(int(n) for n in sizes.split(',') if n),
        )
        for dtype, sizes in _SHAPE.findall(types)
      ]
  return found


def collectives(text: str) -> list[Result]:
  """Returns what the devices send each other."""
  return [r for r in results(text) if r.kind in COLLECTIVES]


def in_loops(text: str) -> list[Result]:
  """Returns what the devices send each other in bodies of loops."""
  bodies = set(re.findall(r'\bbody=%?([\w.-]+)', text))
  found, inside = [], False
  for line in text.splitlines():
    opened = re.match(r'^(?:ENTRY )?%?([\w.-]+) \(.*\{$', line)
    if opened:
      inside = opened.group(1) in bodies
    if inside:
      found += collectives(line)
  return found
