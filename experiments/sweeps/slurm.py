"""The runs of a sweep as jobs of SLURM, through submitit."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.sweeps import local
from experiments.sweeps.plan import Run
from selfimprove.configuration import ROOT, ConfigError

JOBS_FOLDER = 'slurm'


class Work:
  """A run as a job: submitit calls it, and asks it to make way.

  Attributes:
    command: program and arguments of the run.
  """

  def __init__(self, command: Sequence[str]) -> None:
    self.command = list(command)
    self._process: subprocess.Popen[bytes] | None = None

  def __call__(self) -> None:
    """Waits for the run.

    Raises:
      RuntimeError: it failed.
    """
    # In a session of its own: SLURM's warning must not end it unasked.
    self._process = subprocess.Popen(
      [*self.command, '--stop_with_parent'],
      env=local.with_project(os.environ),
      stdin=subprocess.PIPE,
      start_new_session=True,
    )
    while self._process.poll() is None:
      time.sleep(0.2)
    if self._process.returncode:
      raise RuntimeError(
        f'The run ended with status {self._process.returncode}; its words are '
        'above.'
      )

  def checkpoint(self) -> Any:
    """What is to be queued again: the run stops first, with a checkpoint."""
    import submitit

    if self._process is not None and self._process.returncode is None:
      self._process.send_signal(signal.SIGTERM)
      _wait(self._process.pid)
    return submitit.helpers.DelayedSubmission(Work(self.command))


def submit(
  runs: Sequence[Run], workdir: str, *, options: Sequence[str]
) -> list[str]:
  """Queues the runs that are not in the queue.

  Args:
    runs: those that have no row yet.
    workdir: of the sweep, on a file system that the nodes share.
    options: `name=value`, names as of submitit's executor: `timeout_min`,
      `nodes`, `gpus_per_node`, `slurm_partition`, ...

  Returns:
    Ids of the jobs.

  Raises:
    ConfigError: submitit is not installed, or does not know an option.
  """
  executor = make_executor(workdir, options=options, cluster='slurm')
  queued = _queued()
  ids = []
  for run in runs:
    name = _job_name(workdir, run)
    if name in queued:
      print(f'In the queue already: {run.name}')
      continue
    executor.update_parameters(name=name)
    job = executor.submit(Work(local.command(run, workdir)))
    ids.append(str(job.job_id))
    print(f'Job {job.job_id}: {run.name}; its words go to {job.paths.stdout}')
  return ids


def make_executor(workdir: str, *, options: Sequence[str], cluster: str) -> Any:
  """Submitit's executor.

  Args:
    workdir: of the sweep.
    options: as for `submit`.
    cluster: `slurm`, or `local` for processes of this machine.

  Returns:
    The executor.

  Raises:
    ConfigError: submitit is not installed, or does not know an option.
  """
  try:
    import submitit
  except ImportError as error:
    raise ConfigError(
      'SLURM jobs need submitit; install it with `pip install '
      'selfimprove[slurm]`.'
    ) from error
  folder = os.path.join(workdir, JOBS_FOLDER, '%j')
  try:
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(
      # A node unpickles `Work` before anything else.
      slurm_setup=[f'export PYTHONPATH={shlex.quote(ROOT)}:$PYTHONPATH'],
      **parsed(options),
    )
  except (NameError, AssertionError, RuntimeError, TypeError) as error:
    raise ConfigError(
      f'--option={list(options)}: {" ".join(str(error).split())}'
    ) from error
  return executor


def parsed(options: Sequence[str]) -> Mapping[str, Any]:
  """Options by name; a value that is a whole number becomes one.

  Args:
    options: `name=value`.

  Returns:
    Values by name.

  Raises:
    ConfigError: one is not of that form, or is there twice.
  """
  found: dict[str, Any] = {}
  for option in options:
    name, equals, value = option.partition('=')
    if not equals or not name or name in found:
      raise ConfigError(
        f'--option={option} cannot be used; write --option=name=value, each '
        'name once.'
      )
    found[name] = int(value) if value.isdecimal() else value
  return found


def _job_name(workdir: str, run: Run) -> str:
  """One name in the whole queue: the same run may be in two sweeps."""
  where = hashlib.sha256(os.path.abspath(workdir).encode()).hexdigest()[:6]
  return f'{run.name}-{where}'


def _queued() -> set[str]:
  """Names of the jobs that this user has in the queue."""
  command = ['squeue', '--noheader', f'--user={getpass.getuser()}']
  command.append('--format=%j')
  try:
    said = subprocess.run(command, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError) as error:
    raise ConfigError(
      f'`{shlex.join(command)}` did not work ({error}); submit from a machine '
      'with the commands of SLURM.'
    ) from error
  return {line.strip() for line in said.stdout.splitlines()}


def _wait(pid: int) -> None:
  """Until a child has ended; `Popen.wait` has a lock that a signal may hold."""
  with contextlib.suppress(ChildProcessError):
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
