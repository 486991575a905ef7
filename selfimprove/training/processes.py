"""One run in many processes: how they meet, and how they end together."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax

HEARTBEAT_SECONDS = 30
"""A process that was not heard of for so long counts as dead."""

SHUTDOWN_SECONDS = 20
"""A process that is done waits so long for the others, then ends them."""

_LOST = re.compile(
  'gloo|connection|socket|heartbeat|unavailable|coordination|nccl', re.I
)
_AGAIN = (
  'the same command on all hosts, or on another number of them, goes on from '
  'the newest checkpoint'
)


class JoinError(OSError):
  """A process cannot join the others."""


class Place(NamedTuple):
  """Where a process stands among those of its run.

  Attributes:
    address: 'host:port' at which process 0 is met.
    process_id: from 0.
    processes: of the run.
  """

  address: str
  process_id: int
  processes: int


def parse(text: str) -> Place | None:
  """What a flag says of the processes of a run.

  Args:
    text: `HOST:PORT,process_id,num_processes`, or `auto` for a cluster that
      tells by itself.

  Returns:
    The place of this process; None for `auto`.

  Raises:
    JoinError: it is neither, or the numbers do not fit.

  >>> parse('10.0.0.1:1234,1,2')
  Place(address='10.0.0.1:1234', process_id=1, processes=2)
  """
  if text == 'auto':
    return None
  found = re.fullmatch(r'([^,\s]+:\d+),(\d+),(\d+)', text.strip())
  if found is None:
    raise JoinError(
      f'--distributed={text!r} is neither `auto` nor '
      'HOST:PORT,process_id,num_processes, such as 10.0.0.1:1234,0,2.'
    )
  place = Place(found[1], int(found[2]), int(found[3]))
  if place.process_id >= place.processes:
    raise JoinError(
      f'--distributed={text!r}: process {place.process_id} of '
      f'{place.processes} does not exist; ids go from 0 to '
      f'{place.processes - 1}.'
    )
  return place


@contextlib.contextmanager
def joined(text: str, *, timeout_seconds: int = 300) -> Iterator[None]:
  """Makes this process one of a run while the block runs.

  Must come before anything asks JAX for devices. Whatever ends the process
  without an exception (JAX itself does, when another process of the run has
  died) leaves a sentence on standard error.

  Args:
    text: as for `parse`; empty for a run of one process.
    timeout_seconds: within which all processes must have come, at least 1.

  Yields:
    Nothing.

  Raises:
    JoinError: the others cannot be joined.
  """
  if not text:
    yield
    return
  place = parse(text)
  who = 'This process'
  if place is not None:
    who = f'Process {place.process_id} of {place.processes}'
    _await_coordinator(place, timeout_seconds)
  # It would swallow SIGTERM, which `signals` hears and all agree on.
  jax.config.update('jax_enable_preemption_service', False)
  words = _LastWords()
  words.set(_not_joined(who, place, timeout_seconds))
  try:
    _initialize(place, timeout_seconds)
    words.set(
      f'Error: {who} was ended from outside, or because another process of the '
      f'run had died: see the last lines of the others; {_AGAIN}.'
    )
    yield
  finally:
    words.forget()


def _initialize(place: Place | None, timeout_seconds: int) -> None:
  try:
    jax.distributed.initialize(
      coordinator_address=place.address if place else None,
      process_id=place.process_id if place else None,
      num_processes=place.processes if place else None,
      initialization_timeout=timeout_seconds,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
  except (ValueError, RuntimeError) as error:
    if place is not None:
      raise JoinError(f'--distributed: {error}') from error
    raise JoinError(
      'Nothing here tells which processes a run has, as a TPU slice, SLURM or '
      'Open MPI would; give --distributed=HOST:PORT,process_id,num_processes '
      f'({error})'
    ) from error
  if place is not None and jax.process_count() != place.processes:
    raise JoinError(
      f'Process {place.process_id} was told of {place.processes} processes and '
      f'process 0 of {jax.process_count()}; give all the same number.'
    )
  _check_devices()


def _check_devices() -> None:
  """Refuses processes with different numbers of devices; no mesh has them."""
  held = collections.Counter(device.process_index for device in jax.devices())
  if len(set(held.values())) > 1:
    shown = ', '.join(f'process {i}: {n}' for i, n in sorted(held.items()))
    raise JoinError(
      f'The processes have different numbers of devices ({shown}); start each '
      'of them on as many.'
    )


def _not_joined(who: str, place: Place | None, timeout_seconds: int) -> str:
  at = '' if place is None else f' at {place.address}'
  return (
    f'Error: {who} could not join the others{at} within {timeout_seconds} s; '
    'start all of them, with the same address and number of processes and each '
    'with an id of its own, and see that the port is free and open.'
  )


def _await_coordinator(place: Place, timeout_seconds: int) -> None:
  """Waits until process 0 listens: JAX would end the process by an abort."""
  if place.process_id == 0:
    return
  host, port = place.address.rsplit(':', 1)
  until = time.monotonic() + timeout_seconds
  while True:
    try:
      socket.create_connection((host.strip('[]'), int(port)), 2.0).close()
      return
    except (OSError, OverflowError) as error:
      may_come = isinstance(error, ConnectionError | TimeoutError)
      if not may_come or time.monotonic() > until:
        raise JoinError(
          f'Process {place.process_id} cannot reach process 0 at '
          f'{place.address} ({error}); start that one as well, and see that '
          'the address is its own and the port open.'
        ) from error
    time.sleep(0.2)


@contextlib.contextmanager
def bound() -> Iterator[None]:
  """Ends the process at once where the block meets the death of another one.

  An orderly end is not possible: it would wait for the dead.

  Yields:
    Nothing.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() == 1 or not _LOST.search(str(error)):
      raise
    sys.stderr.write(
      f'Error: process {jax.process_index()} of {jax.process_count()} has lost '
      f'another process of the run: {_AGAIN} ({str(error).splitlines()[0]})\n'
    )
    sys.stderr.flush()
    os._exit(1)


class _LastWords:
  """A sentence that a shell says when this process ends without a goodbye."""

  def __init__(self) -> None:
    script = (
      "trap '' INT TERM HUP; while IFS= read -r line; do last=$line; done; "
      'if [ -n "$last" ]; then printf "%s\\n" "$last" >&2; fi'
    )
    self._shell = subprocess.Popen(
      ['sh', '-c', script], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )

  def set(self, sentence: str) -> None:
    """Chooses the sentence, one line."""
    pipe = self._shell.stdin
    if pipe is not None and self._shell.poll() is None:
      pipe.write(f'{sentence}\n'.encode())
      pipe.flush()

  def forget(self) -> None:
    """Says goodbye."""
    self.set('')
    self._shell.communicate()
