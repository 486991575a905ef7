"""Trains: `python -m selfimprove.train --gin_file=... --workdir=...`.

The same command again goes on from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping

import jax
from absl import app, flags
from jax.sharding import Mesh

from selfimprove import configuration, dry_run
from selfimprove.data import pipeline
from selfimprove.data.pipeline import PromptStream, Table
from selfimprove.evaluation import attempts
from selfimprove.experiment import Experiment, make_judge
from selfimprove.models.transformer import make_policy
from selfimprove.ops.keys import named_key
from selfimprove.training import loop
from selfimprove.training.checkpoint import CheckpointStore, restore_params
from selfimprove.training.detectors import Monitor
from selfimprove.training.metrics import MetricsWriter
from selfimprove.training.progress import Progress
from selfimprove.training.signals import StopRequest, stop_on_signals
from selfimprove.training.stages import Stage
from selfimprove.training.state import TrainState
from selfimprove.training.timing import PhaseTimers
from selfimprove.types import Params, Policy, Prompts

_GIN_FILE = flags.DEFINE_multi_string('gin_file', [], 'Gin files.')
_GIN_BINDINGS = flags.DEFINE_multi_string(
  'gin_bindings', [], 'Bindings that override the files.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print config, shapes and memory estimate, and exit.'
)


def train(experiment: Experiment, workdir: str) -> TrainState:
  """Runs an experiment to its end, or on from where it was interrupted.

  Args:
    experiment: what to do.
    workdir: where checkpoints and metrics go.

  Returns:
    The last state.
  """
  policy, mesh = make_policy(experiment.model), experiment.mesh.make()
  table = pipeline.load(experiment.task, 'train')
  stages = experiment.unrolled()
  with contextlib.ExitStack() as stack:
    store = stack.enter_context(
      CheckpointStore(
        f'{workdir}/checkpoints',
        keep_last=experiment.keep_last,
        keep_best=experiment.keep_best,
      )
    )
    writer = stack.enter_context(contextlib.closing(MetricsWriter(workdir)))
    progress = stack.enter_context(
      contextlib.closing(
        Progress(
          sum(stage.steps for stage in stages),
          start=store.latest_step() or 0,
          shown=experiment.shown,
        )
      )
    )
    stop: StopRequest = stack.enter_context(stop_on_signals())
    run = loop.Run(
      policy=policy,
      stages=stages,
      batch=make_batch(table, seed=experiment.seed),
      judge=make_judge(experiment.task.vocabulary, table),
      evaluate=make_evaluate(experiment, policy, mesh),
      mesh=mesh,
      seed=experiment.seed,
      schedule=experiment.schedule,
      store=store,
      writer=writer,
      progress=progress,
      monitor=Monitor(experiment.detectors),
      stop=stop,
      timers=PhaseTimers(),
    )
    return loop.train(run, init_params=_init_params(experiment, policy))


def make_batch(table: Table, *, seed: int) -> Callable[[Stage, int], Prompts]:
  """The training prompts of any stage at any position.

  Args:
    table: training problems.
    seed: of their order.

  Returns:
    (stage, prompts consumed so far) -> host arrays.
  """
  streams: dict[int, PromptStream] = {}

  def batch(stage: Stage, position: int) -> Prompts:
    size = stage.prompts_per_step
    if size not in streams:
      streams[size] = PromptStream(table, prompts_per_step=size, seed=seed)
    return streams[size].batch(position)

  return batch


def make_evaluate(
  experiment: Experiment, policy: Policy, mesh: Mesh
) -> loop.Evaluate:
  """The measurement on validation problems that training calls.

  Args:
    experiment: how problems are tried.
    policy: the model.
    mesh: devices.

  Returns:
    (params) -> metrics `eval/...`.
  """
  how = experiment.evaluation
  table = pipeline.load(experiment.task, 'validation')
  if how.problems:
    table = table.head(how.problems)
  collect = attempts.make_collect(
    policy,
    rollout=how.rollout,
    reward=how.reward,
    judge=make_judge(experiment.task.vocabulary, table),
    table=table,
    batch_size=how.batch_size,
    mesh=mesh,
  )
  key = named_key(jax.random.key(experiment.seed), 'evaluate')

  def evaluate(params: Params) -> Mapping[str, float]:
    return attempts.logged(attempts.measure(collect(params, key)))

  return evaluate


def _init_params(experiment: Experiment, policy: Policy) -> Params | None:
  if not experiment.init_from:
    return None
  like = jax.eval_shape(policy.init, jax.random.key(0))
  return restore_params(experiment.init_from, like=like)


def main(argv: list[str]) -> None:
  """Parses flags and trains; errors of the user are one sentence."""
  del argv
  try:
    experiment = configuration.build(
      Experiment, files=_GIN_FILE.value, bindings=_GIN_BINDINGS.value
    )
    if _DRY_RUN.value:
      print(dry_run.report(experiment))
      return
    if not _WORKDIR.value:
      raise configuration.ConfigError(
        'No --workdir given; name a folder for checkpoints and metrics.'
      )
    configuration.check_workdir(
      _WORKDIR.value, configuration.operative_config()
    )
    train(experiment, _WORKDIR.value)
  except (configuration.ConfigError, ValueError, FileNotFoundError) as error:
    sys.exit(f'Error: {error}')


if __name__ == '__main__':
  app.run(main)
