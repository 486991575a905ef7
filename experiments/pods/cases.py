"""Which paper-scale configs are compiled for which slices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Case(NamedTuple):
  """A config on a slice.

  Attributes:
    config: file in this folder, without `.gin`.
    size: name of a published shape.
    topology: chip and shape.
    mesh: devices along data, fsdp, model.
    microbatches: parts of an update.
    at_once: prompts sampled at one time; 0 for all of a step.
    bindings: others.
    options: of the compiler.
  """

  config: str
  size: str
  topology: str
  mesh: str
  microbatches: int = 1
  at_once: int = 0
  bindings: tuple[str, ...] = ()
  options: tuple[str, ...] = ()

  @property
  def name(self) -> str:
    """For the column `config` of the table."""
    return f'{self.config} {self.size}'

  @property
  def key(self) -> str:
    """What tells a case from all others."""
    return ' '.join((self.name, self.topology, self.mesh, *self.all_bindings))

  @property
  def programs(self) -> tuple[str, ...]:
    """Names of the programs of its stages."""
    return _PROGRAMS.get(self.config, ('sample', 'learn'))

  @property
  def all_bindings(self) -> tuple[str, ...]:
    """What is bound besides the config."""
    return (
      f"SIZE = '{self.size}'",
      f'MICROBATCHES = {self.microbatches}',
      f'PROMPTS_AT_ONCE = {self.at_once}',
      f'stages.Stage.compiler_options = {self.options}',
      *self.bindings,
    )


# Of those that fill a batch (`Collect`), Guide's with second tries.
_PROGRAMS = {
  'guide': ('sample', 'retry', 'merge', 'collect', 'learn'),
  'nft': ('sample', 'collect', 'learn'),
}


class Fit(NamedTuple):
  """How a config was made to fit into a slice; fields as of `Case`."""

  mesh: str
  microbatches: int = 1
  at_once: int = 0
  bindings: tuple[str, ...] = ()
  options: tuple[str, ...] = ()


# Gradients are summed beside other products, which takes room in the chip's
# fast memory; with that room, products are made in larger parts too.
_SUMS = (
  'xla_enable_async_reduce_scatter_fusion=true',
  'xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter=true',
  'xla_tpu_scoped_vmem_limit_kib=32768',
)
# Weights are gathered beside the products before; the default of v5e alone.
_GATHERS = tuple(
  f'{name}=true'
  for name in (
    'xla_enable_async_all_gather',
    'xla_tpu_enable_async_collective_fusion',
    'xla_tpu_enable_async_collective_fusion_fuse_all_gather',
  )
)
# Where memory is left, products are kept for the way back.
_INPUTS = ("presets.published.remat = 'attention_inputs'",)
_SOME = ("presets.published.remat = 'attention_dots'",)
_MOST = ("presets.published.remat = 'most_dots'",)
_WIDE = ("presets.published.remat = 'mlp_dots'",)
_ALL = ("presets.published.remat = 'dots'",)
_PUBLISHED = {
  ('v5e:2x4', 'qwen3-1.7b'): {
    'score': Fit('1,8,1', 16, 16, (), _SUMS),
    'grpo': Fit('1,8,1', 16, 4, (), _SUMS),
    'guide': Fit('1,8,1', 16, 8, (), _SUMS),
    'nft': Fit('1,8,1', 16, 8, (), _SUMS),
    'tempo': Fit('1,8,1', 8, 16, (), _SUMS),
  },
  # `data` x `fsdp` that divide the prompts leave their rows whole.
  ('v5e:16x16', 'llama-3.1-8b'): {
    'score': Fit('1,64,4', 1, 0, _MOST, _SUMS),
    'grpo': Fit('4,16,4', 1, 0, _MOST, _SUMS),
    'guide': Fit('1,64,4', 1, 0, _SOME, _SUMS),
    'nft': Fit('4,16,4', 1, 128, _SOME, _SUMS),
    'tempo': Fit('4,16,4', 1, 0, _WIDE, _SUMS),
  },
  ('v4:4x4x4', 'llama-3.1-8b'): {
    'score': Fit('2,8,4', 2, 0, _SOME, _GATHERS),
    'grpo': Fit('2,8,4', 2, 0, _SOME, _GATHERS),
    'guide': Fit('2,8,4', 4, 0, _MOST, _GATHERS),
    'nft': Fit('2,8,4', 4, 64, _SOME, _GATHERS),
    # Whole, for half of 448 samples does not divide over 64 chips.
    'tempo': Fit('2,8,4', 1, 0, _INPUTS, _GATHERS),
  },
  ('v5p:8x8x8', 'llama-3.1-70b'): {
    'score': Fit('4,16,8', 1, 0, _ALL, _GATHERS + _SUMS),
    'grpo': Fit('16,4,8', 1, 0, _ALL, _GATHERS + _SUMS),
    'guide': Fit('4,16,8', 1, 0, _ALL, _GATHERS + _SUMS),
    'nft': Fit('4,16,8', 1, 0, _ALL, _GATHERS + _SUMS),
    'tempo': Fit('4,16,8', 1, 0, _ALL, _GATHERS + _SUMS),
  },
}


def published() -> Iterator[Case]:
  """The cases of the table.

  Yields:
    Every algorithm on every slice.
  """
  for (topology, size), fits in _PUBLISHED.items():
    for config, fit in fits.items():
      yield Case(config, size, topology, *fit)


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
      bindings=(f'PROMPTS_PER_STEP = {chips}', 'GROUP_SIZE = 8'),
      options=_SUMS,
    )
