"""One run at a time in a workdir."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

import jax

LOCK_FILE = 'running.lock'


class InUseError(OSError):
  """Another process trains in the workdir."""


@contextlib.contextmanager
def exclusive(workdir: str | os.PathLike[str]) -> Iterator[None]:
  """Keeps other runs out of a workdir while the block runs.

  The system lets go of the lock when the process ends, however it ends. Of a
  run with several processes the first one holds it, as it alone writes.

  Args:
    workdir: folder of the run; made if it is not there.

  Yields:
    Nothing.

  Raises:
    InUseError: another run holds the lock.
  """
  if jax.process_index() != 0:
    yield
    return
  os.makedirs(workdir, exist_ok=True)
  path = os.path.join(workdir, LOCK_FILE)
  with open(path, 'a', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise InUseError(
        f'Another process is training in {os.fspath(workdir)}; wait for its '
        'end, stop it, or use another --workdir.'
      ) from error
    yield
