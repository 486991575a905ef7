"""Published data from its files to a trained and measured model."""

from __future__ import annotations

import json

import pytest

from selfimprove import check_data, evaluate, train
from selfimprove.data import pass_rates
from selfimprove.training.metrics import read_rows
from tests import commands
from tests.commands import bind
from tests.data import published_files as files

LEAKED = 'Ann had ten clips and gave three of them to Bob, who had none.'


@pytest.fixture
def flags(tmp_path):
  """A run on two small data sets, one problem of which is tested as well."""
  leaked = {'question': LEAKED, 'answer': '#### 7'}
  same = {'question': f'{LEAKED} How many has she?', 'answer': '#### 7'}
  train_rows = [*files.gsm8k(30), leaked, {'question': 'a'}]
  files.write(tmp_path / 'gsm8k/train.jsonl', train_rows)
  files.write(tmp_path / 'gsm8k/test.jsonl', [*files.gsm8k(4, first=100), same])
  files.write(tmp_path / 'math/train.jsonl', files.math_500(30))
  files.write(tmp_path / 'math/test.jsonl', files.math_500(5, first=90))
  return (
    *commands.FILES,
    '--gin_file=gin_configs/tasks/math_mixture.gin',
    commands.algorithm('rloo'),
    *commands.TINY_MODEL,
    *bind(
      f"GSM8K_DATA = '{tmp_path}/gsm8k'",
      f"MATH_DATA = '{tmp_path}/math'",
      "RATES = {'gsm8k': 1, 'math': 3}",
      'MAX_PROMPT_TOKENS = 80',
      'MAX_ANSWER_TOKENS = 24',
      'ATTEMPT_TOKENS = 4',
      'GROUP_SIZE = 2',
      'STEPS = 2',
    ),
  )


def test_a_report_counts_what_is_kept_and_left_out(flags, tmp_path, capsys):
  path = tmp_path / 'report.json'
  commands.run(check_data, *flags, f'--output={path}')
  shown = capsys.readouterr().out
  report = json.loads(path.read_text())
  train, test = (report['splits'][name] for name in ('train', 'test'))
  assert train['left_out'] == {
    'gsm8k, answer: missing': 1,
    'filter: shares 13 words with test': 1,
  }
  assert test['rows'] == 10
  assert test['left_out'] == {}
  assert train['epoch'] == {'gsm8k': 1, 'math': 3}
  assert 0 < train['prompt_tokens'] <= 80
  assert 'train: filter: shares 13 words with test' in shown
  assert str(path) in shown


def test_what_is_tested_is_shown_where_nothing_is_left_out(flags, capsys):
  commands.run(check_data, *flags, *bind('FILTERS = []'))
  shown = capsys.readouterr().out
  ngram = 'ann had ten clips and gave three of them to bob who had'
  assert f'test row 4: "{ngram}"' in shown
  commands.run(check_data, *flags, *bind('FILTERS = []'), '--words=20')
  assert 'ann had' not in capsys.readouterr().out


def test_a_command_without_files_is_refused():
  assert 'No gin file is given' in commands.refusal(check_data)


@pytest.mark.slow
def test_a_mixture_is_trained_on_measured_by_task_and_filtered(
  flags, tmp_path, capsys
):
  workdir = f'{tmp_path}/run'
  commands.run(train, *flags, f'--workdir={workdir}')
  assert 'filter: shares 13 words with test: 1' in capsys.readouterr().err
  assert read_rows(f'{workdir}/metrics.jsonl')[-1]['step'] == 2
  rates = f'{tmp_path}/rates.jsonl'
  commands.run(
    evaluate,
    f'--workdir={workdir}',
    '--split=train',
    '--samples=2',
    f'--pass_rates={rates}',
  )
  shown = capsys.readouterr().out
  assert 'acc_t1 gsm8k' in shown
  assert 'acc_t1 math' in shown
  measured = pass_rates.read(rates)
  assert set(measured.values()) <= {0.0, 0.5, 1.0}
  hard = bind(
    'FILTERS = [@filters.Difficulty()]',
    f"filters.Difficulty.path = '{rates}'",
    'filters.Difficulty.at_least = 0.5',
  )
  sentence = commands.refusal(check_data, *flags, *hard)
  assert 'filter: pass rate below 0.5' in sentence
  easy = bind(*(b.split('=', 1)[1] for b in hard[:2]))
  commands.run(check_data, *flags, *easy)
  left_out = capsys.readouterr().out
  # The leaked problem was left out when rates were measured.
  assert 'train: filter: no pass rate measured' in left_out
