"""How much of a chip's memory a program takes, and what would make it fit."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, NamedTuple

import jax

from selfimprove.scale.chips import GIB, Chip

_WHOLE = re.compile(r'Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm')
_TEMPORARIES = re.compile(r'HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40, '': 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
  """Bytes of HBM on one chip while a program runs.

  Attributes:
    arguments: what the program reads.
    outputs: what it makes, without what takes the place of an argument.
    temporaries: at its peak.
    code: instructions.
    resident: train state that the program does not read and that stays.
  """

  arguments: float
  outputs: float
  temporaries: float
  code: float
  resident: float

  @property
  def peak(self) -> float:
    """All of it."""
    return (
      self.arguments
      + self.outputs
      + self.temporaries
      + self.code
      + self.resident
    )

  def line_to(self, other: Memory, *, share: float) -> Memory:
    """Returns the memory on the straight line through this and another.

    Args:
      other: at 1, where this is at 0.
      share: where on the line.
    """
    pairs = {
      field.name: (getattr(self, field.name), getattr(other, field.name))
      for field in dataclasses.fields(Memory)
    }
    return Memory(
      **{name: max(0.0, a + share * (b - a)) for name, (a, b) in pairs.items()}
    )


def of_compiled(compiled: Any, *, state: Any, others: Any) -> Memory | None:
  """The memory of a compiled program.

  Args:
    compiled: by any backend.
    state: abstract train state, all of which stays while the program runs.
    others: its other operands, abstract.

  Returns:
    Bytes on a chip; None where the backend does not tell.
  """
  said = compiled.memory_analysis()
  if said is None:
    return None
  there = on_a_chip(state) + on_a_chip(others)
  return Memory(
    arguments=said.argument_size_in_bytes,
    outputs=max(0, said.output_size_in_bytes - said.alias_size_in_bytes),
    temporaries=said.temp_size_in_bytes,
    code=said.generated_code_size_in_bytes,
    resident=max(0.0, there - said.argument_size_in_bytes),
  )


def on_a_chip(tree: Any) -> float:
  """Bytes of one chip's share of arrays.

  Args:
    tree: of `jax.ShapeDtypeStruct`s, laid out over a mesh or not.

  Returns:
    Bytes without padding.
  """
  total = 0.0
  for leaf in jax.tree.leaves(tree):
    shape = leaf.shape
    if leaf.sharding is not None:
      shape = leaf.sharding.shard_shape(shape)
    size = 8 if leaf.dtype.name.startswith('key') else leaf.dtype.itemsize
    total += math.prod(shape) * size
  return total


def of_refusal(message: str, *, arguments: float) -> float | None:
  """Bytes that a program would take that the compiler refuses.

  Args:
    message: of its exception.
    arguments: bytes of the program's operands on a chip; a refusal that speaks
      of temporaries alone does not count them.

  Returns:
    What it says is used; None if it says something else.
  """
  if used := _WHOLE.search(message):
    return float(used[1]) * _UNITS[used[2]]
  if used := _TEMPORARIES.search(message):
    return arguments + float(used[1]) * _UNITS[used[2]]
  return None


class Knobs(NamedTuple):
  """What can be turned, as it is.

  Attributes:
    at_once: prompts that are sampled together; 0 for programs that learn.
    microbatches: of an update.
    remat: what a layer keeps.
  """

  at_once: int = 0
  microbatches: int = 1
  remat: str = 'full'


NO_KNOBS = Knobs()


def advice(memory: Memory, chip: Chip, *, knobs: Knobs = NO_KNOBS) -> str:
  """Which knob would make a program fit.

  Args:
    memory: of the program.
    chip: whose memory it does not fit into.
    knobs: of the program.

  Returns:
    One sentence; empty if it fits.
  """
  over = memory.peak - chip.hbm_bytes
  if over <= 0:
    return ''
  state = memory.arguments + memory.resident
  said = f'{over / GIB:.1f} GiB too much'
  if state > 0.9 * chip.hbm_bytes:
    factor = 2 ** math.ceil(math.log2(state / (0.6 * chip.hbm_bytes)))
    return (
      f'{said}: the state alone has {state / GIB:.1f} GiB; '
      f'multiply fsdp by {factor} (or model, where heads divide), or train '
      'adapters.'
    )
  room = max(chip.hbm_bytes - state, 1.0)
  factor = 2 ** math.ceil(math.log2(max(2.0, memory.temporaries / room)))
  said = (
    f'{said}: temporaries have {memory.temporaries / GIB:.1f} GiB beside '
    f'{state / GIB:.1f} GiB of state; '
  )
  if knobs.at_once:
    return (
      f'{said}set prompts_at_once to {max(1, knobs.at_once // factor)} '
      f'({knobs.at_once} now), put more chips along fsdp, or shorten attempts.'
    )
  keep = '' if knobs.remat == 'full' else f', or remat ({knobs.remat}) to full'
  return (
    f'{said}set microbatches to {factor * knobs.microbatches} '
    f'({knobs.microbatches} now){keep}.'
  )
