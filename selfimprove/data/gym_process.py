"""The process beside the run that writes problems of reasoning-gym."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import tqdm

from selfimprove.data import gym_child

_Item = TypeVar('_Item')


def ask(
  requests: Sequence[Mapping[str, Any]],
) -> Generator[tuple[Any, ...], None, None]:
  """What `gym_child` says, in its order.

  Args:
    requests: see `gym_child`; plain Python values.

  Yields:
    Tuples of plain values.

  Raises:
    RuntimeError: the process ended, and more was asked of it.
  """
  process = subprocess.Popen(
    [sys.executable, '-P', gym_child.__file__],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    # Some generators iterate over sets of strings.
    env={**os.environ, 'PYTHONHASHSEED': '0', 'PYTHONIOENCODING': 'utf-8'},
    encoding='utf-8',
  )
  assert process.stdin is not None
  assert process.stdout is not None
  with process:
    try:
      with process.stdin as pipe:
        pipe.write(repr(list(requests)))
      for line in process.stdout:
        yield ast.literal_eval(line)
    finally:
      process.kill()
  raise RuntimeError(
    f'The process that writes problems of reasoning-gym ended with status '
    f'{process.returncode} before it was done; see its message on standard '
    'error.'
  )


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
