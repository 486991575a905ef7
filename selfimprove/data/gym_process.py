"""The process beside the run that writes problems of reasoning-gym."""

from __future__ import annotations

import ast
import collections
import contextlib
import importlib.util
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import tqdm

from selfimprove.data import gym_child

_Item = TypeVar('_Item')

# Seconds that the child has besides those for a problem, on a busy machine:
# for the next answer, and for imports before it.
_SLACK = 30.0
_START = 180.0


class _SilentError(Exception):
  """The child has said nothing for longer than it may."""


def ask(
  requests: Sequence[Mapping[str, Any]],
) -> Generator[tuple[Any, ...], None, None]:
  """What `gym_child` says, in its order.

  A child that is silent for too long is ended: its own clock does not interrupt
  compiled code. Another one goes on behind the problem, which is a bad one.

  Args:
    requests: see `gym_child`; plain Python values.

  Yields:
    Tuples of plain values.

  Raises:
    RuntimeError: the process ended before it was done.
  """
  left = [{'first': 0, **request} for request in requests]
  while left:
    # Only a child after the first is asked for less than all of a request.
    told = left[0]['first'] > 0
    with _Child(left) as child:
      try:
        while left:
          request, seconds = left[0], left[0]['seconds']
          head = child.answer(seconds + _START)
          if not told:
            yield head
          told = head[0] == 'parameters'
          while told and request['first'] < request['count']:
            answer = child.answer(seconds + _SLACK)
            request['first'] += 1
            yield answer
          left.pop(0)
          told = False
        return
      except _SilentError:
        child.end()
    why = f'took longer than {left[0]["seconds"]:g} s and had to be ended'
    yield ('bad', 'too slow', why) if told else ('error', why)
    left[0]['first'] += 1
    if not told or left[0]['first'] >= left[0]['count']:
      left.pop(0)


class _Child:
  """The process, whose answers are waited for with a deadline.

  Args:
    requests: all that is asked of it.
  """

  def __init__(self, requests: Sequence[Mapping[str, Any]]) -> None:
    self._process = subprocess.Popen(
      [sys.executable, '-P', gym_child.__file__],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      # Some generators iterate over sets of strings.
      env={**os.environ, 'PYTHONHASHSEED': '0', 'PYTHONIOENCODING': 'utf-8'},
    )
    assert self._process.stdin is not None
    assert self._process.stdout is not None
    # One that has ended already says so when it is asked for an answer.
    with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
      pipe.write(repr(list(requests)).encode())
    self._pipe = self._process.stdout
    self._ready = selectors.DefaultSelector()
    self._ready.register(self._pipe, selectors.EVENT_READ)
    self._lines = collections.deque[bytes]()
    self._begun = b''

  def answer(self, seconds: float) -> tuple[Any, ...]:
    """The next one; raises `_SilentError` if it does not come in time."""
    end = time.monotonic() + seconds
    while not self._lines:
      if not self._ready.select(max(end - time.monotonic(), 0)):
        raise _SilentError
      chunk = os.read(self._pipe.fileno(), 2**16)
      if not chunk:
        raise RuntimeError(
          'The process that writes problems of reasoning-gym ended with status '
          f'{self._process.wait()} before it was done; see its message on '
          'standard error.'
        )
      *whole, self._begun = (self._begun + chunk).split(b'\n')
      self._lines.extend(whole)
    return ast.literal_eval(self._lines.popleft().decode())

  def end(self) -> None:
    """Ends the process, whatever it is doing."""
    self._process.kill()
    self._process.wait()

  def __enter__(self) -> _Child:
    return self

  def __exit__(self, *error: object) -> None:
    self.end()
    self._ready.close()
    self._pipe.close()


def shown(items: Iterable[_Item], *, total: int) -> Iterator[_Item]:
  """The same items, with a progress bar if they take long.

  Args:
    items: any.
    total: how many there are.

  Returns:
    An iterator over them.
  """
  bar = tqdm.tqdm(
    items,
    desc='reasoning-gym',
    unit=' problems',
    total=total,
    delay=5,
    # Where it cannot be overwritten, a few lines are enough.
    mininterval=0.2 if sys.stderr.isatty() else 60,
    leave=False,
  )
  return iter(bar)


def check_installed() -> None:
  """Refuses to go on without the package.

  Raises:
    ImportError: reasoning-gym is not installed.
  """
  if importlib.util.find_spec('reasoning_gym') is None:
    raise ImportError(
      'Problems of reasoning-gym need that package; install it with: pip '
      "install 'selfimprove[reasoning]'"
    )
