from __future__ import annotations

import itertools
import pathlib

import gin
import pytest

from selfimprove.data import (
  decisions,
  facts,
  many_answers,
  pipeline,
  splits,
  toys,
  vocabularies,
)

ROOT = pathlib.Path(__file__).parents[2]
MADE = {
  'decisions': (toys.decisions, decisions.CHARACTERS),
  'facts': (toys.facts, facts.CHARACTERS),
  'many_answers': (toys.many_answers, many_answers.CHARACTERS),
}
HEAD = (
  'from __gin__ import dynamic_registration\n'
  'from selfimprove.data import toys\n'
  'from selfimprove.data import vocabularies\n'
  'from tests.data import test_toys\n'
)
BINDINGS = (
  'test_toys.consumer.task = %TASK\n'
  'test_toys.consumer.reward = %REWARD\n'
  'test_toys.consumer.attempt_tokens = %ATTEMPT_TOKENS\n'
  'test_toys.consumer.eos_ids = @vocabularies.eos_ids()\n'
)


def consumer(*, task, reward, attempt_tokens, eos_ids):
  """Stands for an entry point that is given all that a task file defines."""
  assert list(eos_ids) == [task.vocabulary.eos_id]
  return task, reward, attempt_tokens


@pytest.fixture(autouse=True)
def fresh_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def configured(name, *overrides):
  file = ROOT / 'gin_configs' / 'tasks' / f'{name}.gin'
  gin.parse_config(f"{HEAD}include '{file}'\n{BINDINGS}" + '\n'.join(overrides))
  gin.finalize()
  return gin.get_configurable(consumer)()


def tables(name, **kwargs):
  make, characters = MADE[name]
  task = make(
    vocabulary=vocabularies.CharVocabulary(characters),
    problems=2000,
    **kwargs,
  )
  return {split: pipeline.load(task, split) for split in splits.SPLITS}


@pytest.mark.parametrize('name', MADE)
def test_held_out_prompts_are_new_texts_of_what_was_trained_on(name):
  found = tables(name)
  texts = {
    split: {fields['prompt'] for fields in table.fields}
    for split, table in found.items()
  }
  for one, other in itertools.combinations(texts.values(), 2):
    assert not one & other
  for split in ('validation', 'test'):
    assert len(texts[split]) == len(found[split]) > 50
    kinds = {(f['kind'], f['answer']) for f in found[split].fields}
    assert kinds <= {(f['kind'], f['answer']) for f in found['train'].fields}


@pytest.mark.parametrize('name', MADE)
def test_a_base_model_is_never_shown_a_held_out_prompt(name):
  asked, shown = tables(name), tables(name, rows=toys.shown)
  held_out = {
    fields['prompt']
    for split in ('validation', 'test')
    for fields in asked[split].fields
  }
  # A hint comes behind the prompt: it must not hide it.
  seen = {f['prompt'].split('=')[0] + '=' for f in shown['train'].fields}
  assert not held_out & seen
  assert seen == {f['prompt'] for f in asked['train'].fields}


@pytest.mark.parametrize('name', MADE)
def test_a_task_file_gives_the_task_of_the_library(name):
  task, _, attempt_tokens = configured(name, f'toys.{name}.problems = 2000')
  found = pipeline.load(task, 'test')
  assert found.fields == tables(name)['test'].fields
  gin.clear_config()
  shown, *_ = configured(
    name, f'toys.{name}.problems = 2000', f'toys.{name}.rows = @toys.shown'
  )
  # What a base model learns to write fits an attempt, with its EOS.
  assert attempt_tokens == shown.max_answer_tokens + 1
  assert attempt_tokens > task.max_answer_tokens


@pytest.mark.parametrize('name', MADE)
def test_the_operative_config_of_a_task_file_re_parses(name):
  configured(name)
  operative = gin.operative_config_str()
  gin.clear_config()
  gin.parse_config(operative)
  gin.get_configurable(consumer)()
  assert gin.operative_config_str() == operative
