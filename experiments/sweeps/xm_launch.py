"""The runs of a sweep as XManager's work units, on TPUs of Vertex AI."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from experiments.sweeps.local import WORK
from experiments.sweeps.plan import Run
from experiments.sweeps.slurm import parsed
from selfimprove.configuration import ROOT, ConfigError

BASE_IMAGE = 'python:3.11'
MOUNT = '/gcs/'  # Where jobs of Vertex AI see buckets as folders.
_REACHED = ('TPU_V2', 'TPU_V3')


def submit(
  runs: Sequence[Run],
  workdir: str,
  *,
  options: Sequence[str],
  create: Callable[[str], Any] | None = None,
) -> None:
  """Builds an image of this project and launches the runs in it.

  A run that has finished ends at once, where its row cannot be seen from here.

  Args:
    runs: those that have no row that can be seen from here.
    workdir: of the sweep, as jobs see it: /gcs/<bucket>/<folder>.
    options: `name=value`: resources as XManager calls them (`tpu_v3=8`), and
      perhaps `base_image` and `location`.
    create: title -> experiment; None for `xm_local.create_experiment`.

  Raises:
    ConfigError: XManager is not installed, or something cannot be launched.
  """
  xm, xm_local = _xmanager()
  if not workdir.startswith(MOUNT):
    raise ConfigError(
      f'--workdir={workdir} is not seen by jobs; give '
      f'{MOUNT}<bucket>/<folder>, which is a folder of the bucket there.'
    )
  given = dict(parsed(options))
  base_image = given.pop('base_image', BASE_IMAGE)
  executor = xm_local.Vertex(requirements=_requirements(xm, given))
  # The folder is shared by the runs of this sweep and of no other.
  title = os.path.basename(workdir.rstrip('/'))
  with (create or xm_local.create_experiment)(title) as experiment:
    (executable,) = experiment.package(
      [xm.Packageable(_container(xm, base_image), xm_local.Vertex.Spec())]
    )
    for run in runs:
      experiment.add(
        xm.Job(executable, executor, args=run.flags_in(workdir)),
        identity=run.name,
      )
      print(f'Launched: {run.name}')


def _container(xm: Any, base_image: str) -> Any:
  """This project with what it needs on a TPU."""
  name = os.path.basename(ROOT)
  return xm.PythonContainer(
    path=ROOT,
    base_image=base_image,
    entrypoint=xm.ModuleName(WORK),
    docker_instructions=[
      'WORKDIR /project',
      f'COPY {name}/ /project',
      "RUN python -m pip install --editable '.[tpu]'",
    ],
    use_deep_module=True,
  )


def _requirements(xm: Any, resources: dict[str, Any]) -> Any:
  try:
    wanted = xm.JobRequirements(**resources)
  except (KeyError, TypeError, ValueError) as error:
    raise ConfigError(
      f'XManager cannot ask for {resources}: {error}; write --option=tpu_v3=8.'
    ) from error
  found = wanted.accelerator
  if found is None or (found in xm.TpuType and found.name not in _REACHED):
    raise ConfigError(
      f'XManager reaches TPUs of Vertex AI, that is tpu_v2 and tpu_v3, and not '
      f'{found.name if found else "a job without an accelerator"}; write '
      '--option=tpu_v3=8, or run newer ones with --launcher=local on the pod.'
    )
  return wanted


def _xmanager() -> tuple[Any, Any]:
  try:
    from xmanager import xm, xm_local
  except ImportError as error:
    raise ConfigError(
      'Cloud jobs need XManager; install it with `pip install '
      'selfimprove[xmanager]`.'
    ) from error
  return xm, xm_local
