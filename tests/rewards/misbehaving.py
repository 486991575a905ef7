"""Verifiers that do what verifiers should not; importable by workers."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import signal
import subprocess
import sys
import time


def length(attempt, reference):
  return float(len(attempt))


@dataclasses.dataclass
class Prepared:
  """Says how often it was prepared, which takes some seconds."""

  seconds: float
  times: int = 0

  def prepare(self):
    time.sleep(self.seconds)
    self.times += 1

  def __call__(self, attempt, reference):
    return float(self.times)


def slow_then_length(attempt, reference):
  time.sleep(0.02 if len(attempt) % 2 else 0.0)
  return float(len(attempt))


def act(attempt, reference):
  """Does what the attempt names; the pool meets them all in one verifier."""
  return _ACTIONS[attempt](reference)


def own_process(attempt, reference):
  return float(os.getpid())


def hash_of_text(attempt, reference):
  time.sleep(0.05)  # So that the other worker takes the next call.
  return float(hash(attempt))


def knows_module(attempt, reference):
  return attempt in sys.modules


def logged(function):
  @functools.wraps(function)
  def inner(*args, **kwargs):
    return function(*args, **kwargs)

  return inner


def _loop(reference):
  while True:
    pass


def _ignore_sigterm(reference):
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  _loop(reference)


def _backtrack(reference):
  # One call into C that holds the interpreter lock for years.
  return re.match('(a|a)*$', 'a' * 64 + 'b') is None


def _leave_a_child(reference):
  child = subprocess.Popen(['sleep', '600'])
  with open(reference['pid_file'], 'w') as file:
    file.write(str(child.pid))
  _loop(reference)


def _raise(reference):
  raise KeyError('no such field')


def _allocate(reference):
  return float(len(bytearray(2 << 30)))


_ACTIONS = {
  'right': lambda reference: 1.0,
  'loop': _loop,
  'ignore sigterm': _ignore_sigterm,
  'backtrack': _backtrack,
  'leave a child': _leave_a_child,
  'os._exit': lambda reference: os._exit(3),
  'sys.exit': lambda reference: sys.exit('bye'),
  'raise': _raise,
  'raise late': lambda reference: (time.sleep(0.3), _raise(reference)),
  'nan': lambda reference: float('nan'),
  'inf': lambda reference: float('inf'),
  'text': lambda reference: 'yes',
  'none': lambda reference: None,
  'print': lambda reference: print('noise') or 1.0,
  'allocate': _allocate,
}
