from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from selfimprove.data import pipeline, splits, sums, tasks, vocabularies
from selfimprove.data.tensorflow_host import seqio

SPLITS = splits.SPLITS
# Of all prompts and answers, split by split.
GOLDEN = '177779cec70ccef2cd048b4222edcb1decb41243cdcb4595cf907ca1e30ecf6b'


def tables(**kwargs):
  task = tasks.answer_first(**kwargs)
  return {split: pipeline.load(task, split) for split in SPLITS}


@pytest.fixture(scope='module')
def some_tables():
  return tables(problems=8192)


def prompts(table):
  return {fields['prompt'] for fields in table.fields}


def test_no_two_splits_share_a_problem(some_tables):
  for one, other in itertools.combinations(some_tables.values(), 2):
    assert not prompts(one) & prompts(other)


def test_held_out_problems_are_all_different(some_tables):
  for split in ('validation', 'test'):
    table = some_tables[split]
    assert len(prompts(table)) == len(table)
    assert table.dropped == {}


def test_training_problems_come_as_often_as_they_were_drawn(some_tables):
  train = [fields['prompt'] for fields in some_tables['train'].fields]
  drawn = sums.draw(operands=6, problems=8192, zeros=0.6, seed=0)
  kept = [p for p in drawn if splits.split_of(p, held_out=1 / 16) == 'train']
  assert train == kept
  assert len(set(train)) < len(train)


def test_ids_are_those_of_the_text(some_tables):
  table = some_tables['test']
  for row in range(0, len(table), 97):
    fields = table.fields[row]
    assert fields['answer'] == sums.answer_to(fields['prompt'])
    for column, name in (
      (table.prompt_ids, 'prompt'),
      (table.answer_ids, 'answer'),
    ):
      ids = vocabularies.encode(fields[name], vocabulary=tasks.DIGITS)
      np.testing.assert_array_equal(column[row], ids)
  assert table.prompt_mask.all()
  assert table.answer_mask.all()


@pytest.mark.slow
def test_the_default_tables_are_part_of_the_format():
  # Written down once: the same problems in the same order in every process.
  digest, default = hashlib.sha256(), tables()
  for split in SPLITS:
    digest.update(default[split].prompt_ids.tobytes())
    digest.update(default[split].answer_ids.tobytes())
  assert digest.hexdigest() == GOLDEN
  # Large enough to decide.
  assert min(len(default[split]) for split in SPLITS[1:]) >= 1024


def test_neither_seed_nor_size_moves_a_problem_to_another_split(some_tables):
  other = tables(seed=5, problems=4000)
  shared = 0
  for split, elsewhere in itertools.permutations(SPLITS, 2):
    assert not prompts(other[split]) & prompts(some_tables[elsewhere])
    shared += len(prompts(other[split]) & prompts(some_tables[split]))
  assert shared > 0


def test_another_number_of_operands_has_its_own_width():
  task = tasks.answer_first(operands=4, problems=500)
  assert pipeline.load(task, 'train').prompt_ids.shape[1] == 5
  assert task.max_prompt_tokens == 5


def test_bytes_can_write_the_default_task():
  task = tasks.answer_first(
    problems=200, vocabulary=vocabularies.ByteVocabulary()
  )
  ids = pipeline.load(task, 'train').answer_ids
  assert ids.min() >= 3 + ord('0')
  assert ids.max() <= 3 + ord('9')


def test_a_vocabulary_that_lacks_a_digit_is_refused():
  with pytest.raises(ValueError, match="character '9'"):
    tasks.answer_first(vocabulary=vocabularies.CharVocabulary('012345678='))


def test_the_provider_can_be_registered_with_seqio():
  task = tasks.answer_first(problems=200)
  seqio.TaskRegistry.add_provider('test_answer_first', task.provider)
  try:
    found = tasks.registered(
      name='test_answer_first',
      prompt_field='prompt',
      answer_field='answer',
      vocabulary=tasks.DIGITS,
      max_prompt_tokens=7,
      max_answer_tokens=6,
    )
  finally:
    seqio.TaskRegistry.remove('test_answer_first')
  assert (
    pipeline.load(found, 'train').fields == pipeline.load(task, 'train').fields
  )


def test_an_unknown_split_is_named_with_those_there_are():
  with pytest.raises(
    ValueError, match=r'no split .dev.; choose one of train, validation, test'
  ):
    pipeline.load(tasks.answer_first(problems=10), 'dev')


def test_an_empty_split_is_refused():
  task = tasks.answer_first(problems=1)
  empty = next(
    s
    for s in SPLITS
    if s
    != splits.split_of(
      sums.draw(operands=6, problems=1, zeros=0.6, seed=0)[0], held_out=1 / 16
    )
  )
  with pytest.raises(ValueError, match=r'has no row .*give the task more'):
    pipeline.load(task, empty)
