"""A finished or running experiment, opened to be used."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from jax.sharding import Mesh

from selfimprove import configuration
from selfimprove.experiment import Experiment
from selfimprove.models.transformer import make_policy
from selfimprove.training.checkpoint import restore_params
from selfimprove.training.state import abstract_params
from selfimprove.types import Params, Policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
  """Parameters, and what they were trained with.

  Attributes:
    experiment: as its config describes it.
    policy: the model.
    params: restored, laid out over `mesh`.
    mesh: the devices that are here now.
  """

  experiment: Experiment
  policy: Policy
  params: Params
  mesh: Mesh


def open_workdir(
  workdir: str, *, step: int | None = None, bindings: Sequence[str] = ()
) -> Trained:
  """The model that a run has trained.

  Args:
    workdir: folder of the run.
    step: of the checkpoint; None for the newest.
    bindings: gin lines that override the run's config.

  Returns:
    The model, on the devices that are here: over the mesh of the run, or where
    that does not fit them, one whole copy on each.

  Raises:
    ConfigError: there is no run in the folder, or a binding is not usable.
    FileNotFoundError: there is no such checkpoint.
  """
  config = os.path.join(workdir, 'config.gin')
  if not os.path.isfile(config):
    raise configuration.ConfigError(
      f'There is no run in {workdir!r}: it has no config.gin; give the '
      '--workdir of `python -m selfimprove.train`.'
    )
  experiment = configuration.build(
    Experiment, files=[config], bindings=bindings
  )
  policy = make_policy(experiment.model)
  mesh = experiment.mesh.make_or_replicate()
  params = restore_params(
    os.path.join(workdir, 'checkpoints'),
    step=step,
    like=abstract_params(policy, mesh),
  )
  return Trained(experiment=experiment, policy=policy, params=params, mesh=mesh)
