"""The runs of a sweep as processes of this machine, several at a time."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from experiments.sweeps import plan
from experiments.sweeps.plan import Run
from selfimprove.configuration import ROOT
from selfimprove.training.signals import StopRequest, stop_on_signals

LOG_FILE = 'log.txt'
WORK = 'experiments.sweeps.work'
_TAIL = 8  # Lines of the log of a run that failed.

Finished = Callable[[Run], None]
"""Hears of every run that has come to its end."""


def perform(
  runs: Sequence[Run],
  workdir: str,
  *,
  jobs: int,
  finished: Finished,
  devices: Sequence[str] = (),
) -> tuple[list[str], bool]:
  """Sentences about runs that failed, and whether all runs were begun.

  Ctrl-C or SIGTERM lets the runs that are there finish their step and write
  their checkpoint; a second Ctrl-C ends them at once.

  Args:
    runs: those that have no row yet.
    workdir: of the sweep.
    jobs: processes at a time, at least 1.
    finished: called after every run that has a row now.
    devices: of each process, the value of CUDA_VISIBLE_DEVICES; none for all
      devices to all processes.

  Returns:
    The sentences, and False if somebody asked for a stop.
  """
  pool = _Pool(runs, workdir, jobs=jobs, devices=devices)
  with stop_on_signals() as stop:
    try:
      while pool.step(stop):
        for run in pool.take_finished():
          finished(run)
        time.sleep(0.1)
    except KeyboardInterrupt:
      pool.kill()
      raise
    finally:
      # Nobody is left behind, whatever happened.
      pool.end()
  return pool.failures, not stop.requested


class _Pool:
  """Processes, and the runs that wait for one."""

  def __init__(
    self,
    runs: Sequence[Run],
    workdir: str,
    *,
    jobs: int,
    devices: Sequence[str],
  ) -> None:
    self.failures = list[str]()
    self._waiting = collections.deque(runs)
    self._workdir = workdir
    self._slots = list(range(jobs))
    self._devices = devices
    self._running = dict[subprocess.Popen[bytes], tuple[Run, int]]()
    self._finished = list[Run]()
    self._told: set[int] = set()
    self._ends = list[float]()
    self._began = time.monotonic()
    self._count = len(runs)

  def step(self, stop: StopRequest) -> bool:
    """Begins what can be begun; False when there is nothing left to do."""
    if stop.requested:
      self._waiting.clear()
      self._ask_to_stop()
    while self._waiting and self._slots:
      self._begin(self._waiting.popleft(), self._slots.pop(0))
    for process in [p for p in self._running if p.poll() is not None]:
      run, slot = self._running.pop(process)
      self._slots.append(slot)
      _let_go(process)
      self._note(run, process.returncode, stopped=stop.requested)
    return bool(self._running or self._waiting or self._finished)

  def take_finished(self) -> list[Run]:
    """The runs that ended well since the last call."""
    taken, self._finished = self._finished, []
    return taken

  def kill(self) -> None:
    """Ends what still runs, without checkpoints."""
    for process in self._running:
      process.kill()

  def end(self) -> None:
    """Waits for what still runs; another Ctrl-C kills it."""
    self._ask_to_stop()
    try:
      for process in self._running:
        process.wait()
    except KeyboardInterrupt:
      self.kill()
      raise
    finally:
      for process in self._running:
        process.wait()
        _let_go(process)

  def _begin(self, run: Run, slot: int) -> None:
    folder = plan.folder(self._workdir, run)
    os.makedirs(folder, exist_ok=True)
    self._say(f'begun: {run.name}')
    with open(os.path.join(folder, LOG_FILE), 'ab') as log:
      process = subprocess.Popen(
        [*command(run, self._workdir), '--stop_with_parent'],
        env=self._environment(slot),
        # Its end tells the process that this one is gone.
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        # Ctrl-C reaches this process alone, which passes it on once.
        start_new_session=True,
      )
    self._running[process] = run, slot

  def _environment(self, slot: int) -> dict[str, str]:
    environment = with_project(os.environ)
    if self._devices:
      environment['CUDA_VISIBLE_DEVICES'] = self._devices[slot]
    return environment

  def _ask_to_stop(self) -> None:
    for process in self._running:
      if process.pid not in self._told:
        self._told.add(process.pid)
        process.send_signal(signal.SIGTERM)

  def _note(self, run: Run, status: int, *, stopped: bool) -> None:
    if status == 0 and plan.row(self._workdir, run) is not None:
      self._finished.append(run)
      self._ends.append(time.monotonic())
      self._say(f'finished: {run.name}')
    elif stopped:
      self._say(f'stopped: {run.name}')
    else:
      self._ends.append(time.monotonic())
      self.failures.append(_failure(self._workdir, run, status))
      self._say(f'failed: {self.failures[-1]}')

  def _say(self, text: str) -> None:
    left = ''
    if self._ends:
      each = (self._ends[-1] - self._began) / len(self._ends)
      minutes = each * (self._count - len(self._ends)) / 60
      left = f', {minutes:.0f} min left'
    print(
      f'[{len(self._ends)}/{self._count}{left}] {text}',
      file=sys.stderr,
      flush=True,
    )


def command(run: Run, workdir: str) -> list[str]:
  """What is executed for a run.

  Args:
    run: the run.
    workdir: of the sweep.

  Returns:
    Program and arguments.
  """
  return [sys.executable, '-m', WORK, *run.flags_in(workdir)]


def with_project(environment: 'os._Environ[str]') -> dict[str, str]:
  """An environment in which Python finds this project.

  Args:
    environment: of this process.

  Returns:
    A copy with the project on PYTHONPATH.
  """
  known = filter(None, [ROOT, environment.get('PYTHONPATH')])
  return {**environment, 'PYTHONPATH': os.pathsep.join(known)}


def _let_go(process: subprocess.Popen[bytes]) -> None:
  if process.stdin:
    process.stdin.close()


def _failure(workdir: str, run: Run, status: int) -> str:
  how = f'ended with status {status}'
  if status < 0:
    how = f'was killed by {signal.Signals(-status).name}'
  elif status == 0:
    how = 'ended without a row'
  path = os.path.join(plan.folder(workdir, run), LOG_FILE)
  with open(path, encoding='utf-8', errors='replace') as file:
    # A progress bar overwrites its line.
    lines = [line.split('\r')[-1].rstrip() for line in file]
  tail = ''.join(f'\n    {line}' for line in lines[-_TAIL:])
  return f'{run.name} {how}; {path} ends with:{tail}'
