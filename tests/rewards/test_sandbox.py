from __future__ import annotations

import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import pytest

from selfimprove.rewards import sandbox
from selfimprove.rewards import sandbox_wire as wire
from selfimprove.rewards.code import PassesTests
from selfimprove.rewards.pool import Failure, VerifierPool
from selfimprove.rewards.sandbox import IsolationError, Sandbox
from selfimprove.rewards.sandbox_limits import Limits

_ROOT = pathlib.Path(__file__).parents[2]
_ROW = {'test_list': ['assert f("{}") == 1'], 'code': 'f = 0'}
_SLEEP = """
import time
def f(_):
    time.sleep(600)
"""


@pytest.fixture
def boxes():
  if sandbox.weakness('namespaces') is not None:
    pytest.skip(f'no sandbox here: {sandbox.weakness("namespaces")}')
  made = Sandbox(limits=Limits(wall_seconds=20.0))
  yield made
  made.close()


def _descendants(pid):
  """Processes below one, whatever session or namespace they are in."""
  parents = {}
  for folder in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      rest = (folder / 'stat').read_text().rpartition(')')[2].split()
    except OSError:
      continue
    if rest[0] not in 'ZX':
      parents[int(folder.name)] = int(rest[1])
  found, size = {pid}, 0
  while len(found) != size:
    size = len(found)
    found |= {child for child, parent in parents.items() if parent in found}
  return found - {pid}


def _gone(pids):
  for _ in range(100):
    if not any(pathlib.Path(f'/proc/{pid}').exists() for pid in pids):
      return True
    time.sleep(0.05)
  return False


def test_namespaces_hold_where_the_machine_has_them():
  """So that a broken sandbox is not taken for a machine without one."""
  try:
    tried = subprocess.run(
      [
        *('unshare', '--user', '--map-root-user', '--mount', '--pid', '--net'),
        *('--ipc', '--uts', '--fork', 'true'),
      ],
      capture_output=True,
    )
  except FileNotFoundError:
    pytest.skip('there is no command to ask')
  if tried.returncode:
    pytest.skip(f'no namespaces here: {tried.stderr.decode()}')
  assert sandbox.weakness('namespaces') is None


def test_a_weaker_isolation_than_asked_is_refused(monkeypatch):
  monkeypatch.setattr(sandbox, 'weakness', lambda level: f'no {level} here')
  message = "no namespaces here.*no bubblewrap here.*isolation='limits'"
  with pytest.raises(IsolationError, match=message):
    Sandbox().start('calls')
  with pytest.raises(IsolationError, match='no bubblewrap here'):
    Sandbox(isolation='bubblewrap').start('calls')
  with pytest.raises(IsolationError):
    PassesTests()('def f(x): return 1', _ROW)


def test_limits_alone_are_never_chosen(monkeypatch):
  monkeypatch.setattr(
    sandbox, 'weakness', lambda level: None if level == 'limits' else 'no'
  )
  with pytest.raises(IsolationError):
    Sandbox().level()
  assert Sandbox(isolation='limits').level() == 'limits'


def test_bubblewrap_is_taken_where_there_are_no_namespaces(monkeypatch):
  monkeypatch.setattr(
    sandbox, 'weakness', lambda level: 'no' if level == 'namespaces' else None
  )
  assert Sandbox().level() == 'bubblewrap'
  with pytest.raises(IsolationError):
    Sandbox(limits=Limits(processes=2)).level()


@pytest.mark.parametrize(
  ('fact', 'value', 'message'),
  [
    ('seen', ['/etc/passwd'], 'it sees /etc/passwd'),
    ('root', ['dev', 'old'], 'it sees /old'),
    ('writes', ['/'], 'it writes /'),
    ('socket', True, 'sockets'),
    ('forks', True, 'processes'),
    ('others', [1], 'signal'),
    ('user', 0, 'root'),
    ('scratch', False, 'scratch'),
    ('library', False, 'library'),
  ],
)
def test_a_level_that_does_not_hold_is_weak(fact, value, message, monkeypatch):
  good = {
    'seen': [], 'writes': [], 'socket': False, 'forks': False, 'others': [],
    'user': 1, 'scratch': True, 'library': True, 'root': ['dev', 'usr'],
  }  # fmt: skip
  weakness = sandbox.weakness.__wrapped__
  monkeypatch.setattr(sandbox, '_inspected', lambda level: good)
  assert weakness('namespaces') is None
  bad = {**good, fact: value}
  monkeypatch.setattr(sandbox, '_inspected', lambda level: bad)
  assert message in weakness('namespaces')


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'isolation': 'some'}, 'isolation'),
    ({'isolation': 'limits', 'limits': Limits(processes=2)}, 'processes'),
    ({'isolation': 'bubblewrap', 'limits': Limits(processes=2)}, 'processes'),
  ],
)
def test_settings_are_checked(settings, message):
  with pytest.raises(ValueError, match=message):
    Sandbox(**settings)


