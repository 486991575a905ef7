from __future__ import annotations

import json
import pathlib

import gin
import pytest

from selfimprove.data import pipeline, rows, tasks, vocabularies

ROOT = pathlib.Path(__file__).parents[2]
HEAD = (
  'from __gin__ import dynamic_registration\n'
  'from selfimprove.data import rows\n'
  'from selfimprove.data import tasks\n'
  'from selfimprove.data import vocabularies\n'
  'from tests.data import test_gin_tasks\n'
)
BINDINGS = (
  'test_gin_tasks.consumer.task = %TASK\n'
  'test_gin_tasks.consumer.prompt_form = %PROMPT_FORM\n'
  'test_gin_tasks.consumer.vocabulary = %VOCABULARY\n'
  'test_gin_tasks.consumer.reward = %REWARD\n'
  'test_gin_tasks.consumer.attempt_tokens = %ATTEMPT_TOKENS\n'
  'test_gin_tasks.consumer.eos_ids = @vocabularies.eos_ids()\n'
  'test_gin_tasks.consumer.instruction = @vocabularies.encode()\n'
  "vocabularies.encode.text = '?'\n"
  'vocabularies.encode.vocabulary = %VOCABULARY\n'
)


def consumer(
  *,
  task,
  prompt_form,
  vocabulary,
  instruction,
  reward,
  attempt_tokens,
  eos_ids,
):
  """Stands for an entry point that is given all that a task file defines."""
  assert prompt_form is None
  # An answer that fits the table must also fit an attempt, with its EOS.
  assert attempt_tokens == task.max_answer_tokens + 1
  assert type(reward).__name__ == 'ExactMatch'
  assert list(eos_ids) == [vocabulary.eos_id]
  return task, vocabulary, instruction


@pytest.fixture(autouse=True)
def fresh_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def configured(name, *overrides):
  file = ROOT / 'gin_configs' / 'tasks' / f'{name}.gin'
  # As base.gin does.
  plain = f"include '{file.with_name('plain_text.gin')}'\n"
  text = f"{HEAD}{plain}include '{file}'\n{BINDINGS}" + '\n'.join(overrides)
  gin.parse_config(text)
  gin.finalize()
  return gin.get_configurable(consumer)()


@pytest.fixture
def sums_file(tmp_path):
  path = tmp_path / 'sums.jsonl'
  lines = [{'prompt': f'{i}+1=', 'answer': str(i + 1)} for i in range(90)]
  path.write_text('\n'.join([*map(json.dumps, lines), 'nonsense']))
  return path


def test_answer_first_is_the_default_task_of_the_library():
  task, vocabulary, instruction = configured('answer_first')
  assert isinstance(task, tasks.TextTask)
  assert vocabulary == tasks.DIGITS
  assert instruction.tolist() == [14]
  default = pipeline.load(tasks.answer_first(), 'validation')
  assert pipeline.load(task, 'validation').fields == default.fields


def test_everyone_is_given_an_equal_vocabulary():
  task, vocabulary, _ = configured('answer_first')
  assert type(vocabulary) is vocabularies.CharVocabulary
  assert task.vocabulary == vocabulary
  for feature in task.provider.output_features.values():
    assert feature.vocabulary == vocabulary


def test_jsonl_needs_only_a_file(sums_file):
  task, vocabulary, _ = configured(
    'jsonl',
    f"TRAIN_FILE = '{sums_file}'",
    'tasks.jsonl.on_bad_row = @rows.drop',
  )
  assert vocabulary == vocabularies.ByteVocabulary()
  tables = [pipeline.load(task, split) for split in task.splits]
  assert sum(map(len, tables)) == 90
  assert all(table.dropped == {'row: not JSON': 1} for table in tables)


def test_jsonl_refuses_bad_rows_by_default(sums_file):
  task, *_ = configured('jsonl', f"TRAIN_FILE = '{sums_file}'")
  with pytest.raises(rows.BadRowError, match='line 91'):
    pipeline.load(task, 'train')


def test_jsonl_without_a_file_is_refused():
  with pytest.raises(
    ValueError, match=r'TRAIN_FILE.*not subsequently overridden'
  ):
    configured('jsonl')


@pytest.mark.parametrize('name', ['answer_first', 'jsonl'])
def test_every_binding_is_consumed_and_the_operative_config_re_parses(
  name, sums_file
):
  override = f"TRAIN_FILE = '{sums_file}'" if name == 'jsonl' else ''
  configured(name, override)
  operative = gin.operative_config_str()
  for binding in _bindings(gin.config_str()):
    assert binding in operative
  gin.clear_config()
  gin.parse_config(operative)
  gin.get_configurable(consumer)()
  assert gin.operative_config_str() == operative


def _bindings(config):
  lines = (line.strip() for line in config.splitlines())
  return [line for line in lines if ' = ' in line and not line.startswith('#')]
