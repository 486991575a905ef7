"""What compiled programs hold and send, by the reader of `scale`."""

from __future__ import annotations

from collections.abc import Iterable

from selfimprove.scale.collectives import kind_of
from selfimprove.scale.hlo import Computation, Module, Op, Shape


def instructions(module: Module) -> list[Op]:
  """Returns all instructions of the program."""
  return _within(module.computations.values())


def shapes(ops: Iterable[Op]) -> list[Shape]:
  """Returns every array that instructions make, as one device sees it."""
  return [shape for op in ops for shape in op.shapes]


def collectives(module: Module) -> list[Op]:
  """Returns what the devices send each other."""
  return list(filter(kind_of, instructions(module)))


def in_loops(module: Module) -> list[Op]:
  """Returns what the devices send each other in bodies of loops."""
  bodies = {
    name for op in instructions(module) for name in op.called.get('body', ())
  }
  inside = _within(module.computations[name] for name in bodies)
  return list(filter(kind_of, inside))


def _within(computations: Iterable[Computation]) -> list[Op]:
  return [op for found in computations for op in found.ops.values()]
