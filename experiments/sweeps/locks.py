"""One process at a time, where a second one can wait for the first.

Nothing of JAX is touched: who starts runs must not hold their accelerator.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator

from selfimprove.configuration import ConfigError


@contextlib.contextmanager
def alone(path: str, *, refusal: str, patience: float = 0.0) -> Iterator[None]:
  """Keeps other processes out while the block runs.

  The system lets go of the lock when the process ends, however it ends.

  Args:
    path: of the lock; its folder is made where it is missing.
    refusal: the sentence for who comes second.
    patience: seconds that the second waits for the first, >= 0.

  Yields:
    Nothing.

  Raises:
    ConfigError: another process holds the lock, and has not let go of it.
  """
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  with open(path, 'a', encoding='utf-8') as file:
    end = time.monotonic() + patience
    told = False
    while not _locked(file.fileno()):
      if time.monotonic() >= end:
        raise ConfigError(refusal)
      if not told:
        print(f'Waiting for up to {patience:.0f} s: {refusal}', file=sys.stderr)
        told = True
      time.sleep(0.2)
    yield


def _locked(number: int) -> bool:
  try:
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True
