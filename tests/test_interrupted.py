"""Real processes: started, asked to stop, killed, and started again."""

from __future__ import annotations

import functools
import random
import signal
import time

import jax
import numpy as np
import pytest

from selfimprove.training.checkpoint import restore_params
from selfimprove.training.metrics import read_rows
from tests import commands

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

# Two stages, the second one over by its condition; a checkpoint at every step.
STAGES = """
from __gin__ import dynamic_registration
from selfimprove import experiment
from selfimprove.training import conditions
from selfimprove.training import loop
from selfimprove.training import stages
stage_two/stages.Stage.advance = @conditions.MetricAtLeast()
conditions.MetricAtLeast.metric = 'rollout/tokens'
conditions.MetricAtLeast.threshold = 0.0
conditions.MetricAtLeast.patience = 12
loop.Schedule.checkpoint_every = 1
loop.Schedule.evaluate_every = 4
experiment.Experiment.keep_last = 2
"""
ONE, LAST = 12, 24


@pytest.fixture(scope='module')
def flags(tmp_path_factory):
  """A run with few enough letters that some attempts are right by chance."""
  folder = tmp_path_factory.mktemp('config')
  (folder / 'stages.gin').write_text(STAGES, encoding='utf-8')
  found = commands.letters(
    folder,
    'score',
    f'STAGE_ONE_STEPS = {ONE}',
    'STAGE_TWO_STEPS = 99',
    "INSTRUCTION = '?'",
    length=7,
  )
  return (*found, f'--gin_file={folder}/stages.gin')


def _finish(process, *, seconds=1800):
  out, err = process.communicate(timeout=seconds)
  return process.returncode, out, err


@pytest.fixture(scope='module')
def straight(flags, tmp_path_factory):
  """The folder of a run that nobody interrupted."""
  folder = tmp_path_factory.mktemp('straight')
  process = commands.start('train', *flags, f'--workdir={folder}')
  status, out, err = _finish(process)
  assert status == 0, err
  _assert_quiet(err)
  rewards = [
    row['reward/verifier_t2']
    for row in read_rows(folder / 'metrics.jsonl')
    if 'loss/policy' in row
  ]
  assert len(rewards) == LAST
  assert len(set(rewards)) > 2  # So that there is something to repeat.
  assert out.splitlines()[-1].startswith(f'Checkpoint: {folder}/checkpoints/24')
  return folder


def _assert_quiet(err):
  """Only what is meant for the user: no library talks."""
  for line in filter(None, err.splitlines()):
    assert line.startswith(
      (
        'stage_',
        'Stage ',
        'Resumed ',
        'This run ',
        'Stopped ',
        'Warning: ',
        'SIGTERM: ',
      )
    ), line


def _steps(folder):
  found = folder / 'checkpoints'
  names = [path.name for path in found.iterdir()] if found.is_dir() else []
  return [int(name) for name in names if name.isdigit()]


def _reached(folder, step):
  return max(_steps(folder), default=0) >= step


def _saving(folder):
  """Whether a checkpoint is being written at this moment."""
  found = folder / 'checkpoints'
  return found.is_dir() and any('tmp' in path.name for path in found.iterdir())


def _wait(until, process, *, seconds=900):
  end = time.monotonic() + seconds
  while not until():
    if process.poll() is not None:
      return False
    assert time.monotonic() < end
    time.sleep(0.0005)
  return True


def _assert_same(folder, straight):
  read = lambda where: (where / 'metrics.jsonl').read_bytes()  # noqa: E731
  assert read(folder) == read(straight)
  ours, theirs = (
    restore_params(where / 'checkpoints', step=LAST)
    for where in (folder, straight)
  )
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_killed_at_random_moments_a_run_ends_bit_for_bit_the_same(
  flags, straight, tmp_path
):
  seed = random.SystemRandom().randrange(2**32)
  print(f'seed {seed}')  # Shown if the test fails.
  moments, reached, during_save = random.Random(seed), [], 0
  for kill in range(5):
    process = commands.start('train', *flags, f'--workdir={tmp_path}')
    before = max(_steps(tmp_path), default=0)
    # After a few steps of its own; the odd ones in the middle of a save.
    target = before + moments.randint(1, 4)
    _wait(functools.partial(_reached, tmp_path, target), process)
    if kill % 2:
      during_save += _wait(lambda: _saving(tmp_path), process)
    else:
      time.sleep(moments.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    assert _finish(process)[0] in (-signal.SIGKILL, 0)
    reached.append(max(_steps(tmp_path)))
  assert during_save
  assert max(reached) < LAST
  process = commands.start('train', *flags, f'--workdir={tmp_path}')
  status, _, err = _finish(process)
  assert status == 0, err
  assert f'Resumed from the checkpoint of step {reached[-1]}.' in err
  _assert_same(tmp_path, straight)


def test_sigterm_saves_and_ends_with_status_zero(flags, straight, tmp_path):
  process = commands.start('train', *flags, f'--workdir={tmp_path}')
  assert _wait(lambda: len(_steps(tmp_path)) > 0, process)
  process.send_signal(signal.SIGTERM)
  status, out, err = _finish(process)
  assert status == 0, err
  _assert_quiet(err)
  step = max(_steps(tmp_path))
  assert f'Stopped by SIGTERM after step {step}, which is saved' in err
  assert f'checkpoints/{step};' in out
  assert 0 < step < LAST
  process = commands.start('train', *flags, f'--workdir={tmp_path}')
  status, _, err = _finish(process)
  assert status == 0, err
  _assert_same(tmp_path, straight)


def test_the_commands_work_as_processes(straight):
  process = commands.start('evaluate', f'--workdir={straight}', '--samples=2')
  status, out, err = _finish(process)
  assert (status, err) == (0, '')
  assert 'acc_t2' in out
  process = commands.start('generate', f'--workdir={straight}', '--prompt=ab?')
  status, out, err = _finish(process)
  assert (status, err) == (0, '')
  assert [line.split('  ')[0] for line in out.splitlines()] == [
    'prompt',
    'attempt 1',
    'attempt 2',
  ]


@pytest.mark.parametrize(
  'arguments', [('train',), ('evaluate',), ('generate', '--prompt=1')]
)
def test_a_refusal_is_one_sentence_and_a_status(arguments, tmp_path):
  process = commands.start(*arguments, f'--workdir={tmp_path}')
  status, out, err = _finish(process)
  assert (status, out) == (1, '')
  assert err.startswith('Error: ')
  assert err.count('\n') == 1
