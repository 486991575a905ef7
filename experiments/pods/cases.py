"""Which paper-scale configs are compiled for which slices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

ALGORITHMS = ('score', 'grpo', 'guide', 'nft', 'tempo')


class Case(NamedTuple):
  """A config on a slice.

  Attributes:
    config: file in this folder, without `.gin`.
    size: name of a published shape.
    topology: chip and shape.
    mesh: devices along data, fsdp, model.
    microbatches: parts of an update.
    bindings: others.
  """

  config: str
  size: str
  topology: str
  mesh: str
  microbatches: int = 1
  bindings: tuple[str, ...] = ()

  @property
  def name(self) -> str:
    """For the column `config` of the table."""
    return f'{self.config} {self.size}'

  @property
  def key(self) -> str:
    """What tells a case from all others."""
    settings = f'{self.topology} {self.mesh} {self.microbatches}'
    return ' '.join((self.name, settings, *self.bindings))


# A micro-batch holds whole groups, one at least for each of data x fsdp: GRPO
# has 16 prompts, NFT 32 in an update, the others 64.
_PROMPTS = {'score': 64, 'grpo': 16, 'guide': 64, 'nft': 32, 'tempo': 64}
_SLICES = {
  'v5e:2x4': ('qwen3-1.7b', 8),
  'v5e:16x16': ('llama-3.1-8b', 256),
  'v4:4x4x4': ('llama-3.1-8b', 64),
  'v5p:8x8x8': ('llama-3.1-70b', 512),
}


def published() -> Iterator[Case]:
  """The cases of the table: every algorithm on every slice.

  Yields:
    Cases; the batch is divided as far as its prompts go, the rest of the
    devices split the model.
  """
  for topology, (size, chips) in _SLICES.items():
    for config in ALGORITHMS:
      prompts = _PROMPTS[config]
      shards = min(prompts, chips)
      parts = prompts // shards
      mesh = f'1,{shards},{chips // shards}'
      yield Case(config, size, topology, mesh, parts)


def scaling() -> Iterator[Case]:
  """The batch doubled with the chips, at the same prompts for each of them.

  Yields:
    Cases of GRPO on 16, 64 and 256 chips.
  """
  for side in (4, 8, 16):
    chips = side * side
    yield Case(
      'grpo',
      'qwen3-1.7b',
      f'v5e:{side}x{side}',
      f'{chips // 16},16,1',
      1,
      (f'PROMPTS_PER_STEP = {chips}', 'GROUP_SIZE = 8'),
    )
