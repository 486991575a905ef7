"""The arms of the experiment, without their training."""

from __future__ import annotations

import json
import pathlib
import types

import pytest

from experiments.score_self_correction import arms
from selfimprove import configuration, train
from selfimprove.experiment import Experiment

SMALL = ('tasks.answer_first.problems = 512',)


def test_the_seconds_of_an_arm_are_those_of_its_steps(tmp_path):
  # Three steps of 2 s, of which 1.5 s are in phases.
  rows = [
    {'step': step, 'time/total': 2.0, 'time/step': 1.0, 'time/data': 0.5}
    for step in range(1, 6)
  ]
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (tmp_path / 'timing.jsonl').write_text(text, encoding='utf-8')
  total = arms._total(str(tmp_path), 'timing.jsonl', 'time/total', 2, 5)
  assert total == 6.0


def _reaches(monkeypatch, step):
  """Training that ends at a step; the configs that it was given."""
  seen = []

  def start(experiment, folder):
    seen.append((experiment, folder))
    return types.SimpleNamespace(step=step)

  monkeypatch.setattr(train, 'start', start)
  return seen


def _must_not_measure(monkeypatch):
  measure = lambda *_, **__: pytest.fail('measured')  # noqa: E731
  monkeypatch.setattr(arms, '_measure', measure)


def test_an_interrupted_arm_is_not_measured(tmp_path, monkeypatch):
  _reaches(monkeypatch, 1074)  # Of 800 + 150 + 125.
  monkeypatch.setattr(
    arms, '_measure', lambda *_, **__: pytest.fail('measured')
  )
  with pytest.raises(SystemExit, match='at step 1074 of 1075; the same'):
    arms.score(str(tmp_path), seed=1, bindings=SMALL)


@pytest.fixture
def scored(tmp_path):
  """A workdir in which the score arm has begun."""
  experiment = configuration.build(
    Experiment,
    files=[f'{arms.HERE}/run.gin'],
    bindings=[*SMALL, 'WARM_START_STEPS = 30'],
  )
  assert experiment.keep_last == 1  # Stage ends are kept without it.
  folder = tmp_path / 'score'
  (folder / 'checkpoints' / '40').mkdir(parents=True)
  text = configuration.operative_config()
  (folder / 'config.gin').write_text(text, encoding='utf-8')
  return tmp_path


def test_a_baseline_begins_at_the_end_of_the_warm_start(scored, monkeypatch):
  seen = _reaches(monkeypatch, 275)
  measured = []
  monkeypatch.setattr(arms, '_measure', lambda *_, **how: measured.append(how))
  run = lambda: arms.baseline(  # noqa: E731
    str(scored), arm='single_turn', seed=1, bindings=SMALL
  )
  # The oldest checkpoint that is left is another.
  with pytest.raises(FileNotFoundError, match=r'no base model at .*/30, '):
    run()
  (scored / 'score' / 'checkpoints' / '30').mkdir()
  run()
  ((experiment, _),) = seen
  assert pathlib.Path(experiment.init_from).name == '30'
  assert (measured[0]['step'], measured[0]['begin']) == (275, 0)


def test_an_interrupted_baseline_is_not_measured(scored, monkeypatch):
  _reaches(monkeypatch, 274)
  monkeypatch.setattr(
    arms, '_measure', lambda *_, **__: pytest.fail('measured')
  )
  (scored / 'score' / 'checkpoints' / '30').mkdir()
  with pytest.raises(SystemExit, match='at step 274 of 275'):
    arms.baseline(str(scored), arm='multi_turn', seed=1, bindings=SMALL)
