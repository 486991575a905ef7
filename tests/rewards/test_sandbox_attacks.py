"""None of the hostile programs is rewarded, harms the host or stays."""

from __future__ import annotations

import os
import pathlib
import secrets
import tempfile
import time

import pytest

from selfimprove.rewards import sandbox
from selfimprove.rewards.code import PassesTests
from selfimprove.rewards.sandbox_limits import Limits
from tests.rewards import hostile

_TIGHT = Limits(
  wall_seconds=1.0,
  cpu_seconds=1,
  memory_bytes=128 << 20,
  scratch_bytes=8 << 20,
  file_bytes=2 << 20,
)
_PATIENT = Limits(wall_seconds=3.0, cpu_seconds=2, memory_bytes=96 << 20)
# A wrong verdict would be seen whatever shape of test it got through.
_SQUARES = {
  'test_list': [
    'assert f(3) == 9',
    'assert all(map(lambda x: f(x) == x * x, range(2, 9)))',
    'assert [f(x) for x in (5, 6)] == [25, 36]',
    'assert abs(f(1.5) - 2.25) < 1e-9',
    'assert f(7) in (49, 50)',
    'assert not f(4) != 16',
  ],
  'code': 'def f(x): return x * x',
}


def _level_or_skip(level):
  why = sandbox.weakness(level)
  if why is not None:
    pytest.skip(f'{level} cannot be had here: {why}')


@pytest.fixture(scope='module')
def verifiers():
  """One verifier for each level and limits, and nothing left at the end."""
  made = {}

  def verifier(level, limits):
    _level_or_skip(level)
    if (level, limits) not in made:
      made[level, limits] = PassesTests(
        isolation=level, limits=limits, score='fraction'
      )
    return made[level, limits]

  yield verifier
  for item in made.values():
    item.close()
  assert _scratch_folders() == []


def _scratch_folders():
  """Those of this process: tests run side by side."""
  found = pathlib.Path(tempfile.gettempdir()).glob('selfimprove-sandbox-*')
  return [path for path in found if path.name.split('-')[2] == str(os.getpid())]


def _left_running(verifier):
  """Processes that the launcher started and that still are."""
  launcher = verifier._sandbox._launcher
  if launcher is None:
    return []
  own = str(launcher._process.pid)
  for _ in range(100):  # The last one closes its descriptors, and then ends.
    left = [pid for pid, parent in _parents() if parent == own]
    if not left:
      break
    time.sleep(0.02)
  return left


def _parents():
  for folder in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      rest = (folder / 'stat').read_text().rpartition(')')[2].split()
    except OSError:
      continue
    if rest[0] not in 'ZX':
      yield folder.name, rest[1]


def _named(name):
  found = []
  for folder in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      if (folder / 'comm').read_text().strip() == name:
        found.append(folder.name)
    except OSError:
      continue
  return found


# Seconds until a limit stops them.
_LARGE = {'recurses', 'eats memory', 'gives a deep list'}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] if name in _LARGE else [])
    for name in hostile.UNEARNED
  ],
)
def test_nothing_is_won_by(name, verifiers):
  verifier = verifiers('namespaces', _PATIENT)
  began = time.monotonic()
  assert verifier(hostile.UNEARNED[name], _SQUARES) == 0.0
  assert time.monotonic() - began < 15
  assert _left_running(verifier) == []


def test_the_tests_of_these_programs_can_be_passed(verifiers):
  verifier = verifiers('namespaces', _PATIENT)
  assert verifier('def f(x): return x * x', _SQUARES) == 1.0


def _is_root_in_a_box():
  """Root that may not change the user, as in some containers."""
  _level_or_skip('namespaces')
  user = sandbox._inspected('namespaces')['user']
  return os.geteuid() == 0 and user == 65534


@pytest.mark.parametrize('name', hostile.ESCAPES)
def test_nothing_is_reached_by_one_that(name, verifiers, tmp_path):
  canary = tmp_path / 'canary'
  canary.write_text('from the host')
  if 'threads' in name and _is_root_in_a_box():
    pytest.skip('the kernel does not count the threads of root')
  program = f'CANARY = {str(canary)!r}\n{hostile.ESCAPES[name]}'
  limits = Limits(
    wall_seconds=10.0,
    memory_bytes=256 << 20,
    scratch_bytes=8 << 20,
    file_bytes=2 << 20,
  )
  verifier = verifiers('namespaces', limits)
  report = verifier.report(
    program,
    {'test_list': ['found = f(0)\nassert found == [], found'], 'code': 'f = 0'},
  )
  assert report.passed == 1, report
  assert _left_running(verifier) == []


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[] if number < 2 else pytest.mark.slow)
    for number, name in enumerate(hostile.SLOW)
  ],
)
def test_time_ends_one_that(name, verifiers):
  verifier = verifiers('namespaces', _TIGHT)
  began = time.monotonic()
  assert verifier(hostile.SLOW[name], _SQUARES) == 0.0
  assert time.monotonic() - began < _TIGHT.wall_seconds + 3
  assert _left_running(verifier) == []


def test_a_fork_bomb_is_bounded_and_gone(verifiers):
  limits = Limits(
    wall_seconds=1.0, cpu_seconds=1, memory_bytes=128 << 20, processes=4
  )
  verifier = verifiers('namespaces', limits)
  began = time.monotonic()
  assert verifier(hostile.FORK_BOMB, _SQUARES) == 0.0
  assert time.monotonic() - began < 6
  assert _left_running(verifier) == []


def test_no_daemon_outlives_its_box(verifiers):
  verifier = verifiers('namespaces', Limits(processes=8))
  name = f'd-{secrets.token_hex(5)}'
  row = {'test_list': [f'assert f({name!r}) == "done"'], 'code': 'f = 0'}
  assert verifier(hostile.DAEMONS, row) == 1.0, 'they were not started'
  assert _named(name) == []


@pytest.mark.slow
@pytest.mark.parametrize('name', [*hostile.UNEARNED, *hostile.SLOW])
@pytest.mark.parametrize('level', ['bubblewrap', 'limits'])
def test_nothing_is_won_at_another_level_by(name, level, verifiers):
  verifier = verifiers(level, _TIGHT)
  program = {**hostile.UNEARNED, **hostile.SLOW}[name]
  began = time.monotonic()
  assert verifier(program, _SQUARES) == 0.0
  assert time.monotonic() - began < _TIGHT.wall_seconds + 4
  assert _left_running(verifier) == []


# Not promised: by `limits` to hide files or to bound the scratch folder, by
# bubblewrap to bound the number of its files; threads where the user is shared.
_NOT_PROMISED = {
  'limits': {
    'reads files of the host',
    'leaves by links',
    'writes elsewhere',
    'fills its disk',
    'starts threads without end',
  },
  'bubblewrap': {'fills its disk', 'starts threads without end'},
}


@pytest.mark.slow
@pytest.mark.parametrize('name', hostile.ESCAPES)
@pytest.mark.parametrize('level', ['bubblewrap', 'limits'])
def test_nothing_is_reached_at_another_level_by(
  name, level, verifiers, tmp_path
):
  if name in _NOT_PROMISED[level]:
    pytest.skip('not promised')
  test_nothing_is_reached_by_one_that(
    name, lambda _, limits: verifiers(level, limits), tmp_path
  )
