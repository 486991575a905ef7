"""What a chip can do, as its maker publishes it."""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """Published limits of one chip.

  Attributes:
    name: as in the name of a topology, such as `v5e`.
    hbm_bytes: memory that programs may use.
    flops: bf16 operations a second, a multiply-add counted as two.
    hbm_rate: bytes a second between memory and the chip.
    ici_rate: bytes a second out of the chip over all its links to others.
    axes: dimensions of the torus that the links span, two links each.
    clock: cycles a second; what the compiler's `estimated_cycles` are of.
  """

  name: str
  hbm_bytes: float
  flops: float
  hbm_rate: float
  ici_rate: float
  axes: int
  clock: float

  @property
  def axis_rate(self) -> float:
    """Bytes a second out of the chip along one axis of the torus."""
    return self.ici_rate / self.axes


# Source: the pages "TPU v4", "v5e", "v5p" and "v6e" of the Cloud TPU
# documentation (cloud.google.com/tpu/docs/v4 and so on), section "System
# architecture": HBM, bf16 peak, HBM bandwidth and "interchip interconnect
# bandwidth per chip" in Gbps, of which a byte has eight. The rate in one
# direction is half of what is given for both. Clocks: peak / operations a cycle
# (v4, v5p: 8 units of 128 x 128; v5e: 4; v6e: 4 of 256 x 256).
#
# HBM is what the compiler lets a program have: its own error for a program that
# is too large names 15.75 GiB on v5e.
CHIPS = {
  chip.name: chip
  for chip in (
    Chip(
      name='v4',
      hbm_bytes=32 * GIB,
      flops=275e12,
      hbm_rate=1228e9,
      ici_rate=2400e9 / 8,
      axes=3,
      clock=1.05e9,
    ),
    Chip(
      name='v5e',
      hbm_bytes=16 * GIB,
      flops=197e12,
      hbm_rate=819e9,
      ici_rate=1600e9 / 8,
      axes=2,
      clock=1.5e9,
    ),
    Chip(
      name='v5p',
      hbm_bytes=95 * GIB,
      flops=459e12,
      hbm_rate=2765e9,
      ici_rate=4800e9 / 8,
      axes=3,
      clock=1.75e9,
    ),
    Chip(
      name='v6e',
      hbm_bytes=32 * GIB,
      flops=918e12,
      hbm_rate=1640e9,
      ici_rate=3584e9 / 8,
      axes=2,
      clock=1.75e9,
    ),
  )
}


def chip_of(topology: str) -> Chip:
  """The chip that a topology is made of.

  Args:
    topology: such as `v5e:16x16`.

  Returns:
    Its limits.

  Raises:
    ValueError: a chip that is not in the table.

  >>> chip_of('v5e:16x16').name
  'v5e'
  """
  name = topology.partition(':')[0]
  if name not in CHIPS:
    raise ValueError(
      f'topology={topology!r} is of a chip that is not known; give '
      f'{", ".join(CHIPS)} and a shape, such as v5e:4x4.'
    )
  return CHIPS[name]
