"""The child side of `pool`: calls one verifier, again and again.

Run as a script with the number of an inherited socket. It is a plain script
and not a `multiprocessing` child because those import the parent's `__main__`
anew, which for a training command means JAX and TensorFlow. It imports the
standard library only, and then what the verifier itself needs.
"""

from __future__ import annotations

import ctypes
import math
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_PR_SET_PDEATHSIG = 1


def serve(connection: Connection) -> None:
  """Answers calls until the parent closes the connection.

  Args:
    connection: brings first the settings (`parent`, `path`, `memory_bytes`,
      `verifier`), then pairs (attempt, reference); takes `('ready', '', 0.0)`
      or, of kind `unusable` or `unprepared`, `(kind, why, 0.0)`, then one
      answer of `answer` per pair with the seconds that it took.
  """
  try:
    verifier = _set_up(connection.recv())
  except Exception as error:  # The parent says which verifier it was.
    connection.send(('unusable', describe(error), 0.0))
    return
  try:
    # What is slow to import is not to be on the time of the first call.
    getattr(verifier, 'prepare', lambda: None)()
  except Exception as error:
    connection.send(('unprepared', describe(error), 0.0))
    return
  connection.send(('ready', '', 0.0))
  while True:
    try:
      attempt, reference = connection.recv()
    except EOFError:
      return
    began = time.perf_counter()
    kind, content = answer(verifier, attempt, reference)
    connection.send((kind, content, time.perf_counter() - began))


def answer(
  verifier: Callable[..., Any], attempt: str, reference: dict[str, Any]
) -> tuple[str, Any]:
  """What the parent is told about one call.

  Args:
    verifier: function of attempt and reference.
    attempt: what the model wrote.
    reference: data row.

  Returns:
    `('value', float)`, or `('failure', why)` where the verifier raised or
    returned something else than a finite number.
  """
  try:
    value = verifier(attempt, reference)
    number = float(value) if hasattr(value, '__float__') else math.nan
  except BaseException as error:  # sys.exit() in a verifier ends no worker.
    return 'failure', f'raised {describe(error)}'
  if not math.isfinite(number):
    return 'failure', f'returned {value!r:.200}, which is not a finite number'
  return 'value', number


def describe(error: BaseException) -> str:
  """Type and message of an error, in at most 500 characters."""
  return f'{type(error).__name__}: {error}'[:500]


def _set_up(settings: dict[str, Any]) -> Callable[..., Any]:
  _die_with(settings['parent'])
  _limit_memory(settings['memory_bytes'])
  sys.path[:] = settings['path']
  return pickle.loads(settings['verifier'])


def _die_with(parent: int) -> None:
  # A verifier in an endless loop never sees that the connection was closed.
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
      sys.exit(1)


def _limit_memory(memory_bytes: int | None) -> None:
  if memory_bytes is not None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


if __name__ == '__main__':
  _descriptor = int(sys.argv[1])
  os.set_inheritable(_descriptor, False)
  serve(Connection(_descriptor))
