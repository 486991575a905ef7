"""What a box of the sandbox may use."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What one box may use.

  Attributes:
    wall_seconds: time by the clock, > 0.
    cpu_seconds: time of each process on a processor, whole, >= 1.
    memory_bytes: address space of each process, of which the interpreter takes
      40 MB.
    file_bytes: size of a file.
    scratch_bytes: size of the scratch folder, which is kept in memory.
    open_files: descriptors of each process, >= 16.
    processes: at once, >= 1. With 1 no process can be started at all; with
      more, the box may use so many times the memory.
    output_bytes: of what a script prints.
  """

  wall_seconds: float = 10.0
  cpu_seconds: int = 5
  memory_bytes: int = 512 << 20
  file_bytes: int = 16 << 20
  scratch_bytes: int = 32 << 20
  open_files: int = 64
  processes: int = 1
  output_bytes: int = 1 << 20

  def __post_init__(self) -> None:
    lowest = {
      'cpu_seconds': 1,
      'memory_bytes': 64 << 20,
      'file_bytes': 1,
      'scratch_bytes': 4096,
      'open_files': 16,
      'processes': 1,
      'output_bytes': 1,
    }
    for name, least in lowest.items():
      value = getattr(self, name)
      if not isinstance(value, int) or value < least:
        raise ValueError(f'{name} is {value!r}; use an integer >= {least}.')
    if not 0 < self.wall_seconds < math.inf:
      raise ValueError(
        f'wall_seconds is {self.wall_seconds}; use a finite number > 0.'
      )
