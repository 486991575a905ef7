"""What `python -m experiments.<name>.sweep` does, for all sweeps."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shlex
import sys
from collections.abc import Iterator, Sequence

from absl import flags

from experiments.sweeps import (
  local,
  locks,
  plan,
  slurm,
  table,
  unchanged,
  xm_launch,
)
from experiments.sweeps.plan import Run, Sweep
from selfimprove import command
from selfimprove.configuration import ConfigError
from selfimprove.evaluation.report import write_json

RESULTS_FILE = 'results.json'
LAUNCHERS = ('local', 'slurm', 'xmanager')


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of a sweep.

  Args:
    values: where they go.
  """
  flags.DEFINE_string(
    'workdir',
    None,
    'Where everything goes; for xmanager a path that the jobs see, as '
    '/gcs/<bucket>/<folder>.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'launcher', 'local', LAUNCHERS, 'Where runs run.', flag_values=values
  )
  flags.DEFINE_integer(
    'jobs', 1, 'Local runs at a time.', lower_bound=1, flag_values=values
  )
  flags.DEFINE_multi_string(
    'devices',
    [],
    'CUDA_VISIBLE_DEVICES of each of the local --jobs, once per job.',
    flag_values=values,
  )
  flags.DEFINE_multi_string(
    'gin_bindings', [], 'Bindings of all runs.', flag_values=values
  )
  flags.DEFINE_multi_string(
    'option',
    [],
    'name=value: of a SLURM job, as submitit calls it, or of an XManager job.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'dry_run', False, 'List the runs, and exit.', flag_values=values
  )
  flags.DEFINE_bool(
    'collect', False, 'Begin nothing; show the table.', flag_values=values
  )


def start(sweep: Sweep) -> None:
  """Runs the command of a sweep, and exits.

  Args:
    sweep: the sweep.
  """
  command.start(define_flags, functools.partial(main, sweep))


def main(sweep: Sweep, options: flags.FlagValues) -> None:
  """Begins the runs that have not finished, and prints the table.

  Args:
    sweep: the sweep.
    options: parsed flags.

  Raises:
    ConfigError: the sweep or a flag cannot be used as it is.
    SystemExit: a run failed, or somebody asked for a stop.
  """
  lines = (*sweep.bindings, *options.gin_bindings)
  sweep = dataclasses.replace(sweep, bindings=lines)
  runs = plan.runs(sweep)
  if options.dry_run:
    print(_listed(runs, options.workdir))
    return
  if not options.workdir:
    raise ConfigError('No --workdir given; name a folder.')
  _check(options)
  if options.collect:
    _check_begun(runs, options.workdir)
  with _workdir(sweep, options) as workdir:
    try:
      _launch(sweep, runs, workdir, options)
    except KeyboardInterrupt:
      sys.exit('Left at once; the same command goes on from the checkpoints.')


def _check(options: flags.FlagValues) -> None:
  if options.option and options.launcher == 'local':
    raise ConfigError(
      f'--option={options.option[0]} is for --launcher=slurm or xmanager; a '
      'local sweep has --jobs and --devices.'
    )
  if options.devices and len(options.devices) != options.jobs:
    raise ConfigError(
      f'--devices is given {len(options.devices)} times for '
      f'--jobs={options.jobs}; give it once per job.'
    )


def _check_begun(runs: Sequence[Run], workdir: str) -> None:
  """Refuses to collect where neither a sweep nor one of its runs was begun."""
  # A cloud's jobs make the folders of their runs, and nothing else.
  traces = [plan.folder(workdir, run) for run in runs]
  traces.append(os.path.join(workdir, unchanged.SWEEP_FILE))
  if not any(map(os.path.exists, traces)):
    raise ConfigError(
      f'No sweep is in {workdir}, so that nothing can be collected; name the '
      '--workdir of one that was begun, or leave out --collect to begin it.'
    )


@contextlib.contextmanager
def _workdir(sweep: Sweep, options: flags.FlagValues) -> Iterator[str]:
  """The folder of the sweep, which no other sweep uses meanwhile."""
  if options.launcher == 'xmanager':
    # A path of the jobs, which may mean nothing here.
    yield options.workdir
    return
  workdir = os.path.abspath(options.workdir)
  refusal = (
    f'Another sweep is running in {workdir}; wait for its end, stop it, or use '
    'another --workdir.'
  )
  with locks.alone(f'{workdir}/sweep.lock', refusal=refusal):
    unchanged.check(workdir, sweep)
    yield workdir


def _launch(
  sweep: Sweep, runs: Sequence[Run], workdir: str, options: flags.FlagValues
) -> None:
  waiting = [run for run in runs if plan.row(workdir, run) is None]
  failures, whole = list[str](), True
  if options.collect or not waiting:
    pass
  elif options.launcher == 'local':
    failures, whole = local.perform(
      waiting,
      workdir,
      jobs=options.jobs,
      devices=options.devices,
      finished=lambda run: _finished(sweep, runs, workdir, run),
    )
  else:
    submit = {'slurm': slurm.submit, 'xmanager': xm_launch.submit}
    submit[options.launcher](waiting, workdir, options=options.option)
    print('When they have finished, --collect shows the table.')
    return
  _show(sweep, runs, workdir)
  for sentence in failures:
    print(f'Failed: {sentence}', file=sys.stderr)
  if failures:
    sys.exit(
      f'Error: {len(failures)} of {len(runs)} runs failed; the same command '
      'tries them again.'
    )
  if not whole:
    sys.exit('Stopped; the same command goes on from there.')


def _finished(
  sweep: Sweep, runs: Sequence[Run], workdir: str, run: Run
) -> None:
  """After every run, so that whoever looks sees what there is."""
  row = plan.row(workdir, run)
  assert row is not None
  table.check_metrics(sweep, row)
  _write(sweep, runs, workdir)


def _rows(runs: Sequence[Run], workdir: str) -> table.Rows:
  found = {run.name: plan.row(workdir, run) for run in runs}
  return {name: row for name, row in found.items() if row is not None}


def _write(sweep: Sweep, runs: Sequence[Run], workdir: str) -> table.Rows:
  rows = _rows(runs, workdir)
  for row in rows.values():
    table.check_metrics(sweep, row)
  path = os.path.join(workdir, RESULTS_FILE)
  write_json(path, table.results(sweep, runs, rows))
  return rows


def _show(sweep: Sweep, runs: Sequence[Run], workdir: str) -> None:
  rows = _write(sweep, runs, workdir)
  print(table.table(sweep, runs, rows))
  print(
    f'{len(rows)} of {len(runs)} runs finished; written to '
    f'{os.path.join(workdir, RESULTS_FILE)}'
  )


def _listed(runs: Sequence[Run], workdir: str | None) -> str:
  """The runs, what is remembered of them, and how they are begun."""
  lines = [f'{len(runs)} runs']
  for run in runs:
    done = workdir and plan.row(workdir, run) is not None
    lines.append(f'{run.name}{": finished" if done else ""}')
    arguments = map(shlex.quote, run.flags_in(workdir or 'WORKDIR'))
    lines.append(f'  python -m {local.WORK} {" ".join(arguments)}')
  return '\n'.join(lines)
