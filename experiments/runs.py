"""What the experiments share: where a run goes, and that it came to its end."""

from __future__ import annotations

import os

import jax

from selfimprove import train
from selfimprove.configuration import ConfigError
from selfimprove.experiment import Experiment
from selfimprove.training.checkpoint import read_extra


def begin(workdir: str | None) -> str:
  """The folder of an experiment, with the programs that its runs share.

  Args:
    workdir: as it was given.

  Returns:
    The folder.

  Raises:
    ConfigError: none was given.
  """
  if not workdir:
    raise ConfigError('No --workdir given; name a folder.')
  # Runs that differ in their seed alone compile the same programs.
  share_programs(os.path.join(workdir, 'compiled'))
  return workdir


def share_programs(folder: str) -> None:
  """Compiled programs are kept in a folder from here on.

  Args:
    folder: made where it is missing.
  """
  jax.config.update('jax_compilation_cache_dir', os.path.abspath(folder))


def train_to_end(experiment: Experiment, folder: str) -> int:
  """Trains to the end, goes on to it, or finds that all is done.

  Args:
    experiment: what `configuration.build` built last.
    folder: of the run.

  Returns:
    The last step.

  Raises:
    SystemExit: somebody stopped it before the end. What is there is no result:
      who measures or builds on it must not begin.
  """
  step = int(train.start(experiment, folder).step)
  stages = experiment.unrolled()
  end = sum(stage.steps for stage in stages)
  of = f' of {end}'
  if step < end and any(stage.advance is not None for stage in stages):
    # A condition may end a stage sooner.
    cursor = read_extra(f'{folder}/checkpoints', step=step)['cursor']
    if cursor['stage'] >= len(stages):
      return step
    of = ''
  if step < end:
    raise SystemExit(
      f'Stopped in {folder} at step {step}{of}; the same command goes on from '
      'there.'
    )
  return step
