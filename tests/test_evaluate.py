from __future__ import annotations

import json
import os
import pathlib
import shutil

import pytest

from selfimprove import evaluate, generate, train
from selfimprove.trained import open_workdir
from selfimprove.training import checkpoint
from tests import commands, fake_bucket
from tests.commands import TINY_RUN, refusal

METRICS = (
  'acc_t1',
  'acc_t2',
  'delta',
  'i_to_c',
  'c_to_i',
  'confidence',
  'critique',
  'pass@1',
  'pass@4',
  'majority@4',
)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  commands.run(train, *TINY_RUN, f'--workdir={folder}')
  return folder


def test_a_table_and_a_json_file_have_all_metrics(workdir, tmp_path, capsys):
  path = tmp_path / 'found.json'
  commands.run(
    evaluate, f'--workdir={workdir}', '--samples=4', f'--output={path}'
  )
  shown = capsys.readouterr().out
  found = json.loads(path.read_text(encoding='utf-8'))
  for name in METRICS:
    assert f'\n{name} ' in shown
    # A rate of nothing has no value: `confidence`, where nothing was right.
    if found[name]['value'] is not None:
      low, high = found[name]['low'], found[name]['high']
      assert low <= found[name]['value'] <= high
      assert low < high
  assert '95 % interval' in shown
  assert shown.splitlines()[-1] == f'Written to {path}'
  delta = found['i_to_c']['value'] - found['c_to_i']['value']
  assert found['delta']['value'] == pytest.approx(delta)


def test_the_json_lies_in_the_workdir_unless_told_otherwise(workdir):
  commands.run(
    evaluate, f'--workdir={workdir}', '--samples=1', '--split=validation'
  )
  path = workdir / 'evaluation_validation.json'
  found = json.loads(path.read_text(encoding='utf-8'))
  assert 'acc_t2' in found
  assert not any(name.startswith('pass@') for name in found)


def test_what_training_measured_is_measured_again(workdir):
  # The validation metrics of the last step, and those of the checkpoint.
  commands.run(
    evaluate, f'--workdir={workdir}', '--samples=1', '--split=validation'
  )
  path = workdir / 'evaluation_validation.json'
  found = json.loads(path.read_text(encoding='utf-8'))
  lines = (workdir / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
  logged = json.loads(lines[-1])
  for name in ('acc_t1', 'acc_t2', 'delta', 'changed'):
    assert found[name]['value'] == logged[f'eval/{name}']


def test_the_small_files_of_a_run_in_a_bucket_are_fetched_once(
  workdir, tmp_path, monkeypatch
):
  bucket = fake_bucket.install(monkeypatch, tmp_path)
  # Orbax reads buckets by a library of its own.
  monkeypatch.setattr(checkpoint, '_absolute', bucket.here)
  run = pathlib.Path(bucket.here(fake_bucket.RUN))
  shutil.copytree(workdir, run)
  (run / 'evaluation_validation.json').unlink(missing_ok=True)
  small = [path.name for path in run.iterdir() if path.is_file()]
  commands.run(
    evaluate,
    f'--workdir={fake_bucket.RUN}',
    '--samples=1',
    '--split=validation',
  )
  assert 'config.gin' in small
  fetched = sorted(os.path.basename(path) for path in bucket.read)
  assert fetched == sorted(n for n in small if not n.endswith('.lock'))
  found = json.loads((run / 'evaluation_validation.json').read_text('utf-8'))
  assert 'acc_t2' in found


def test_both_attempts_are_printed(workdir, capsys):
  commands.run(
    generate,
    f'--workdir={workdir}',
    '--prompt=12=',
    '--prompt=3=',
    '--samples=2',
    '--temperature=1',
  )
  lines = capsys.readouterr().out.splitlines()
  kinds = [line.split('  ')[0] for line in lines]
  assert kinds == ['prompt', 'attempt 1', 'attempt 2'] * 4
  assert [line.split()[1] for line in lines[::3]] == ['12=', '12=', '3=', '3=']


@pytest.mark.slow
def test_an_answer_does_not_depend_on_the_other_prompts(workdir, capsys):
  answers = []
  for others in ([], ['--prompt=3=']):
    commands.run(generate, f'--workdir={workdir}', '--prompt=12=', *others)
    answers.append(capsys.readouterr().out.splitlines()[:3])
  assert answers[0] == answers[1]


def test_a_prompt_that_cannot_be_written_is_refused(workdir):
  sentence = refusal(generate, f'--workdir={workdir}', '--prompt=1+2')
  assert "character '+'" in sentence


def test_an_empty_prompt_is_refused(workdir):
  sentence = refusal(generate, f'--workdir={workdir}', '--prompt=')
  assert 'prompt' in sentence


@pytest.mark.parametrize('module', [evaluate, generate])
def test_a_folder_without_a_run_is_refused(module, tmp_path):
  flags = [f'--workdir={tmp_path}']
  flags += ['--prompt=1'] if module is generate else []
  assert 'There is no run in' in refusal(module, *flags)


@pytest.mark.parametrize('module', [evaluate, generate])
def test_a_missing_workdir_is_refused(module):
  assert '--workdir' in refusal(module)


def test_a_missing_checkpoint_is_refused(workdir):
  sentence = refusal(evaluate, f'--workdir={workdir}', '--step=7')
  assert 'no checkpoint of step 7' in sentence
  assert '[2]' in sentence


def test_a_missing_split_is_refused(workdir):
  sentence = refusal(evaluate, f'--workdir={workdir}', '--split=tset')
  assert "no split 'tset'" in sentence


def test_samples_that_would_all_be_the_same_are_refused(workdir):
  flags = [f'--workdir={workdir}', '--samples=2', '--temperature=0']
  assert 'samples of a problem the same' in refusal(evaluate, *flags)


def test_a_run_is_measured_on_other_devices_than_it_had(workdir, tmp_path):
  # As on a machine with another number of devices than the eight of the tests.
  shutil.copytree(workdir, tmp_path / 'moved')
  config = tmp_path / 'moved' / 'config.gin'
  text = config.read_text('utf-8').replace(
    'experiment.MeshShape.data = -1', 'experiment.MeshShape.data = 3'
  )
  config.write_text(text, encoding='utf-8')
  assert 'experiment.MeshShape.data = 3' in text
  trained = open_workdir(str(tmp_path / 'moved'))
  assert dict(trained.mesh.shape) == {
    'data': 8,
    'fsdp': 1,
    'sequence': 1,
    'model': 1,
  }
