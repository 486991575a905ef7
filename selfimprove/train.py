"""Trains: `python -m selfimprove.train --gin_file=... --workdir=...`.

The same command again goes on from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

from selfimprove import command, configuration, dry_run
from selfimprove.data import pipeline
from selfimprove.data.pipeline import PromptStream, Table
from selfimprove.data.selection import SelectedStream
from selfimprove.evaluation import attempts
from selfimprove.experiment import (
  Experiment,
  check_judged,
  make_judge,
  make_streams,
)
from selfimprove.models import peft
from selfimprove.ops.keys import named_key
from selfimprove.training import (
  agreement,
  buckets,
  initial,
  lock,
  loop,
  processes,
)
from selfimprove.training.buckets import Files
from selfimprove.training.checkpoint import CheckpointStore
from selfimprove.training.detectors import Monitor
from selfimprove.training.metrics import METRICS_FILE, MetricsWriter
from selfimprove.training.progress import Progress
from selfimprove.training.signals import StopRequest, stop_on_signals
from selfimprove.training.stages import Stage
from selfimprove.training.state import (
  Models,
  TrainState,
  abstract_params,
  policy_params,
  reference_params,
)
from selfimprove.training.timing import PhaseTimers
from selfimprove.types import Prompts


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of this command.

  Args:
    values: where they go.
  """
  command.define_config_flags(values)
  command.define_distributed_flags(values)
  flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
  flags.DEFINE_bool(
    'dry_run',
    False,
    'Print config, shapes and memory estimate, and exit.',
    flag_values=values,
  )


def train(experiment: Experiment, workdir: str, files: Files) -> TrainState:
  """Runs an experiment to its end, or on from where it was interrupted.

  Args:
    experiment: what to do.
    workdir: where checkpoints go.
    files: where metrics go.

  Returns:
    The last state.
  """
  models, mesh = experiment.models(), experiment.mesh.make()
  stages = experiment.unrolled()
  table, held_out = agreement.together(lambda: _problems(experiment, stages))
  experiment.save_failures(files.folder)
  with contextlib.ExitStack() as stack:
    stack.callback(experiment.close)
    store = stack.enter_context(
      CheckpointStore(
        f'{workdir}/checkpoints',
        keep_last=experiment.keep_last,
        keep_best=experiment.keep_best,
        best_metric_mode=experiment.schedule.best_metric_mode,
        before_save=files.sync,
      )
    )
    agreement.check_same(
      {
        'the training problems': str(table.fingerprint()),
        'the validation problems': str(held_out.fingerprint()),
        'the newest checkpoint that they see in --workdir, which must be on a '
        'file system that all share': str(store.latest_step()),
      }
    )
    writer = stack.enter_context(
      contextlib.closing(MetricsWriter(files.folder))
    )
    progress = stack.enter_context(
      contextlib.closing(
        Progress(
          sum(stage.steps for stage in stages),
          start=store.latest_step() or 0,
          shown=experiment.shown,
          visible=jax.process_index() == 0,
        )
      )
    )
    for split, read in (('train', table), ('validation', held_out)):
      if sentence := pipeline.left_out(read, split=split):
        progress.say(sentence)
    stop: StopRequest = stack.enter_context(stop_on_signals())
    run = loop.Run(
      models=models,
      stages=stages,
      batch=make_batch(table, seed=experiment.seed, stages=stages),
      judge=make_judge(experiment.task.vocabulary, table, mesh),
      evaluate=make_evaluate(experiment, models, mesh, held_out),
      mesh=mesh,
      seed=experiment.seed,
      schedule=experiment.schedule,
      store=store,
      writer=writer,
      progress=progress,
      monitor=Monitor(experiment.detectors),
      stop=stop,
      timers=PhaseTimers(),
      data=table.fingerprint(),
    )
    stack.enter_context(processes.bound())
    return loop.train(
      run,
      init_params=initial.reader(
        experiment.init_from, experiment.model, models.policy, mesh
      ),
      init_adapters=_init_adapters(experiment, models, mesh),
    )


def start(experiment: Experiment, workdir: str) -> TrainState:
  """Trains in a workdir that is of the config in force and in nobody's use.

  Args:
    experiment: what was built last.
    workdir: where everything goes.

  Returns:
    The last state.

  Raises:
    ConfigError: the workdir is of another config.
    InUseError: another process is training in it.
    DisagreementError: the processes of the run were not started alike.
  """
  config = configuration.operative_config()
  agreement.check_same({**agreement.versions(), 'the config': config})
  with buckets.files(workdir) as files, contextlib.ExitStack() as stack:

    def prepare() -> None:
      stack.enter_context(lock.exclusive(files.folder))
      if jax.process_index() == 0:
        begun = buckets.has_checkpoint(workdir)
        configuration.check_workdir(files.folder, config, begun=begun)

    agreement.together(prepare)
    return train(experiment, workdir, files)


