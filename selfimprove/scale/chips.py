"""What a chip can do, as its maker publishes it."""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """Published limits of one chip.

  Attributes:
    name: as in the name of a topology, such as `v5e`.
    hbm_bytes: memory that programs may use: what is built in, less what the
      runtime keeps.
    flops: bf16 operations a second, a multiply-add counted as two.
    hbm_rate: bytes a second between memory and the chip.
    link_rate: bytes a second in one direction over one link to a neighbour.
    ring: an axis of the torus closes to a ring if its size is a multiple.
    clock: cycles a second; what the compiler's `estimated_cycles` are of.
  """

  name: str
  hbm_bytes: float
  flops: float
  hbm_rate: float
  link_rate: float
  ring: int
  clock: float

  def wraps(self, size: int) -> bool:
    """Returns whether an axis of the torus is a ring.

    Args:
      size: chips along it.
    """
    return size % self.ring == 0


# Source: HBM from the refusals of the TPU compiler; peak and memory rate from
# the pages "TPU v4", "v5e", "v5p" and "v6e" of the Cloud TPU documentation,
# section "System architecture"; links from "How to Scale Your Model"
# (jax-ml.github.io/scaling-book/tpus), in one direction. Axes of v5e and v6e
# are rings at 16 chips, those of v4 and v5p where they are made of whole cubes
# of 4. Clocks: peak over operations a cycle (8 units of 128 x 128 on v4 and
# v5p, 4 on v5e, 4 of 256 x 256 on v6e).
CHIPS = {
  chip.name: chip
  for chip in (
    Chip(
      name='v4',
      hbm_bytes=30.75 * GIB,
      flops=275e12,
      hbm_rate=1228e9,
      link_rate=45e9,
      ring=4,
      clock=1.05e9,
    ),
    Chip(
      name='v5e',
      hbm_bytes=15.75 * GIB,
      flops=197e12,
      hbm_rate=819e9,
      link_rate=45e9,
      ring=16,
      clock=1.5e9,
    ),
    Chip(
      name='v5p',
      hbm_bytes=95.74 * GIB,
      flops=459e12,
      hbm_rate=2765e9,
      link_rate=90e9,
      ring=4,
      clock=1.75e9,
    ),
    Chip(
      name='v6e',
      hbm_bytes=31.25 * GIB,
      flops=918e12,
      hbm_rate=1640e9,
      link_rate=90e9,
      ring=16,
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
