"""The arms of the experiment on reasoning-gym, without their training."""

from __future__ import annotations

import difflib
import pathlib
import types

import pytest

from experiments.reasoning_gym import arms
from selfimprove import train

TEXT = pathlib.Path(arms.RUN).read_text(encoding='utf-8')
SMALL = ('PROBLEMS = 512',)


def changed(one, other):
  lines = difflib.unified_diff(one.splitlines(), other.splitlines(), n=0)
  return [
    line for line in lines if line[0] in '+-' and line[:3] not in ('+++', '---')
  ]


def test_two_lines_make_it_reinforcement_learning():
  text = arms.gin_text(TEXT, algorithm='grpo', init_from='/runs/5')
  assert changed(TEXT, text) == [
    "-include 'gin_configs/algorithms/sft.gin'",
    "+include 'gin_configs/algorithms/grpo.gin'",
    "-INIT_FROM = ''",
    "+INIT_FROM = '/runs/5'",
  ]
  assert arms.gin_text(TEXT, algorithm='sft', init_from='') == TEXT


def test_a_file_without_these_lines_is_refused():
  with pytest.raises(ValueError, match='0 times; it is to be there once'):
    arms.gin_text("INIT_FROM = ''\n", algorithm='grpo', init_from='')


@pytest.fixture
def seen(monkeypatch):
  """What was to be trained; each run gets to step 1000."""
  runs = []

  def start(experiment, folder):
    runs.append((experiment, folder))
    end = pathlib.Path(folder, 'checkpoints', '1000')
    end.mkdir(parents=True, exist_ok=True)
    return types.SimpleNamespace(step=1000)

  monkeypatch.setattr(train, 'start', start)
  monkeypatch.setattr(arms, '_measure', lambda folder, **how: how)
  return runs


def test_the_arms_begin_where_supervised_training_ended(seen, tmp_path):
  for arm in arms.ARMS:
    arms.run(str(tmp_path), arm=arm, seed=3, bindings=SMALL)
  begins = [experiment.init_from for experiment, _ in seen]
  end = str(tmp_path / 'sft' / 'checkpoints' / '1000')
  assert begins == ['', end, end]
  assert [experiment.seed for experiment, _ in seen] == [3, 3, 3]
  kinds = [
    type(experiment.stages[0].algorithm.rollout).__name__
    for experiment, _ in seen
  ]
  assert kinds == ['Demonstrate', 'Single', 'Demonstrate']


def test_an_interrupted_arm_is_not_measured(seen, tmp_path):
  with pytest.raises(SystemExit, match='at step 1000 of 1001; the same'):
    arms.run(str(tmp_path), arm='sft', seed=3, bindings=('STEPS = 1001',))


def test_the_table_has_means_and_errors_over_seeds():
  rows = [
    {
      'arm': 'sft',
      'seed': seed,
      'greedy': greedy,
      'sampled': 0.25,
      'pass_at_8': 1.0,
      'seconds': 10.0,
    }
    for seed, greedy in enumerate((0.2, 0.4))
  ]
  line = arms.table(rows).splitlines()[-1].split('  ')
  # s = 0.1 * sqrt(2), over sqrt(2).
  cells = [cell.strip() for cell in line if cell.strip()]
  assert cells == ['sft', '30.0 ± 10.0', '25.0 ± 0.0', '100.0 ± 0.0', '10', '2']
  assert ' ± ' not in arms.table(rows[:1])
