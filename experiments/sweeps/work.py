"""One run of a sweep: `python -m experiments.sweeps.work`.

What launchers call: trained to the end or on to it, measured, and remembered as
a file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
from absl import flags

from experiments import runs
from experiments.sweeps import locks
from experiments.sweeps.plan import ROW_FILE
from selfimprove import command, configuration
from selfimprove.evaluate import evaluate
from selfimprove.evaluation.report import write_json
from selfimprove.experiment import Experiment
from selfimprove.trained import open_workdir
from selfimprove.training import processes
from selfimprove.training.metrics import TIMING_FILE, read_rows

# A run that was told to stop finishes its step and writes its checkpoint.
PATIENCE = 600.0


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of this command.

  Args:
    values: where they go.
  """
  command.define_config_flags(values)
  command.define_distributed_flags(values)
  flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
  flags.DEFINE_string(
    'compiled', None, 'Folder of programs that runs share.', flag_values=values
  )
  flags.DEFINE_string('split', 'test', 'Measured.', flag_values=values)
  flags.DEFINE_integer('samples', 1, 'For pass@k.', flag_values=values)
  flags.DEFINE_float('temperature', 1.0, 'Of samples.', flag_values=values)
  flags.DEFINE_bool(
    'stop_with_parent',
    False,
    'Stop, with a checkpoint, when standard input ends.',
    flag_values=values,
  )


def main(options: flags.FlagValues) -> None:
  """Trains and measures, or finds that all is done.

  Args:
    options: parsed flags.

  Raises:
    ConfigError: there is no --workdir, or another process works in it.
  """
  workdir = options.workdir
  if not workdir:
    raise configuration.ConfigError('No --workdir given; name a folder.')
  if options.stop_with_parent:
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
  with processes.joined(
    options.distributed, timeout_seconds=options.distributed_timeout
  ):
    _train_and_measure(options, workdir)


def _train_and_measure(options: flags.FlagValues, workdir: str) -> None:
  if options.compiled:
    runs.share_programs(options.compiled)
  path = os.path.join(workdir, ROW_FILE)
  with _alone(workdir):
    if os.path.exists(path):
      print(f'Finished before: {path}')
      return
    row = _row(options)
    if jax.process_index() == 0:
      write_json(path, row)
  print(f'Written to {path}')


@contextlib.contextmanager
def _alone(workdir: str) -> Iterator[None]:
  """The run without its like: one that is stopping, perhaps, is waited for."""
  if jax.process_index() != 0:  # Of a run with many, the first has the lock.
    yield
    return
  refusal = f'another process works in {workdir}; wait for its end or stop it.'
  with locks.alone(f'{workdir}/work.lock', refusal=refusal, patience=PATIENCE):
    yield


def _row(options: flags.FlagValues) -> dict[str, Any]:
  experiment = configuration.build(
    Experiment, files=options.gin_file, bindings=options.gin_bindings
  )
  step = runs.train_to_end(experiment, options.workdir)
  trained = open_workdir(options.workdir)
  with contextlib.closing(trained.experiment):
    measured = evaluate(
      trained,
      split=options.split,
      samples=options.samples,
      temperature=options.temperature,
    )
  # Compilation included.
  timing = read_rows(os.path.join(options.workdir, TIMING_FILE))
  return {
    'steps': step,
    'seconds': round(sum(row.get('time/total', 0.0) for row in timing), 1),
    'metrics': {name: found.value for name, found in measured.items()},
  }


def _stop_at_end_of_input() -> None:
  """Asks this process to stop when who started it is gone, however it went."""
  while os.read(sys.stdin.fileno(), 1024):
    pass
  os.kill(os.getpid(), signal.SIGTERM)


if __name__ == '__main__':
  command.start(define_flags, main)