def _problems(
  experiment: Experiment, stages: Sequence[Stage]
) -> tuple[Table, Table]:
  """What is trained on, which every reward can judge, and what is held out."""
  table = pipeline.load(experiment.task, 'train')
  held_out = pipeline.load(experiment.task, 'validation')
  for stage in stages:
    check_judged(stage.algorithm.reward, table)
  return table, held_out


def make_batch(
  table: Table, *, seed: int, stages: Sequence[Stage]
) -> Callable[[Stage, int], Prompts]:
  """The training prompts of any stage at any position.

  Args:
    table: training problems.
    seed: of their order.
    stages: all that will draw from them.

  Returns:
    (stage, prompts consumed so far) -> host arrays.

  Raises:
    ValueError: a stage has no problems to draw from, or fewer than a batch.
  """
  streams: dict[Any, PromptStream | SelectedStream] = {}
  # All of them now: a stage that cannot draw must not say so hours later.
  for stage in stages:
    size, keep = stage.prompts_per_step, stage.problems
    if (size, keep) not in streams:
      how = {'prompts_per_step': size, 'seed': seed}
      streams[size, keep] = (
        PromptStream(table, **how)
        if keep is None
        else SelectedStream(table, keep=keep, **how)
      )

  def batch(stage: Stage, position: int) -> Prompts:
    return streams[stage.prompts_per_step, stage.problems].batch(position)

  return batch


def make_evaluate(
  experiment: Experiment, models: Models, mesh: Mesh, table: Table
) -> loop.Evaluate:
  """The measurement on validation problems that training calls.

  Args:
    experiment: how problems are tried.
    models: the networks.
    mesh: devices.
    table: validation problems; of them the first `Evaluation.problems`.

  Returns:
    (state) -> metrics `eval/...`.
  """
  how = experiment.evaluation
  if how.problems:
    table = table.head(how.problems)
  check_judged(how.reward, table)
  collect = attempts.make_collect(
    models.policy,
    rollout=how.rollout,
    reward=how.reward,
    judge=make_judge(experiment.task.vocabulary, table, mesh),
    streams=make_streams(models),
    table=table,
    batch_size=how.batch_size,
    mesh=mesh,
  )
  key = named_key(jax.random.key(experiment.seed), 'evaluate')

  def evaluate(state: TrainState) -> Mapping[str, float]:
    networks = {
      'policy': policy_params(models, state),
      'critic': state.critic_params,
      'reference': reference_params(models, state),
    }
    return attempts.logged(attempts.measure(collect(networks, key)))

  return evaluate


def _init_adapters(
  experiment: Experiment, models: Models, mesh: Mesh
) -> initial.Read | None:
  """The function that reads the adapters to begin with, if there are any."""
  lora, adapters = experiment.lora, models.adapters
  if lora is None or adapters is None or not experiment.adapters_from:
    return None
  like = abstract_params(adapters, mesh)
  return lambda: peft.load(
    experiment.adapters_from, experiment.model, lora, like=like
  )


def main(options: flags.FlagValues) -> None:
  """Trains as the flags say, and tells where the results are.

  Args:
    options: parsed flags.

  Raises:
    ConfigError: the config or the workdir cannot be used.
  """
  with processes.joined(
    options.distributed, timeout_seconds=options.distributed_timeout
  ):
    _main(options)


def _main(options: flags.FlagValues) -> None:
  experiment = configuration.build(
    Experiment, files=options.gin_file, bindings=options.gin_bindings
  )
  if options.dry_run:
    report = dry_run.report(experiment)
    if jax.process_index() == 0:
      print(report)
    return
  workdir = options.workdir
  if not workdir:
    raise configuration.ConfigError(
      'No --workdir given; name a folder for checkpoints and metrics.'
    )
  state = start(experiment, workdir)
  if jax.process_index():
    return
  print(
    f'Checkpoint: {workdir}/checkpoints/{int(state.step)}; metrics: '
    f'{workdir}/{METRICS_FILE}; measure it with: python -m '
    f'selfimprove.evaluate --workdir={workdir}'
  )


if __name__ == '__main__':
  command.start(define_flags, main)
