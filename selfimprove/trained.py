"""A finished or running experiment, opened to be used."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence

from jax.sharding import Mesh

from selfimprove import configuration
from selfimprove.algorithms.base import StreamVerdict
from selfimprove.experiment import Experiment
from selfimprove.training import buckets, initial
from selfimprove.training.buckets import Files
from selfimprove.training.checkpoint import read_extra, restore_params
from selfimprove.training.stages import holds_reference
from selfimprove.training.state import Models, abstract_params, joined
from selfimprove.types import Adapters, Critic, Params, Policy

_NAMES = {'critic_params': 'critic', 'ref_params': 'reference'}
"""Parts of a checkpoint, and what those who read streams call them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
  """Parameters, and what they were trained with.

  Attributes:
    experiment: as its config describes it.
    policy: the model.
    params: restored, laid out over `mesh`; adapters joined with their base.
    others: those of the `critic` and of the `reference` policy, where the run
      has them and its evaluation reads them.
    mesh: the devices that are here now.
    adapters: of the policy, where they are what was trained; else `{}`.
  """

  experiment: Experiment
  policy: Policy
  params: Params
  others: Mapping[str, Params]
  mesh: Mesh
  adapters: Params = dataclasses.field(default_factory=dict)


def open_workdir(
  workdir: str,
  *,
  step: int | None = None,
  bindings: Sequence[str] = (),
  files: Files | None = None,
) -> Trained:
  """The model that a run has trained.

  Args:
    workdir: folder of the run, or its address in a bucket.
    step: of the checkpoint; None for the newest.
    bindings: gin lines that override the run's config.
    files: the small ones of the run; None to fetch them, where it is in a
      bucket.

  Returns:
    The model, on the devices that are here: over the mesh of the run, or where
    that does not fit them, one whole copy on each.

  Raises:
    ConfigError: there is no run in the folder, or a binding is not usable.
    FileNotFoundError: there is no such checkpoint.
  """
  fetched = buckets.files(workdir, writes=False)
  with contextlib.nullcontext(files) if files else fetched as files:
    config = os.path.join(files.folder, 'config.gin')
    if not os.path.isfile(config):
      raise configuration.ConfigError(
        f'There is no run in {workdir!r}: it has no config.gin; give the '
        '--workdir of `python -m selfimprove.train`.'
      )
    experiment = configuration.build(
      Experiment, files=[config], bindings=bindings
    )
  models, mesh = experiment.models(), experiment.mesh.make_or_replicate()
  folder = os.path.join(workdir, 'checkpoints')
  found = {
    part: restore_params(
      folder, step=step, like=abstract_params(network, mesh), part=part
    )
    for part, network in _wanted(experiment, models).items()
  }
  adapters = {}
  if models.adapters is not None:
    saved = read_extra(folder, step=step)
    base = _base(experiment, models.policy, mesh, saved['base'])
    adapters = found['params']
    for part in ('params', 'ref_params'):
      found[part] = joined(models, base, found.get(part, {}))
  return Trained(
    experiment=experiment,
    policy=models.policy,
    params=found.pop('params'),
    others={_NAMES[part]: params for part, params in found.items()},
    mesh=mesh,
    adapters=adapters,
  )


def _wanted(
  experiment: Experiment, models: Models
) -> dict[str, Policy | Critic | Adapters]:
  """The parts of the state that are read, and what they are of."""
  policy = models.adapters or models.policy
  wanted: dict[str, Policy | Critic | Adapters] = {'params': policy}
  if isinstance(experiment.evaluation.reward, StreamVerdict):
    needs = experiment.evaluation.reward.needs
    if 'values' in needs and models.critic is not None:
      wanted['critic_params'] = models.critic
    in_base = models.adapters and not holds_reference(experiment.stages, models)
    if 'ref_logprobs' in needs and not in_base:
      wanted['ref_params'] = policy
  return wanted


def _base(
  experiment: Experiment, policy: Policy, mesh: Mesh, fingerprint: str
) -> Params:
  """The base beside which the adapters of a run were trained."""
  base = initial.base_params(
    policy,
    mesh,
    seed=experiment.seed,
    read=initial.reader(experiment.init_from, experiment.model, policy, mesh),
  )
  initial.check_base(fingerprint, base)
  return base