@pytest.mark.parametrize(
  'limits',
  [
    {'wall_seconds': 0.0},
    {'wall_seconds': float('inf')},
    {'cpu_seconds': 0},
    {'cpu_seconds': 1.5},
    {'memory_bytes': 1 << 20},
    {'processes': 0},
    {'open_files': 3},
    {'output_bytes': 0},
  ],
)
def test_limits_are_checked(limits):
  with pytest.raises(ValueError, match=next(iter(limits))):
    Limits(**limits)


def test_a_sandbox_is_sent_as_its_settings():
  made = Sandbox(isolation='limits', limits=Limits(cpu_seconds=2))
  copy = pickle.loads(pickle.dumps(made))
  assert (copy.isolation, copy.limits) == (made.isolation, made.limits)


def test_a_box_says_how_its_program_ended(boxes):
  for program, status in (('1', 0), ('import os; os.abort()', -6)):
    with boxes.start('script') as box:
      wire.send(box.channel, {'sources': [program], 'stdin': ''})
      assert box.channel.recv(1) == b''
      assert box.finish(10.0) == {'ended': status, 'late': False}


def test_the_guard_itself_ends_a_box_that_is_late():
  if sandbox.weakness('namespaces') is not None:
    pytest.skip('no sandbox here')
  boxes = Sandbox(limits=Limits(wall_seconds=0.3))
  with boxes.start('script') as box:
    program = 'import time; time.sleep(600)'
    wire.send(box.channel, {'sources': [program], 'stdin': ''})
    began = time.monotonic()
    assert box.channel.recv(1) == b''
    assert box.end() == {'ended': None, 'late': True}
    assert time.monotonic() - began < 5
  boxes.close()


def test_a_launcher_that_was_killed_is_replaced(boxes):
  for _ in range(2):
    with boxes.start('script') as box:
      wire.send(box.channel, {'sources': ['print(1)'], 'stdin': ''})
      assert box.channel.recv(10) == b'1\n'
    boxes._launcher._process.kill()
    boxes._launcher._process.wait()


def test_boxes_die_with_the_launcher(boxes):
  box = boxes.start('script')
  program = 'import time; time.sleep(600)'
  wire.send(box.channel, {'sources': [program], 'stdin': ''})
  launcher = boxes._launcher._process.pid
  while len(_descendants(launcher)) < 3:  # Watcher, guard, program.
    time.sleep(0.01)
  started = _descendants(launcher)
  os.kill(launcher, signal.SIGKILL)
  assert _gone(started)
  with pytest.raises(sandbox.SandboxError, match='without a word'):
    box.end()


def test_a_worker_that_the_pool_kills_takes_its_boxes_along(boxes):
  del boxes  # Skips where there is no sandbox.
  pool = VerifierPool(
    PassesTests(limits=Limits(wall_seconds=60.0)),
    timeout_seconds=1.5,
    workers=1,
    memory_bytes=4 << 30,
  )
  before = _descendants(os.getpid())
  (outcome,) = pool.run([(_SLEEP, _ROW)], stop_at_failure=False)
  assert isinstance(outcome, Failure)
  assert outcome.timed_out
  pool.close()
  assert _gone(_descendants(os.getpid()) - before)
  assert _gone(_sleeping())


def _sleeping():
  """Programs of boxes whose first parent is gone."""
  found = []
  for folder in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      status = (folder / 'stat').read_text().rpartition(')')[2].split()
      command = (folder / 'cmdline').read_text()
    except OSError:
      continue
    if 'sandbox_launcher' in command and status[1] in ('0', '1'):
      found.append(folder.name)
  return found


@pytest.mark.slow
def test_boxes_die_with_the_host(boxes):
  del boxes  # Skips where there is no sandbox.
  program = (
    'from selfimprove.rewards.code import PassesTests\n'
    'from selfimprove.rewards.sandbox_limits import Limits\n'
    f'PassesTests(limits=Limits(wall_seconds=60.0))({_SLEEP!r}, {_ROW!r})'
  )
  host = subprocess.Popen([sys.executable, '-c', program], cwd=_ROOT)
  for _ in range(500):
    started = _descendants(host.pid)
    if len(started) == 7:  # The launcher, and two boxes of three.
      break
    time.sleep(0.02)
  host.kill()
  host.wait()
  assert len(started) == 7
  assert _gone(started)
