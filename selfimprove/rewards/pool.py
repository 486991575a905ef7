"""A pool of processes that judge attempts and can be killed.

Verifiers meet text that no one has read: they loop, they backtrack for hours
inside C code, they exit. A limit enforced inside the same process (an alarm, a
thread) does not stop all of these, so each call runs in a worker process that
the parent kills with SIGKILL when its time is up, and replaces. That is
protection from accidents; it is no sandbox for hostile code.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection
from typing import Any

from selfimprove.rewards import worker as worker_script

Verifier = Callable[[str, Mapping[str, Any]], float]
"""Judges an attempt against a data row."""

_START_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
  """A call without a verdict.

  Attributes:
    reason: what happened, as the end of a sentence about the verifier.
    timed_out: whether the worker was killed for exceeding its time.
  """

  reason: str
  timed_out: bool = False


class VerifierPool:
  """Worker processes that call one verifier.

  Processes start at the first call and stay. The same calls give the same
  verdicts in the same order whatever the number of workers, provided that the
  verifier is a function of its arguments. A verifier with a method `prepare()`
  has it called once in each process, before its first call and its time.

  Attributes:
    timeout_seconds: time of one call, in wall-clock seconds > 0.
    workers: number of processes, >= 1; so many calls run at once.
    memory_bytes: address space of a worker; None sets no limit.
    counts: `calls`, `failures` and, among these, `timeouts` of the last run.
    seconds: that each call of the last run took; 0 where it was not made.
  """

  def __init__(
    self,
    verifier: Verifier,
    *,
    timeout_seconds: float,
    workers: int,
    memory_bytes: int | None,
  ) -> None:
    if not 0 < timeout_seconds < math.inf:
      raise ValueError(
        f'timeout_seconds is {timeout_seconds}; use a finite number > 0.'
      )
    if workers < 1:
      raise ValueError(f'workers is {workers}; use at least 1.')
    self.timeout_seconds = timeout_seconds
    self.workers = workers
    self.memory_bytes = memory_bytes
    self.counts = {'calls': 0, 'failures': 0, 'timeouts': 0}
    self.seconds: list[float] = []
    self._name = verifier_name(verifier)
    self._pickled = pickle.dumps(importable(verifier))
    self._lock = threading.Lock()
    self._running: list[_Worker] = []
    # Also runs at interpreter exit, and must not hold the pool itself.
    weakref.finalize(self, _kill_all, self._running, os.getpid())

  def run(
    self,
    calls: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    stop_at_failure: bool,
    stop_at_timeout: bool = True,
  ) -> list[float | Failure | None]:
    """Verdicts in the order of the calls.

    Args:
      calls: pairs of attempt and reference.
      stop_at_failure: start no further call once one has failed. Calls start
        in order and those under way are finished, so the first failure of the
        list does not depend on timing.
      stop_at_timeout: whether a call that was killed for its time is such a
        failure.

    Returns:
      One verdict per call, a `Failure` where there is none, None where the
      call was not made.

    Raises:
      RuntimeError: a worker cannot load the verifier.
    """
    with self._lock:
      try:
        outcomes = self._run(calls, stop_at_failure, stop_at_timeout)
      except BaseException:
        # Answers under way would be taken for those of the next run.
        _kill_all(self._running, os.getpid())
        raise
      failures = [item for item in outcomes if isinstance(item, Failure)]
      self.counts = {
        'calls': sum(outcome is not None for outcome in outcomes),
        'failures': len(failures),
        'timeouts': sum(failure.timed_out for failure in failures),
      }
      return outcomes

  def close(self) -> None:
    """Kills all workers; a later `run` starts new ones."""
    with self._lock:
      _kill_all(self._running, os.getpid())

  def _run(
    self,
    calls: Sequence[tuple[str, Mapping[str, Any]]],
    stop: bool,
    stop_at_timeout: bool,
  ) -> list[float | Failure | None]:
    outcomes: list[float | Failure | None] = [None] * len(calls)
    self.seconds = [0.0] * len(calls)
    todo = collections.deque(range(len(calls)))
    while todo or any(worker.call is not None for worker in self._running):
      self._fill_up(len(todo))
      for worker in self._running:
        if todo and worker.idle and worker.assign(todo[0], calls[todo[0]]):
          todo.popleft()
      spoken = self._wait()
      for worker in tuple(self._running):
        index, outcome = worker.call, self._outcome(worker, spoken)
        if index is None or outcome is None:
          continue
        outcomes[index] = outcome
        self.seconds[index] = worker.seconds
        failed = isinstance(outcome, Failure)
        if stop and failed and (stop_at_timeout or not outcome.timed_out):
          todo.clear()
    return outcomes

  def _fill_up(self, calls: int) -> None:
    free = sum(worker.call is None for worker in self._running)
    wanted = min(calls - free, self.workers - len(self._running))
    for _ in range(wanted):
      self._running.append(
        _Worker(self._pickled, self.memory_bytes, self.timeout_seconds)
      )

  def _wait(self) -> list[Any]:
    """Connections that have something, an end included, before a deadline."""
    deadlines = [worker.deadline for worker in self._running]
    left = min(deadlines, default=math.inf) - time.monotonic()
    return connection.wait(
      [worker.connection for worker in self._running],
      None if left == math.inf else max(left, 0.0),
    )

  def _outcome(
    self, worker: _Worker, spoken: list[Any]
  ) -> float | Failure | None:
    """What a worker has to say by now; one that ended is discarded."""
    if worker.connection in spoken:
      try:
        kind, content = worker.receive()
      except (EOFError, OSError):
        return self._ended(worker)
      if kind == 'unusable':
        raise RuntimeError(
          f'Verifier {self._name!r} cannot be loaded in a worker process: '
          f'{content}. Define it at the top level of an importable module.'
        )
      if kind == 'unprepared':
        raise RuntimeError(
          f'Verifier {self._name!r} cannot be prepared in a worker process: '
          f'{content}'
        )
      if kind == 'failure':
        return Failure(reason=content)
      return content if kind == 'value' else None
    if time.monotonic() < worker.deadline:
      return None
    self._discard(worker)
    worker.seconds = self.timeout_seconds
    if worker.call is None:
      raise RuntimeError(
        f'A worker for verifier {self._name!r} was not ready after '
        f'{_START_SECONDS:g} s; make the import of its module faster.'
      )
    return Failure(
      reason=f'took longer than {self.timeout_seconds:g} s and was killed',
      timed_out=True,
    )

  def _ended(self, worker: _Worker) -> Failure | None:
    status = self._discard(worker)
    if not worker.ready:
      raise RuntimeError(
        f'A worker for verifier {self._name!r} ended while starting (exit '
        f'status {status}); see its message on standard error.'
      )
    if worker.call is None:
      return None
    return Failure(reason=f'ended its process with exit status {status}')

  def _discard(self, worker: _Worker) -> int:
    self._running.remove(worker)
    return worker.kill()


class _Worker:
  """One child process and what it is doing."""

  def __init__(
    self, pickled: bytes, memory_bytes: int | None, timeout_seconds: float
  ) -> None:
    self.timeout_seconds = timeout_seconds
    self.call: int | None = None
    self.ready = False
    self.seconds = 0.0
    self.deadline = time.monotonic() + _START_SECONDS
    self.connection, child_end = multiprocessing.Pipe()
    descriptor = child_end.fileno()
    with child_end:
      self.process = subprocess.Popen(
        [sys.executable, '-P', worker_script.__file__, str(descriptor)],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        # Sets of strings iterate alike in all workers, and a verifier that
        # imports JAX does not take the accelerator.
        env={**os.environ, 'PYTHONHASHSEED': '0', 'JAX_PLATFORMS': 'cpu'},
        # Its own process group: killed with its children, spared by Ctrl-C.
        start_new_session=True,
      )
    with contextlib.suppress(OSError):  # Seen again, as the end of the stream.
      self.connection.send(
        {
          'parent': os.getpid(),
          'path': [os.path.abspath(entry) for entry in sys.path],
          'memory_bytes': memory_bytes,
          'verifier': pickled,
        }
      )

  @property
  def idle(self) -> bool:
    return self.ready and self.call is None

  def assign(self, index: int, call: tuple[str, Mapping[str, Any]]) -> bool:
    """Whether the call was sent; a worker that died while idle takes none."""
    attempt, reference = call
    try:
      self.connection.send((attempt, dict(reference)))
    except OSError:
      return False
    self.call = index
    self.deadline = time.monotonic() + self.timeout_seconds
    return True

  def receive(self) -> tuple[str, Any]:
    *message, self.seconds = self.connection.recv()
    self.ready = True
    self.call = None
    self.deadline = math.inf
    return message[0], message[1]

  def kill(self) -> int:
    """Kills the process and its children; returns its exit status."""
    # Not polled before: until it is waited for, its number names no other.
    if self.process.returncode is None:
      with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(self.process.pid, signal.SIGKILL)
    self.connection.close()
    return self.process.wait()


def verifier_name(verifier: Verifier) -> str:
  """The name of a verifier in messages: of the function, or of its class."""
  named = getattr(verifier, 'func', verifier)  # What a partial calls.
  return getattr(named, '__qualname__', None) or type(named).__qualname__


def importable(verifier: Verifier) -> Verifier:
  """The layer of a verifier that can be sent to a worker.

  Configuration libraries and type checkers put wrappers around functions; one
  of the layers is what importing the module gives.

  Args:
    verifier: perhaps wrapped.

  Returns:
    The outermost layer that can be pickled.

  Raises:
    ValueError: there is none.
  """
  candidate: Any = verifier
  while candidate is not None:
    if getattr(candidate, '__module__', None) == '__main__':
      break
    with contextlib.suppress(pickle.PicklingError, AttributeError, TypeError):
      pickle.dumps(candidate)
      return candidate
    candidate = getattr(candidate, '__wrapped__', None)
  raise ValueError(
    f'Verifier {verifier_name(verifier)!r} cannot be sent to a worker '
    'process; define it at the top level of an importable module.'
  )


def _kill_all(workers: list[_Worker], owner: int) -> None:
  # A forked copy of the parent must not kill the workers of the original.
  if os.getpid() == owner:
    while workers:
      workers.pop().kill()
