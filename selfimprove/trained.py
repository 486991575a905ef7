"""A finished or running experiment, opened to be used."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from jax.sharding import Mesh

from selfimprove import configuration
from selfimprove.algorithms.base import StreamVerdict
from selfimprove.experiment import Experiment
from selfimprove.training.checkpoint import restore_params
from selfimprove.training.state import abstract_params
from selfimprove.types import Critic, Params, Policy

_NAMES = {'critic_params': 'critic', 'ref_params': 'reference'}
"""Parts of a checkpoint, and what those who read streams call them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
  """Parameters, and what they were trained with.

  Attributes:
    experiment: as its config describes it.
    policy: the model.
    params: restored, laid out over `mesh`.
    others: those of the `critic` and of the `reference` policy, where the run
      has them and its evaluation reads them.
    mesh: the devices that are here now.
  """

  experiment: Experiment
  policy: Policy
  params: Params
  others: Mapping[str, Params]
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
  models, mesh = experiment.models(), experiment.mesh.make_or_replicate()
  wanted: dict[str, Policy | Critic] = {'params': models.policy}
  if isinstance(experiment.evaluation.reward, StreamVerdict):
    needs = experiment.evaluation.reward.needs
    if 'values' in needs and models.critic is not None:
      wanted['critic_params'] = models.critic
    if 'ref_logprobs' in needs:
      wanted['ref_params'] = models.policy
  found = {
    part: restore_params(
      os.path.join(workdir, 'checkpoints'),
      step=step,
      like=abstract_params(network, mesh),
      part=part,
    )
    for part, network in wanted.items()
  }
  return Trained(
    experiment=experiment,
    policy=models.policy,
    params=found.pop('params'),
    others={_NAMES[part]: params for part, params in found.items()},
    mesh=mesh,
  )
