from __future__ import annotations

import collections
import importlib.util
import itertools
import json
import pathlib

import gin
import pytest

from selfimprove.data import (
  gym,
  gym_process,
  pipeline,
  rows,
  splits,
  vocabularies,
)

ROOT = pathlib.Path(__file__).parents[2]
SUMS = gym.Generator(
  name='chain_sum', parameters={'max_terms': 3, 'max_digits': 1}
)
# It iterates over a set of strings.
ORDERED_BY_HASH = gym.Generator(name='isomorphic_strings')


def task(*generators, **kwargs):
  settings = {
    'vocabulary': vocabularies.ByteVocabulary(),
    'max_prompt_tokens': 512,
    'max_answer_tokens': 64,
    'problems': 200,
    'held_out': 0.2,
  }
  return gym.reasoning_gym(generators=generators, **(settings | kwargs))


def tables(*generators, **kwargs):
  made = task(*generators, **kwargs)
  return {split: pipeline.load(made, split) for split in splits.SPLITS}


def every_row(found):
  return [fields for table in found.values() for fields in table.fields]


@pytest.fixture(scope='module')
def sums():
  return tables(SUMS)


def test_splits_share_no_problem_and_held_out_ones_are_all_different(sums):
  texts = {
    split: [fields['question'] for fields in table.fields]
    for split, table in sums.items()
  }
  for one, other in itertools.combinations(texts.values(), 2):
    assert not set(one) & set(other)
  for split in ('validation', 'test'):
    assert len(set(texts[split])) == len(texts[split]) > 10


def test_answers_are_those_of_the_questions(sums):
  for fields in every_row(sums):
    expression = fields['question'].split(':')[1].rstrip(' =')
    assert int(fields['answer']) == eval(expression)
    assert fields['prompt'] == fields['question']


@pytest.mark.slow
def test_the_same_problems_whatever_the_hash_seed_of_the_run(monkeypatch):
  monkeypatch.setenv('PYTHONHASHSEED', '1')
  one = tables(ORDERED_BY_HASH, problems=20)
  monkeypatch.setenv('PYTHONHASHSEED', '2')
  other = tables(ORDERED_BY_HASH, problems=20)
  for split, table in one.items():
    assert table.fields == other[split].fields


@pytest.mark.slow
def test_seeds_next_to_each_other_share_few_problems():
  generator = gym.Generator(name='chain_sum', parameters={'min_terms': 6})
  one, other = (
    {fields['question'] for fields in every_row(tables(generator, seed=seed))}
    for seed in (0, 1)
  )
  assert len(one) == 200
  assert len(one & other) < 10


def test_several_generators_come_in_proportion_to_their_weights():
  other = gym.Generator(name='spell_backward', weight=3.0)
  found = every_row(tables(SUMS, other, problems=400))
  counts = collections.Counter(fields['generator'] for fields in found)
  # 300 +- 9 of 400; the held-out sums that come twice are missing.
  assert 0.68 < counts['spell_backward'] / sum(counts.values()) < 0.85
  names = [fields['generator'] for fields in found[:40]]
  assert len(set(names)) == 2  # Mixed, not one behind the other.
  assert {(f['part'], f['generator']) for f in found} == {
    (0, 'chain_sum'),
    (1, 'spell_backward'),
  }


