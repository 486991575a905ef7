"""Training on problems of reasoning-gym, from gin files to a checkpoint."""

from __future__ import annotations

import pytest

from selfimprove import configuration, train
from selfimprove.data import pipeline
from selfimprove.experiment import Experiment
from selfimprove.training.metrics import METRICS_FILE, read_rows

SMALL = (
  'PROBLEMS = 300',
  'STEPS = 2',
  'PROMPTS_PER_STEP = 8',
  'GROUP_SIZE = 2',
  'MAX_PROMPT_TOKENS = 96',
  'MAX_ANSWER_TOKENS = 8',
  'ATTEMPT_TOKENS = 9',
  'verifiers.HostVerifier.workers = 1',
  'verifiers.HostVerifier.timeout_seconds = 60.0',
)


def built(*bindings):
  return configuration.build(
    Experiment,
    files=[
      f'gin_configs/{name}.gin'
      for name in (
        'base',
        'models/tiny',
        'tasks/reasoning_gym',
        'algorithms/rloo',
        'tasks/reasoning_gym_levels',
      )
    ],
    bindings=[*SMALL, *bindings],
  )


def test_a_stage_draws_from_its_levels():
  experiment = built()
  table = pipeline.load(experiment.task, 'train')
  batch = train.make_batch(table, seed=0, stages=experiment.unrolled())
  levels = []
  for stage in experiment.unrolled():
    drawn = table.references(batch(stage, 0).example_id)
    levels.append({fields['level'] for fields in drawn})
  assert levels[0] == {0}
  assert levels[1] == {0, 1}
  assert levels[2] == {0, 1, 2}
  experiment.close()


@pytest.mark.slow
def test_a_run_rises_in_level_and_resumes(tmp_path):
  experiment = built('LEVEL_REACHED = 0.0', 'LEVEL_PATIENCE = 1')
  state = train.start(experiment, str(tmp_path))
  # A step of each of the first two levels, which is all that they ask for.
  assert int(state.step) == 4
  stages = [
    row['stage']
    for row in read_rows(str(tmp_path / METRICS_FILE))
    if 'loss/total' in row
  ]
  assert stages == ['low', 'middle', 'high', 'high']
  again = built('LEVEL_REACHED = 0.0', 'LEVEL_PATIENCE = 1')
  assert int(train.start(again, str(tmp_path)).step) == 4
