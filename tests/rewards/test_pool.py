from __future__ import annotations

import functools
import math
import os
import signal
import subprocess
import sys
import time
import types as python_types
from pathlib import Path

import pytest

from selfimprove.rewards.pool import Failure, VerifierPool, verifier_name
from tests.rewards import misbehaving

_ROOT = Path(__file__).parents[2]


def _pool(verifier=misbehaving.act, **settings):
  defaults = {'timeout_seconds': 20.0, 'workers': 1, 'memory_bytes': None}
  return VerifierPool(verifier, **{**defaults, **settings})


def _run(attempts, *, reference=None, pool=None, stop=False, **settings):
  pool = pool or _pool(**settings)
  calls = [(attempt, reference or {}) for attempt in attempts]
  return pool.run(calls, stop_at_failure=stop)


def _gone(pid):
  for _ in range(100):
    if not _alive(pid):
      return True
    time.sleep(0.05)
  return False


def _alive(pid):
  try:
    os.kill(pid, 0)
    # A process that ended stays listed until its new parent collects it.
    status = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
  except ProcessLookupError:
    return False
  except FileNotFoundError:
    return sys.platform != 'linux'
  return status[0] != 'Z'


@pytest.mark.parametrize('workers', [1, 3])
def test_verdicts_come_in_the_order_of_the_calls(workers):
  attempts = ['x' * (i * 7 % 11) for i in range(20)]
  verdicts = _run(
    attempts, verifier=misbehaving.slow_then_length, workers=workers
  )
  assert verdicts == [float(len(attempt)) for attempt in attempts]


def test_no_calls_give_no_verdicts():
  assert _run([]) == []


@pytest.mark.parametrize('stuck', ['loop', 'ignore sigterm', 'backtrack'])
def test_a_stuck_call_is_killed_and_the_others_get_their_verdicts(stuck):
  start = time.monotonic()
  verdicts = _run(['right', stuck, 'right'], timeout_seconds=1.0)
  assert verdicts[0] == verdicts[2] == 1.0
  assert verdicts[1] == Failure(
    reason='took longer than 1 s and was killed', timed_out=True
  )
  assert 1.0 <= time.monotonic() - start < 15.0


def test_children_of_a_stuck_call_are_killed_with_it(tmp_path):
  pid_file = tmp_path / 'pid'
  reference = {'pid_file': str(pid_file)}
  _run(['leave a child'], reference=reference, timeout_seconds=1.0)
  assert _gone(int(pid_file.read_text()))


@pytest.mark.parametrize(
  ('action', 'reason'),
  [
    ('os._exit', 'ended its process with exit status 3'),
    ('sys.exit', 'raised SystemExit: bye'),
    ('raise', "raised KeyError: 'no such field'"),
    ('nan', 'returned nan, which is not a finite number'),
    ('inf', 'returned inf, which is not a finite number'),
    ('text', "returned 'yes', which is not a finite number"),
    ('none', 'returned None, which is not a finite number'),
  ],
)
def test_a_call_without_a_verdict_says_why_and_the_next_one_works(
  action, reason
):
  assert _run([action, 'right']) == [Failure(reason=reason), 1.0]


def test_a_call_that_wants_too_much_memory_fails_alone():
  verdicts = _run(['allocate', 'right'], memory_bytes=1 << 30)
  assert verdicts == [Failure(reason='raised MemoryError: '), 1.0]


def test_what_a_verifier_prepares_is_not_on_the_time_of_a_call():
  verifier = misbehaving.Prepared(seconds=1.5)
  assert _run(['a', 'b'], verifier=verifier, timeout_seconds=1.0) == [1.0, 1.0]


def test_a_partial_is_named_after_its_function():
  assert verifier_name(functools.partial(misbehaving.act)) == 'act'
  assert verifier_name(misbehaving.Prepared(seconds=0)) == 'Prepared'


def test_what_a_verifier_prints_does_not_disturb_its_verdict():
  assert _run(['print', 'print']) == [1.0, 1.0]


def test_no_call_starts_after_a_failure_when_asked_to_stop():
  verdicts = _run(['right', 'raise', 'right', 'loop'], stop=True)
  assert verdicts[0] == 1.0
  assert isinstance(verdicts[1], Failure)
  assert verdicts[2:] == [None, None]


def test_the_first_failure_is_first_in_order_and_not_in_time():
  pool = _pool(workers=2)
  _run(['right'] * 100, pool=pool)
  verdicts = _run(['raise late', 'raise', 'right'], pool=pool, stop=True)
  assert isinstance(verdicts[0], Failure)
  assert verdicts[2] is None


def test_the_counts_are_those_of_the_last_run():
  pool = _pool(timeout_seconds=1.0)
  _run(['right', 'raise', 'loop'], pool=pool)
  assert pool.counts == {'calls': 3, 'failures': 2, 'timeouts': 1}
  _run(['right'], pool=pool)
  assert pool.counts == {'calls': 1, 'failures': 0, 'timeouts': 0}