def test_a_level_is_that_of_the_curriculum_and_parameters_come_on_top():
  settings = [(0, {}), (3, {}), ({'num_terms': 1}, {}), (3, {'min_terms': 5})]
  found = every_row(
    tables(
      *(
        gym.Generator(name='chain_sum', level=level, parameters=parameters)
        for level, parameters in settings
      ),
      problems=400,
    )
  )
  terms = collections.defaultdict(set)
  for fields in found:
    expression = fields['question'].split(':')[1]
    terms[fields['part']].add(len(expression.split()) // 2)
  assert terms == {0: {2}, 1: {2, 3, 4, 5}, 2: {2, 3}, 3: {5}}


def test_the_texts_around_question_and_answer_are_the_users():
  found = tables(
    SUMS,
    problems=50,
    prompt='{question}\nThink.',
    answer='<answer>{answer}</answer>',
  )
  for fields in every_row(found):
    assert fields['prompt'] == fields['question'] + '\nThink.'
    assert fields['answer'].startswith('<answer>')


def test_a_problem_that_the_vocabulary_cannot_write_is_a_bad_row():
  digits = vocabularies.CharVocabulary('0123456789')
  with pytest.raises(rows.BadRowError, match="character 'S'"):
    pipeline.load(task(SUMS, vocabulary=digits), 'train')


def test_a_problem_without_a_reference_answer_is_a_bad_row():
  puzzle = gym.Generator(name='rush_hour', weight=0.1)
  with pytest.raises(rows.BadRowError, match="'rush_hour' gives none"):
    pipeline.load(task(puzzle, SUMS), 'train')
  found = tables(puzzle, SUMS, on_bad_row=rows.drop)
  (dropped,) = found['train'].dropped.items()
  assert dropped[0] == 'row: no reference answer'
  assert {fields['generator'] for fields in every_row(found)} == {'chain_sum'}


def test_a_problem_that_takes_too_long_is_a_bad_row():
  slow = gym.Generator(name='knight_swap')
  with pytest.raises(rows.BadRowError, match=r'took longer than 0\.001 s'):
    pipeline.load(task(slow, seconds_per_problem=0.001), 'train')


def test_a_generator_that_cannot_be_used_is_refused_in_a_sentence():
  generator = gym.Generator(name='chain_sum', parameters={'min_terms': 9})
  with pytest.raises(
    ValueError, match=r"'chain_sum' cannot .* >= min_terms\.$"
  ):
    pipeline.load(task(generator), 'train')


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'prompt': 'What?'}, r'has no \{question\}'),
    ({'answer': 'That.'}, r'has no \{answer\}'),
    ({'problems': 0}, 'problems=0'),
    ({'held_out': 0.7}, 'held_out=0.7'),
    ({'seed': -1}, 'seed=-1'),
  ],
)
def test_bad_numbers_and_texts_are_refused_at_once(settings, message):
  with pytest.raises(ValueError, match=message):
    task(SUMS, **settings)


def test_a_weight_that_is_no_share_is_refused():
  with pytest.raises(ValueError, match='weight 0'):
    gym.Generator(name='chain_sum', weight=0)


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match=r'pip install .selfimprove\[reasoning'):
    task(SUMS)


def test_a_child_that_ends_early_is_an_error(monkeypatch, tmp_path):
  script = tmp_path / 'child.py'
  script.write_text('raise SystemExit(3)')
  monkeypatch.setattr(gym_process.gym_child, '__file__', str(script))
  with pytest.raises(RuntimeError, match='ended with status 3'):
    pipeline.load(task(SUMS), 'train')


HEAD = (
  'from __gin__ import dynamic_registration\nfrom tests.data import test_gym\n'
)
BINDINGS = (
  'test_gym.consumer.task = %TASK\n'
  'test_gym.consumer.reward = %REWARD\n'
  'test_gym.consumer.attempt_tokens = %ATTEMPT_TOKENS\n'
)


def consumer(*, task, reward, attempt_tokens):
  """Stands for an entry point that is given what a task file defines."""
  assert attempt_tokens == task.max_answer_tokens + 1
  return task, reward


@pytest.mark.slow
def test_the_task_file_gives_the_task_of_the_library(sums):
  file = ROOT / 'gin_configs' / 'tasks' / 'reasoning_gym.gin'
  gin.clear_config()
  try:
    gin.parse_config(
      f"{HEAD}PROMPT_FORM = None\ninclude '{file}'\n{BINDINGS}"
      "PARAMETERS = {'max_terms': 3, 'max_digits': 1}\n"
      'PROBLEMS = 200\n'
    )
    made, reward = gin.get_configurable(consumer)()
    operative = gin.operative_config_str()
    gin.clear_config()
    gin.parse_config(operative)
    gin.get_configurable(consumer)()
    assert gin.operative_config_str() == operative
  finally:
    gin.clear_config()
  questions = {fields['question'] for fields in every_row(sums)}
  found = pipeline.load(made, 'train').fields
  assert {fields['question'] for fields in found} <= questions
  right = [[fields['answer']] for fields in found[:8]]
  assert reward.judge(right, found[:8]).tolist() == [[1.0]] * 8
  wrong = [[f'{fields["answer"]}0'] for fields in found[:8]]
  assert reward.judge(wrong, found[:8]).tolist() == [[0.0]] * 8
  reward.close()


def test_rows_are_plain_json(sums):
  for fields in every_row(sums)[:5]:
    assert json.loads(json.dumps(fields)) == fields
