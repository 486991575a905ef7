"""Runs of several real processes, each with a part of the devices."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from selfimprove.training.checkpoint import CheckpointStore
from selfimprove.training.metrics import read_rows
from tests import commands
from tests.training import one_of_many, tiny

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

TINY = 'import sys; from tests.training import one_of_many as m; m.main({})'
STEPS = 24
A_MINUTE = 60


def _start(arguments, *, devices):
  """A process with so many fake devices, compiled as the test process is."""
  count = '--xla_force_host_platform_device_count'
  environment = os.environ | {
    'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {count}={devices}',
    'PYTHONPATH': str(commands.ROOT),
  }
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    cwd=commands.ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _port():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return free.getsockname()[1]


def _places(count):
  port = _port()
  return [f'127.0.0.1:{port},{index},{count}' for index in range(count)]


def _finish(started, *, seconds=600):
  """Status and error output of each process; none is left behind."""
  end = time.monotonic() + seconds
  try:
    said = [p.communicate(timeout=end - time.monotonic())[1] for p in started]
  finally:
    for process in started:
      process.kill()
  return [process.returncode for process in started], said


def _all_well(started):
  statuses, said = _finish(started)
  assert not any(statuses), '\n'.join(said)
  return said


def _tiny(count, mesh, folder, *jobs):
  """Runs jobs of `one_of_many` on processes of two devices each."""
  code = TINY.format('*sys.argv[1:]')
  _all_well(
    [
      _start(['-c', code, place, mesh, folder, *jobs], devices=2)
      for place in _places(count)
    ]
  )


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """What one process with one device makes of every recipe."""
  folder = tmp_path_factory.mktemp('alone')
  states = {
    recipe: one_of_many.train(folder / recipe, recipe, tiny.mesh())
    for recipe in one_of_many.RECIPES
  }
  return folder, states


@pytest.fixture(scope='module')
def two(alone, tmp_path_factory):
  """The folder of two processes with parameters sharded over both."""
  folder = tmp_path_factory.mktemp('two')
  recipes = (*one_of_many.RECIPES, 'disagreements')
  _tiny(2, '2,2,1', folder, *recipes, f'moved={alone[0] / "collecting"}')
  return folder


def _assert_close(folder, alone, recipe):
  here, there = (
    read_rows(where / recipe / 'metrics.jsonl') for where in (folder, alone[0])
  )
  assert len(here) == len(there) == 3
  for ours, theirs in zip(here, there, strict=True):
    assert ours.pop('stage') == theirs.pop('stage')
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
      assert ours[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
  assert any(row['loss/total'] for row in there if 'loss/total' in row)
  state = _restored(folder / recipe, recipe, tiny.mesh())
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    jax.device_get(state.params),
    alone[1][recipe].params,
  )


def _restored(folder, recipe, mesh):
  like = one_of_many.like(folder, recipe, mesh)
  with CheckpointStore(folder / 'checkpoints', keep_last=1) as store:
    return store.restore(None, like)[0]


@pytest.mark.parametrize('recipe', one_of_many.RECIPES)
def test_two_processes_train_as_one_does(recipe, two, alone):
  _assert_close(two, alone, recipe)


def test_the_retries_of_a_collection_were_compared(alone):
  rows = read_rows(alone[0] / 'collecting' / 'metrics.jsonl')
  assert any(row.get('collect/retried') for row in rows)


def test_rows_that_two_processes_hold_are_judged_once(alone, tmp_path):
  # Heads and vocabulary are divided over two processes, rows over the others.
  _tiny(4, '2,1,4', tmp_path, 'on_host')
  _assert_close(tmp_path, alone, 'on_host')


def test_a_checkpoint_moves_between_meshes_bit_for_bit(two, alone):
  # From one device to two processes, which has been done, to eight devices.
  state = _restored(two / 'moved', 'collecting', tiny.mesh(4, 2))
  assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == 8
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.device_get(state),
    alone[1]['collecting'],
  )


@pytest.fixture(scope='module')
def flags(tmp_path_factory):
  """A run of the command whose attempts are sometimes right by chance."""
  folder = tmp_path_factory.mktemp('config')
  return commands.letters(
    folder,
    'reinforce',
    f'STEPS = {STEPS}',
    'loop.Schedule.checkpoint_every = 1',
    length=6,
  )


def _train(flags, workdir, *, count, devices):
  places = _places(count) if count > 1 else ['']
  return [
    _start(
      [
        '-m',
        'selfimprove.train',
        *flags,
        f'--workdir={workdir}',
        f'--distributed={place}',
      ],
      devices=devices,
    )
    for place in places
  ]


def _newest(workdir):
  found = workdir / 'checkpoints'
  names = os.listdir(found) if found.is_dir() else []
  return max((int(name) for name in names if name.isdigit()), default=0)


def _await_step(workdir, step, started):
  end = time.monotonic() + 600
  while _newest(workdir) < step:
    if any(process.poll() is not None for process in started):
      raise AssertionError(_finish(started, seconds=90))
    assert time.monotonic() < end
    time.sleep(0.01)


@pytest.fixture(scope='module')
def stopped(flags, tmp_path_factory):
  """A run of two processes, of which the second was asked to stop."""
  workdir = tmp_path_factory.mktemp('run')
  started = _train(flags, workdir, count=2, devices=2)
  _await_step(workdir, 3, started)
  started[1].send_signal(signal.SIGTERM)
  return workdir, _all_well(started), _newest(workdir)


def test_a_notice_to_any_process_stops_all_after_one_step(stopped):
  workdir, said, step = stopped
  assert 3 <= step < STEPS
  assert f'Stopped by SIGTERM (process 1) after step {step}, which' in said[0]
  rows = read_rows(workdir / 'metrics.jsonl')
  assert max(row['step'] for row in rows) == step


def test_a_kill_brings_the_others_down_and_any_number_goes_on(
  flags, stopped, tmp_path
):
  workdir, _, before = stopped
  shutil.copytree(workdir, tmp_path / 'run')
  workdir = tmp_path / 'run'
  started = _train(flags, workdir, count=2, devices=2)
  _await_step(workdir, before + 2, started)
  started[1].kill()
  killed = time.monotonic()
  statuses, said = _finish(started, seconds=A_MINUTE)
  assert time.monotonic() - killed < A_MINUTE
  assert statuses[0] not in (0, -signal.SIGKILL)
  assert 'the same command on all hosts, or on another number' in said[0]
  # On one process with as many devices it goes on from there.
  reached = _newest(workdir)
  assert before + 2 <= reached < STEPS
  (err,) = _all_well(_train(flags, workdir, count=1, devices=4))
  assert f'Resumed from the checkpoint of step {reached}.' in err
  _all_well(_train(flags, tmp_path / 'straight', count=1, devices=1))
  here, there = (
    read_rows(tmp_path / name / 'metrics.jsonl') for name in ('run', 'straight')
  )
  assert [row['step'] for row in here] == [row['step'] for row in there]
  for ours, theirs in zip(here, there, strict=True):
    wanted = theirs.get('loss/total', 0.0)
    assert ours.get('loss/total', 0.0) == pytest.approx(wanted, abs=1e-5)


def test_a_process_whose_others_do_not_come_says_so(tmp_path):
  code = TINY.format('*sys.argv[1:], timeout_seconds=4')
  first = _start(['-c', code, _places(2)[0], '1,1,1', tmp_path], devices=1)
  statuses, said = _finish([first], seconds=120)
  assert statuses[0]
  assert 'Error: Process 0 of 2 could not join the others at 127' in said[0]
  assert 'within 4 s; start all of them' in said[0]
