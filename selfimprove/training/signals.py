"""A polite end: finish the step, write a checkpoint, then leave."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Iterator


@dataclasses.dataclass
class StopRequest:
  """Whether somebody asked the run to stop.

  Attributes:
    requested: True from the first signal on.
    reason: name of that signal, as 'SIGTERM'.
  """

  requested: bool = False
  reason: str = ''


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """A request that SIGTERM, or a first SIGINT (Ctrl-C), turns on.

  A second SIGINT raises KeyboardInterrupt, for who will not wait. The handlers
  that were there before come back at the end. Python delivers signals to the
  main thread only: in another one this warns and does nothing.

  Yields:
    The request, to be looked at between steps.
  """
  request = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    warnings.warn(
      'Signals reach the main thread only, and this is another one: SIGTERM '
      'will end the run without a checkpoint.',
      RuntimeWarning,
      stacklevel=3,
    )
    yield request
    return

  def note(number: int, frame: types.FrameType | None) -> None:
    del frame
    name = signal.Signals(number).name
    if name == 'SIGINT' and name in seen:
      raise KeyboardInterrupt
    seen.append(name)
    request.requested, request.reason = True, seen[0]
    if len(seen) == 1:
      # Not `print`: a signal may come while the stream is being written to.
      again = '; Ctrl-C again to leave now, without' if name == 'SIGINT' else ''
      text = f'\n{name}: stopping after this step, with a checkpoint{again}.\n'
      os.write(sys.stderr.fileno(), text.encode())

  seen: list[str] = []
  caught = (signal.SIGTERM, signal.SIGINT)
  before = {number: signal.signal(number, note) for number in caught}
  try:
    yield request
  finally:
    for number, handler in before.items():
      # None: it was installed outside Python and cannot be put back.
      signal.signal(number, handler or signal.SIG_DFL)