def test_processes_stay_from_run_to_run():
  pool = _pool(misbehaving.own_process)
  assert _run(['', ''], pool=pool) == _run(['', ''], pool=pool)


def test_a_worker_that_died_while_idle_is_replaced():
  pool = _pool(misbehaving.own_process)
  (first,) = _run([''], pool=pool)
  os.kill(int(first), signal.SIGKILL)
  time.sleep(0.1)
  (second,) = _run([''], pool=pool)
  assert second != first


def test_workers_do_not_import_jax_or_tensorflow():
  modules = ['jax', 'numpy', 'tensorflow', 'selfimprove.rewards.worker']
  assert _run(modules, verifier=misbehaving.knows_module) == [0.0] * 4
  assert _run(['re'], verifier=misbehaving.knows_module) == [1.0]


def test_text_hashes_alike_in_all_workers():
  verdicts = _run(['abc'] * 4, verifier=misbehaving.hash_of_text, workers=2)
  assert len(set(verdicts)) == 1


def test_closing_leaves_no_process_and_the_pool_can_be_used_again():
  pool = _pool(misbehaving.own_process)
  (pid,) = _run([''], pool=pool)
  pool.close()
  with pytest.raises(ProcessLookupError):  # Not even a zombie.
    os.kill(int(pid), 0)
  assert _run([''], pool=pool) != [pid]


def test_a_forgotten_pool_leaves_no_process():
  pool = _pool(misbehaving.own_process)
  (pid,) = _run([''], pool=pool)
  del pool
  with pytest.raises(ProcessLookupError):
    os.kill(int(pid), 0)


def test_an_interrupted_run_leaves_no_stale_answer(monkeypatch):
  pool = _pool()
  _run(['right'], pool=pool)
  with monkeypatch.context() as patch:
    patch.setattr(pool, '_wait', _interrupt)
    with pytest.raises(KeyboardInterrupt):
      _run(['nan'], pool=pool)
  assert _run(['right'], pool=pool, stop=True) == [1.0]


def _interrupt():
  raise KeyboardInterrupt


_PROGRAM = """
import threading, sys
from selfimprove.rewards.pool import VerifierPool
from tests.rewards import misbehaving
own = VerifierPool(
  misbehaving.own_process, timeout_seconds=9, workers=1, memory_bytes=None)
stuck = VerifierPool(
  misbehaving.act, timeout_seconds=999, workers=1, memory_bytes=None)
print(int(own.run([('', {})], stop_at_failure=True)[0]), flush=True)
if sys.argv[1] == 'stay':
  stuck.run([('leave a child', {'pid_file': sys.argv[2]})],
            stop_at_failure=True)
"""


def _program(*arguments):
  return subprocess.Popen(
    [sys.executable, '-c', _PROGRAM, *arguments],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )


def test_an_interpreter_that_ends_takes_its_workers_along():
  with _program('end') as parent:
    pid = int(parent.stdout.readline())
    assert parent.wait(timeout=30) == 0
  assert _gone(pid)


@pytest.mark.skipif(sys.platform != 'linux', reason='needs a death signal')
def test_a_killed_parent_takes_even_a_looping_worker_along(tmp_path):
  pid_file = tmp_path / 'pid'
  with _program('stay', str(pid_file)) as parent:
    idle = int(parent.stdout.readline())
    for _ in range(200):
      if pid_file.exists() and pid_file.read_text():
        break
      time.sleep(0.05)
    grandchild = int(pid_file.read_text())
    looping = int(
      Path(f'/proc/{grandchild}/stat').read_text().rsplit(')', 1)[1].split()[1]
    )
    parent.kill()
  try:
    assert _gone(idle)
    assert _gone(looping)
  finally:
    os.kill(grandchild, signal.SIGKILL)


def test_a_verifier_that_cannot_be_sent_is_refused_at_once():
  with pytest.raises(ValueError, match='top level of an importable module'):
    _pool(lambda attempt, reference: 1.0)


def test_a_verifier_that_a_worker_cannot_import_is_named(monkeypatch):
  module = python_types.ModuleType('only_here')
  exec('def judge(attempt, reference): return 1.0', module.__dict__)
  monkeypatch.setitem(sys.modules, 'only_here', module)
  pool = _pool(module.judge)
  with pytest.raises(
    RuntimeError, match=r"'judge' cannot be loaded.*only_here"
  ):
    _run(['x'], pool=pool)


def test_a_wrapper_around_an_importable_function_can_be_sent():
  wrapped = misbehaving.logged(misbehaving.length)
  assert _run(['four'], verifier=wrapped) == [4.0]


@pytest.mark.parametrize(
  ('setting', 'value'),
  [('timeout_seconds', 0.0), ('timeout_seconds', math.inf), ('workers', 0)],
)
def test_a_setting_out_of_range_is_named(setting, value):
  with pytest.raises(ValueError, match=f'{setting} is {value}'):
    _pool(**{setting: value})
