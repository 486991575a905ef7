from __future__ import annotations

import json
import pathlib

import gin
import pytest

from selfimprove.data import pipeline, vocabularies
from tests.data import published_files as files

ROOT = pathlib.Path(__file__).parents[2]
HEAD = (
  'from __gin__ import dynamic_registration\n'
  'from selfimprove.data import vocabularies\n'
  'from tests.data import test_published_gin\n'
  'PROMPT_FORM = None\n'  # As in base.gin.
)
BINDINGS = (
  'test_published_gin.consumer.task = %TASK\n'
  'test_published_gin.consumer.reward = %REWARD\n'
  'test_published_gin.consumer.attempt_tokens = %ATTEMPT_TOKENS\n'
  'test_published_gin.consumer.eos_ids = @vocabularies.eos_ids()\n'
)


def consumer(*, task, reward, attempt_tokens, eos_ids):
  """Stands for an entry point that is given all that a task file defines."""
  assert attempt_tokens >= 64
  assert list(eos_ids) == [task.vocabulary.eos_id]
  return task, reward


@pytest.fixture(autouse=True)
def fresh_gin():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.fixture
def folders(tmp_path):
  """A folder of each data set, and the bindings that name them."""
  files.write(tmp_path / 'gsm8k/train.jsonl', files.gsm8k(40))
  files.write(tmp_path / 'gsm8k/test.jsonl', files.gsm8k(4, first=100))
  files.write(tmp_path / 'math/train.jsonl', files.math_500(40))
  files.write(tmp_path / 'math/test.jsonl', files.math_500(4, first=90))
  files.write(tmp_path / 'aime/a.jsonl', [{'problem': 'a', 'answer': '033'}])
  files.write(tmp_path / 'humaneval/HumanEval.jsonl.gz', files.humaneval(4))
  files.write(tmp_path / 'mbpp/mbpp.jsonl', files.mbpp([3, 11, 20, 511, 601]))
  return {
    name: f"{name.upper()}_DATA = '{tmp_path / name}'"
    for name in ('gsm8k', 'math', 'aime', 'humaneval', 'mbpp')
  }


def configured(name, *overrides):
  file = ROOT / 'gin_configs' / 'tasks' / f'{name}.gin'
  gin.add_config_file_search_path(str(ROOT))
  text = f"{HEAD}include '{file}'\n{BINDINGS}" + '\n'.join(overrides)
  gin.parse_config(text)
  gin.finalize()
  return gin.get_configurable(consumer)()


@pytest.mark.parametrize(
  ('name', 'rows', 'right', 'wrong'),
  [
    ('gsm8k', 4, '100 + 1,000 is #### 1,100', '1'),
    ('math', 4, r'\frac{90}{7}', '90'),
    ('aime', 1, 'so the answer is 33', '34'),
    ('humaneval', 4, '    return x + 0\n', 'pass'),
    ('mbpp', 2, 'def add(x):\n  return x + 11', 'pass'),
  ],
)
def test_a_task_file_needs_only_its_folder(folders, name, rows, right, wrong):
  task, reward = configured(name, folders[name])
  table = pipeline.load(task, 'test')
  assert len(table) == rows
  assert table.dropped == {}
  # Of the default vocabulary, no published problem comes near the widths.
  assert task.vocabulary == vocabularies.ByteVocabulary()
  row = {**table.fields[0]}
  try:
    assert reward.judge([[right, wrong]], [row]).tolist() == [[1, 0]]
  finally:
    reward.close()


@pytest.mark.parametrize('name', ['gsm8k', 'math', 'aime', 'humaneval', 'mbpp'])
def test_every_binding_is_consumed_and_the_operative_config_re_parses(
  folders, name
):
  configured(name, folders[name])
  operative = gin.operative_config_str()
  for line in gin.config_str().splitlines():
    if ' = ' in line and not line.startswith('#'):
      assert line.strip() in operative
  gin.clear_config()
  gin.parse_config(operative)
  gin.get_configurable(consumer)()
  assert gin.operative_config_str() == operative


def test_without_its_data_a_task_file_says_how_to_fetch_it(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'fetch it with `for s in'):
    configured('gsm8k', f"GSM8K_DATA = '{tmp_path}'")


def test_the_mixture_has_both_and_leaves_out_what_is_tested(folders, tmp_path):
  same = 'word ' * 14
  leaked = [
    {'question': f'Leaked {same}', 'answer': '#### 7'},
    *files.gsm8k(40),
    files.gsm8k(1)[0],
  ]
  files.write(tmp_path / 'gsm8k/train.jsonl', leaked)
  tested = [
    {**files.math_500(1)[0], 'problem': f'Tested {same}'},
    *files.math_500(4, first=90),
  ]
  files.write(tmp_path / 'math/test.jsonl', tested)
  task, _ = configured(
    'math_mixture',
    folders['gsm8k'],
    folders['math'],
    "RATES = {'gsm8k': 1, 'math': 3}",
  )
  table = pipeline.load(task, 'train')
  validation = pipeline.load(task, 'validation')
  # The leaked one and the second of the two same ones are missing.
  kept = [row['problem'] for row in (*table.fields, *validation.fields)]
  assert len(kept) == len(set(kept)) == 40 + 40
  assert table.dropped == {
    'filter: duplicate': 1,
    'filter: shares 13 words with test': 1,
  }
  assert [share.slots for share in table.shares] == [1, 3]
  assert sum(share.rows for share in table.shares) == len(table)
  # Held out: nothing is left out, and each row is there once.
  test = pipeline.load(task, 'test')
  assert len(test) == 4 + 5
  json.dumps([dict(row) for row in test.fields])
