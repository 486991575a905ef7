"""seqio and TensorFlow, imported quietly and kept off the accelerators.

Every module of this room takes both from here: what TensorFlow would claim, it
claims at the first use, and the accelerators belong to JAX.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Generator

# What a healthy import prints: information lines (in both formats that
# TensorFlow has used), the note of the logging library that it was not set up,
# and the search for a GPU driver on a machine that has none.
_CHATTER = re.compile(
  rb'I\d{4} |\d{4}-\d\d-\d\d [\d:.]+: I '
  rb'|WARNING: All log messages before absl::InitializeLog'
  rb'|.*failed call to cuInit|.*Unable to register cu\w+ factory'
)


@contextlib.contextmanager
def without_chatter() -> Generator[None]:
  """A block whose C++ log lines reach stderr only if they say something.

  TensorFlow writes to file descriptor 2 while its libraries are loaded, before
  it has read any setting (tensorflow/tensorflow#100442). What the block wrote
  is shown when it ends, also by an exception, less the lines that a healthy
  import prints. `TF_CPP_MIN_LOG_LEVEL=0` in the environment shows everything.

  Yields:
    Nothing.
  """
  if os.environ.get('TF_CPP_MIN_LOG_LEVEL') == '0':
    yield
    return
  if sys.stderr is not None:
    sys.stderr.flush()
  with tempfile.TemporaryFile() as log:
    stderr = os.dup(2)
    os.dup2(log.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)
      log.seek(0)
      with open(2, 'wb', closefd=False) as shown:
        shown.writelines(line for line in log if not _CHATTER.match(line))


def keep_on_host() -> None:
  """Hides GPUs and TPUs from TensorFlow, which then only reads data.

  Raises:
    RuntimeError: TensorFlow was already running on an accelerator.
  """
  for kind in ('GPU', 'TPU'):
    try:
      tf.config.set_visible_devices([], kind)
    except RuntimeError as error:
      raise RuntimeError(
        f'TensorFlow was started with a {kind} before selfimprove.data was '
        'imported and would hold memory that JAX needs; call '
        f"tf.config.set_visible_devices([], '{kind}') first."
      ) from error
  tf.constant(0)  # Starts the runtime here, with what it has to say.


with without_chatter():
  import seqio
  import tensorflow as tf

  keep_on_host()

__all__ = ['keep_on_host', 'seqio', 'tf', 'without_chatter']
