"""Experiments with the settings of papers: resolved, compiled, and tried."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from selfimprove import train
from selfimprove.training.metrics import METRICS_FILE, read_rows
from tests import chat_checkpoints, commands
from tests.commands import bind
from tests.data import published_files as files

pytestmark = pytest.mark.slow
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

PAPER = {
  'score_math': {
    'rollout': 'prompts [64, 768] -> rollout [512, ',
    'steps': '# Stage stage_two: at most 1500 steps',
    'bindings': (
      'LEARNING_RATE = 5e-06',
      'ALPHA = 10.0',
      'KL_WEIGHT = 0.01',
      'STRONG_KL_WEIGHT = 0.1',
      'TEMPERATURE = 1.0',
    ),
  },
  'score_code': {
    'rollout': 'prompts [16, 2048] -> rollout [128, ',
    'steps': '# Stage stage_two: at most 750 steps',
    'bindings': (
      'LEARNING_RATE = 1e-05',
      'ALPHA = 10.0',
      'KL_WEIGHT = 0.01',
      'STRONG_KL_WEIGHT = 0.25',
      'TEMPERATURE = 1.0',
    ),
  },
}


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """What an experiment needs besides its file: checkpoint and data."""
  folder = tmp_path_factory.mktemp('here')
  (folder / 'checkpoint').mkdir()
  chat_checkpoints.save(torch, transformers, folder / 'checkpoint', 'qwen2')
  files.write(folder / 'math/train.jsonl', files.math_500(64))
  files.write(folder / 'math/test.jsonl', files.math_500(8, first=90))
  files.write(folder / 'mbpp/mbpp.jsonl', files.mbpp([11, *range(511, 700)]))
  files.write(folder / 'humaneval/HumanEval.jsonl.gz', files.humaneval(4))
  return folder


def _flags(name, here, *more):
  code = f"HUMANEVAL_DATA = '{here}/humaneval'", f"MBPP_DATA = '{here}/mbpp'"
  data = code if name == 'score_code' else (f"MATH_DATA = '{here}/math'",)
  return (
    f'--gin_file=experiments/{name}/run.gin',
    *bind(
      f"CHECKPOINT = '{here}/checkpoint'",
      *data,
      *more,
    ),
  )


@pytest.mark.parametrize('name', PAPER)
def test_the_settings_are_those_of_the_paper_and_compile(name, here):
  # What is looked at is not read: no weights.
  theirs = here / f'no_weights_{name}'
  shutil.copytree(
    here / 'checkpoint', theirs, ignore=shutil.ignore_patterns('*.safetensors')
  )
  without = bind(f"CHECKPOINT = '{theirs}'")
  # As many devices as the file asks for, in a process of its own.
  devices = '--xla_force_host_platform_device_count=64'
  said = subprocess.run(
    [
      sys.executable,
      '-m',
      'selfimprove.train',
      '--dry_run',
      *_flags(name, here),
      *without,
    ],
    env={**os.environ, 'XLA_FLAGS': devices, 'PYTHONPATH': str(commands.ROOT)},
    cwd=commands.ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  mesh = "{'data': 1, 'fsdp': 16, 'sequence': 1, 'model': 4}"
  assert f'devices: {mesh}' in said
  for line in PAPER[name]['bindings']:
    assert f'\n{line}\n' in said
  assert PAPER[name]['rollout'] in said
  assert PAPER[name]['steps'] in said
  assert said.count('memory of the update on a device: ') == 2


@pytest.mark.parametrize('name', PAPER)
def test_the_same_file_trains_with_small_batches(name, here, tmp_path):
  small = (
    'PROMPTS_PER_STEP = 8',
    'GROUP_SIZE = 2',
    'MICROBATCHES = 2',
    # Of the eight devices that are here.
    'experiment.MeshShape.fsdp = 4',
    'experiment.MeshShape.model = 2',
    'STAGE_ONE_STEPS = 1',
    'STAGE_TWO_STEPS = 1',
    'ATTEMPT_TOKENS = 8',
    'loop.Schedule.evaluate_every = 0',
    'experiment.Evaluation.batch_size = 8',
  )
  commands.run(train, *_flags(name, here, *small), f'--workdir={tmp_path}')
  rows = read_rows(str(tmp_path / METRICS_FILE))
  assert [row['step'] for row in rows if 'loss/total' in row] == [1, 2]
  assert rows[0]['reward/verifier_failures'] == 0
