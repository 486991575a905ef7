"""A sweep of real processes: interrupted, killed, and started again."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time

import pytest

from experiments.sweeps import local, locks, space
from experiments.sweeps.plan import Sweep
from selfimprove.training.metrics import read_rows
from tests import commands

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

STEPS, LINES, SEEDS = 12, 4, 3
# With few enough letters that some attempts are right by chance.
FILE = """
from __gin__ import dynamic_registration
from selfimprove import experiment
from selfimprove.data import vocabularies
from selfimprove.models import config
from selfimprove.training import loop
include 'gin_configs/base.gin'
include 'gin_configs/models/tiny.gin'
include 'gin_configs/tasks/jsonl.gin'
include 'gin_configs/algorithms/grpo.gin'
config.TransformerConfig.embed_dim = 8
config.TransformerConfig.num_heads = 2
config.TransformerConfig.num_kv_heads = 2
config.TransformerConfig.head_dim = 4
config.TransformerConfig.mlp_dim = 16
experiment.Evaluation.batch_size = 64
experiment.Evaluation.problems = 16
loop.Schedule.checkpoint_every = 1
loop.Schedule.evaluate_every = 0
TRAIN_FILE = '{letters}'
VOCABULARY = @vocabularies.CharVocabulary()
vocabularies.CharVocabulary.characters = 'ab?'
MAX_PROMPT_TOKENS = 10
MAX_ANSWER_TOKENS = 1
ATTEMPT_TOKENS = 2
PROMPTS_PER_STEP = 8
GROUP_SIZE = 4
"""
SCRIPT = """
from experiments.sweeps import command
from tests.experiments.test_sweep_processes import make

if __name__ == '__main__':
  command.start(make({file!r}))
"""


def make(file):
  """Twelve runs: two learning rates by two weights by three seeds."""
  return Sweep(
    files=(file,),
    bindings=(f'STEPS = {STEPS}',),
    points=space.product(
      space.axis('LEARNING_RATE', (1e-3, 1e-2)),
      space.axis('KL_WEIGHT', (0.0, 0.1)),
      space.axis('SEED', (1, 2, 3)),
    ),
  )


@pytest.fixture
def begin(tmp_path):
  """A function that starts the sweep as a process of its own."""
  file = tmp_path / 'run.gin'
  letters = tmp_path / 'letters.jsonl'
  words = map(''.join, itertools.product('ab', repeat=9))
  rows = [{'prompt': f'{word}?', 'answer': word[-1]} for word in words]
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  letters.write_text(lines, encoding='utf-8')
  file.write_text(FILE.format(letters=letters), encoding='utf-8')
  script = tmp_path / 'sweep.py'
  script.write_text(SCRIPT.format(file=str(file)), encoding='utf-8')
  started = []

  def start():
    process = subprocess.Popen(
      [sys.executable, script, f'--workdir={tmp_path}/sweep', '--jobs=2'],
      cwd=commands.ROOT,
      env={
        **os.environ,
        'PYTHONPATH': str(commands.ROOT),
        'XLA_FLAGS': '--xla_backend_optimization_level=0',
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


def _steps(folder):
  found = folder / 'checkpoints'
  names = [path.name for path in found.iterdir()] if found.is_dir() else []
  return max([int(name) for name in names if name.isdigit()], default=0)


def _in_the_middle(folder, finished):
  """Whether so many runs have finished and another has trained a bit."""
  rows = [path.parent for path in folder.glob('*/row.json')]
  others = [p for p in folder.glob('*-seed_*') if p not in rows]
  return len(rows) >= finished and any(0 < _steps(p) < STEPS for p in others)


def _wait(process, until, *, seconds=1200):
  end = time.monotonic() + seconds
  while not until():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < end
    time.sleep(0.01)


def _remembered(folder):
  """Rows with what would tell that they were written again."""
  found = {path: path.stat() for path in folder.glob('*/row.json')}
  return {path: (s.st_ino, s.st_mtime_ns) for path, s in found.items()}


def _by_hand(folder):
  """Lines of the table, from the files of the runs."""
  groups = {}
  for path in sorted(folder.glob('*/row.json')):
    point = re.match(
      r'learning_rate_(.*)-kl_weight_(.*)-seed', path.parent.name
    )
    row = json.loads(path.read_text(encoding='utf-8'))
    values = (
      100 * row['metrics']['acc_t1'],
      row['steps'],
      row['seconds'],
    )
    groups.setdefault(point.groups(), []).append(values)
  cells = {}
  for point, rows in groups.items():
    assert len(rows) == SEEDS
    errors = (
      f'{statistics.mean(v):.1f} ± {statistics.stdev(v) / math.sqrt(3):.1f}'
      for v in zip(*rows, strict=True)
    )
    cells[point] = [*point, *errors, str(SEEDS)]
  return cells


def test_a_sweep_that_was_interrupted_and_killed_loses_and_repeats_nothing(
  begin, tmp_path
):
  folder = tmp_path / 'sweep'
  process = begin()
  _wait(process, lambda: _in_the_middle(folder, 2))
  process.send_signal(signal.SIGINT)
  out, err = process.communicate(timeout=600)
  assert process.returncode == 1
  assert 'Stopped; the same command goes on from there.' in err
  assert 'Traceback' not in err
  assert ' of 3' in out  # The table of what there is.
  stopped = {p: _steps(p) for p in folder.glob('*-seed_*') if _steps(p)}
  for path in stopped:  # Nobody is left behind.
    with locks.alone(f'{path}/work.lock', refusal='still there'):
      pass
  first = _remembered(folder)
  assert 2 <= len(first) < 12

  process = begin()
  _wait(process, lambda: _in_the_middle(folder, len(first) + 2))
  process.kill()  # Not to be caught.
  process.wait()
  second = _remembered(folder)
  assert len(first) < len(second) < 12

  # At once: what the killed sweep had begun may still be stopping.
  process = begin()
  out, err = process.communicate(timeout=1800)
  assert process.returncode == 0, err
  found = _remembered(folder)
  assert len(found) == 12
  assert first.items() <= second.items() <= found.items()
  logs = [p.read_text(encoding='utf-8') for p in folder.glob('*/log.txt')]
  for path, step in stopped.items():
    if path / 'row.json' not in first:
      text = (path / local.LOG_FILE).read_text(encoding='utf-8')
      assert f'Resumed from the checkpoint of step {step}.' in text
  # Stopped by the first signal, and by the end of who had begun them.
  assert sum('SIGTERM: stopping after this step' in log for log in logs) >= 2
  for path in found:
    rows = read_rows(path.parent / 'metrics.jsonl')
    trained = [row['step'] for row in rows if 'loss/total' in row]
    assert trained == list(range(1, STEPS + 1))
  lines = [re.split(r'  +', line) for line in out.splitlines()]
  table = {(line[0], line[1]): line for line in lines[2 : 2 + LINES]}
  assert table == _by_hand(folder)
  assert (
    len({line[2] for line in table.values()}) > 1
  )  # Something to get wrong.
  assert lines[0][:3] == ['LEARNING_RATE', 'KL_WEIGHT', 'acc_t1 %']
  assert out.splitlines()[-1].startswith('12 of 12 runs finished;')

  # All is done: only the table is printed again.
  process = begin()
  again, _ = process.communicate(timeout=600)
  assert again == out
  assert _remembered(folder) == found
