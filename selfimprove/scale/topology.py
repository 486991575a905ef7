"""Devices that are described and not there, for the real TPU compiler."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from selfimprove.scale.chips import chip_of

# One device per chip, as JAX has them on these machines; the compiler's own
# default for v4 is one per core.
_OPTIONS = {'v4': {'chip_config_name': 'megacore'}}

_ENVIRONMENT = {
  # Else the compiler asks a metadata server that is not there.
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  # There is no device for which two processes could contend.
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def devices(topology: str) -> Sequence[jax.Device]:
  """The devices of a TPU slice, good for compiling and for nothing else.

  Args:
    topology: chip and shape, such as `v5e:16x16` or `v5p:8x8x8`; `cpu` stands
      for the devices that are here.

  Returns:
    One device per chip.

  Raises:
    ValueError: the chip or the shape is not known, or the compiler is missing.
  """
  if topology == 'cpu':
    return jax.devices('cpu')
  chip = chip_of(topology)
  if not re.fullmatch(r'\w+:\d+(x\d+){1,2}', topology):
    raise ValueError(
      f'topology={topology!r} is not a chip and a shape, such as v5e:4x4 or '
      'v5p:2x2x2.'
    )
  if not has_compiler():
    raise ValueError(
      f'topology={topology!r} needs the TPU compiler, and libtpu is not '
      "installed; `pip install 'jax[tpu]'` brings it (Linux, no TPU needed)."
    )
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  try:
    described = topologies.get_topology_desc(
      platform='tpu', topology_name=topology, **_OPTIONS.get(chip.name, {})
    )
  except (RuntimeError, ValueError, NotImplementedError) as error:
    raise ValueError(
      f'topology={topology!r} is no slice that the TPU compiler knows; give '
      'one such as v5e:2x4, v5e:16x16 or v5p:4x4x8. It says: '
      f'{str(error).splitlines()[0]:.200}'
    ) from error
  return described.devices


def has_compiler() -> bool:
  """Whether libtpu can be imported."""
  return importlib.util.find_spec('libtpu') is not None
