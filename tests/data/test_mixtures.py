from __future__ import annotations

import collections
import json

import numpy as np
import pytest

from selfimprove.data import (
  filters,
  mixtures,
  pipeline,
  rows,
  selection,
  shares,
  tasks,
  vocabularies,
)
from selfimprove.data.pipeline import PromptStream

BYTES = vocabularies.ByteVocabulary()


@pytest.fixture
def jsonl(tmp_path):
  def made(name, count, *, test=2, **kwargs):
    paths = {}
    for split, size in (('train', count), ('test', test)):
      paths[split] = tmp_path / f'{name}.{split}.jsonl'
      lines = [
        {'prompt': f'{name} {split} {i}', 'answer': f'{i}'} for i in range(size)
      ]
      paths[split].write_text('\n'.join(map(json.dumps, lines)))
    defaults = {'max_prompt_tokens': 24, 'max_answer_tokens': 4}
    return tasks.jsonl(
      **paths, vocabulary=BYTES, name=name, **(defaults | kwargs)
    )

  return made


def stream(task, per_step=6, seed=3):
  table = pipeline.load(task, 'train')
  return PromptStream(table, prompts_per_step=per_step, seed=seed)


def prompts(batches, count, start=0):
  """Prompts and sources of some batches in a row."""
  size = batches.prompts_per_step
  found = []
  for i in range(start, start + count):
    batch = batches.batch(i * size)
    found += batches.references(batch.example_id)
  return [(row['source'], row['prompt']) for row in found]


def test_a_mixture_without_rates_has_every_problem_once_an_epoch(jsonl):
  task = mixtures.mixture(tasks={'a': jsonl('a', 5), 'b': jsonl('b', 13)})
  seen = prompts(stream(task, per_step=6), 3)
  assert len(set(seen)) == 18
  assert collections.Counter(name for name, _ in seen) == {'a': 5, 'b': 13}


def test_every_row_says_which_task_it_came_from(jsonl):
  task = mixtures.mixture(tasks={'x': jsonl('a', 5), 'y': jsonl('b', 3)})
  for split in ('train', 'test'):
    for row in pipeline.load(task, split).fields:
      assert row['source'] == {'a': 'x', 'b': 'y'}[row['prompt'][0]]


def test_rates_are_kept_in_every_stretch_of_prompts(jsonl):
  task = mixtures.mixture(
    tasks={'a': jsonl('a', 9), 'b': jsonl('b', 40), 'c': jsonl('c', 7)},
    rates={'a': 0.5, 'b': 0.3, 'c': 0.2},
  )
  seen = [name for name, _ in prompts(stream(task, per_step=7), 40)]
  for start in range(0, 270, 10):
    count = collections.Counter(seen[start : start + 10])
    assert count == {'a': 5, 'b': 3, 'c': 2}
  for start in range(250):  # Evenly spread: never far from the rate.
    assert 2 <= seen[start : start + 6].count('a') <= 4


def test_every_source_has_epochs_of_its_own(jsonl):
  task = mixtures.mixture(
    tasks={'a': jsonl('a', 4), 'b': jsonl('b', 15)}, rates={'a': 3, 'b': 1}
  )
  seen = prompts(stream(task, per_step=5), 80)
  orders = set()
  for name, size in (('a', 4), ('b', 15)):
    mine = [prompt for source, prompt in seen if source == name]
    for start in range(0, len(mine) - size, size):
      epoch = mine[start : start + size]
      assert len(set(epoch)) == size
      orders.add(tuple(epoch))
  assert len(orders) > 20


@pytest.mark.parametrize('filtered', [False, True])
@pytest.mark.parametrize('rates', [None, {'a': 2, 'b': 1}])
def test_a_stream_goes_on_where_it_was_left_in_any_epoch(
  jsonl, rates, filtered
):
  def fresh():
    task = mixtures.mixture(
      tasks={'a': jsonl('a', 7), 'b': jsonl('b', 11)}, rates=rates
    )
    if filtered:
      task = filters.filtered(task=task, filters=[filters.Length(at_most=9)])
    return stream(task, per_step=4)

  straight = fresh()
  batches = [straight.batch(4 * i) for i in range(40)]
  for start in (0, 3, 17, 39):  # Up to ten epochs of the smaller one.
    again = fresh().batch(4 * start)
    for name in ('tokens', 'mask', 'example_id', 'answer', 'answer_mask'):
      np.testing.assert_array_equal(
        getattr(again, name), getattr(batches[start], name)
      )


def test_a_position_between_batches_is_a_position_too(jsonl):
  task = mixtures.mixture(
    tasks={'a': jsonl('a', 7), 'b': jsonl('b', 11)}, rates={'a': 2, 'b': 1}
  )
  table = pipeline.load(task, 'train')
  ones = PromptStream(table, prompts_per_step=1, seed=1)
  many = PromptStream(table, prompts_per_step=18, seed=1)
  for start in (0, 5, 1000, 10**7):
    singly = [int(ones.batch(start + i).example_id[0]) for i in range(18)]
    assert many.batch(start).example_id.tolist() == singly


def test_no_identity_comes_twice_in_a_run(jsonl):
  task = mixtures.mixture(
    tasks={'a': jsonl('a', 3), 'b': jsonl('b', 11)}, rates={'a': 2, 'b': 1}
  )
  batches = stream(task, per_step=5)
  ids = np.concatenate([batches.batch(5 * i).example_id for i in range(60)])
  assert len(set(ids.tolist())) == 300


def test_one_source_alone_has_the_order_of_its_task(jsonl):
  alone = stream(jsonl('a', 9))
  mixed = stream(mixtures.mixture(tasks={'a': jsonl('a', 9)}, rates={'a': 1}))
  for position in (0, 5, 30):
    np.testing.assert_array_equal(
      alone.batch(position).example_id, mixed.batch(position).example_id
    )


def test_a_stage_that_chooses_problems_keeps_the_rates(jsonl):
  task = mixtures.mixture(
    tasks={'a': jsonl('a', 9), 'b': jsonl('b', 12)}, rates={'a': 1, 'b': 3}
  )
  batches = selection.SelectedStream(
    pipeline.load(task, 'train'),
    keep=lambda fields: int(fields['answer']) % 2 == 0,
    prompts_per_step=4,
  )
  seen = []
  for i in range(20):
    ids = batches.batch(4 * i).example_id
    seen += batches.table.references(ids)
  for start in range(0, 80, 4):
    names = [row['source'] for row in seen[start : start + 4]]
    assert (names.count('a'), names.count('b')) == (1, 3)
  assert {int(row['answer']) % 2 for row in seen} == {0}
  assert len({row['prompt'] for row in seen}) == 5 + 6


def test_a_prompt_of_ones_own_is_read_as_those_of_the_task(jsonl):
  plain, texts = jsonl('a', 9), ['x', 'yz']
  task = filters.filtered(task=mixtures.mixture(tasks={'a': plain}), filters=[])
  for one, other in zip(task.prompt_ids(texts), plain.prompt_ids(texts)):
    np.testing.assert_array_equal(one, other)


def test_a_rate_of_zero_leaves_a_task_to_the_held_out_splits(jsonl):
  task = mixtures.mixture(
    tasks={'a': jsonl('a', 9), 'b': jsonl('b', 5)}, rates={'a': 1, 'b': 0}
  )
  train, test = (pipeline.load(task, split) for split in ('train', 'test'))
  assert {row['source'] for row in train.fields} == {'a'}
  assert [row['source'] for row in test.fields] == ['a', 'a', 'b', 'b']


def test_another_rate_is_another_data_set_for_a_checkpoint(jsonl):
  prints = {
    str(
      pipeline.load(
        mixtures.mixture(
          tasks={'a': jsonl('a', 9), 'b': jsonl('b', 5)}, rates=rates
        ),
        'train',
      ).fingerprint()
    )
    for rates in (None, {'a': 1, 'b': 1}, {'a': 2, 'b': 1}, {'a': 4, 'b': 2})
  }
  assert len(prints) == 3  # The last two are the same.


def test_widths_are_those_of_the_widest_task(jsonl):
  task = mixtures.mixture(
    tasks={
      'a': jsonl('a', 9, max_answer_tokens=6),
      'b': jsonl('b', 5, max_prompt_tokens=30),
    }
  )
  table = pipeline.load(task, 'train')
  assert table.prompt_ids.shape == (14, 30)
  assert table.answer_ids.shape == (14, 6)


def test_rows_left_out_are_counted_by_source(jsonl):
  short = jsonl('b', 12, max_prompt_tokens=9, on_bad_row=rows.drop)
  task = mixtures.mixture(tasks={'a': jsonl('a', 3), 'b': short})
  assert pipeline.load(task, 'train').dropped == {
    'b, prompt: too many tokens': 2
  }


@pytest.mark.parametrize(
  ('rates', 'match'),
  [
    ({'a': 1}, r"tasks \['a', 'b'\] and rates of \['a'\]"),
    ({'a': 1, 'b': -1}, r"rate of 'b' is -1"),
    ({'a': 1, 'b': float('nan')}, "rate of 'b' is nan"),
    ({'a': 0, 'b': 0}, 'are all 0'),
    ({'a': 0.123456, 'b': 0.7654321}, 'round them'),
  ],
)
def test_rates_that_are_none_are_refused_at_once(jsonl, rates, match):
  with pytest.raises(ValueError, match=match):
    mixtures.mixture(
      tasks={'a': jsonl('a', 3), 'b': jsonl('b', 3)}, rates=rates
    )


def test_tasks_that_do_not_go_together_are_refused(jsonl):
  a, b = jsonl('a', 3), jsonl('b', 3)
  with pytest.raises(ValueError, match='another vocabulary'):
    mixtures.mixture(tasks={'a': a, 'b': tasks.answer_first(problems=50)})
  with pytest.raises(ValueError, match='gives the texts'):
    mixtures.mixture(tasks={'a': a, 'b': jsonl('c', 3, extra_tokens={'h': 2})})
  inner = mixtures.mixture(tasks={'b': b}, rates={'b': 1})
  with pytest.raises(ValueError, match='mixture with rates itself'):
    mixtures.mixture(tasks={'a': a, 'b': inner})
  with pytest.raises(ValueError, match='of no tasks'):
    mixtures.mixture(tasks={})


def test_a_field_that_a_row_has_already_is_not_overwritten(tmp_path):
  path = tmp_path / 'x.jsonl'
  lines = [{'prompt': f'{i}', 'answer': 'b', 'source': 'web'} for i in range(9)]
  path.write_text('\n'.join(map(json.dumps, lines)))
  task = tasks.jsonl(
    train=path,
    vocabulary=BYTES,
    max_prompt_tokens=4,
    max_answer_tokens=4,
    held_out=0.01,
  )
  with pytest.raises(ValueError, match=r"'source' of its own \('web'\)"):
    pipeline.load(mixtures.mixture(tasks={'a': task}), 'train')
  other = mixtures.mixture(tasks={'a': task}, field='task')
  row = pipeline.load(other, 'train').fields[0]
  assert (row['source'], row['task']) == ('web', 'a')


def test_an_unknown_split_is_named_with_those_there_are(jsonl):
  task = mixtures.mixture(tasks={'a': jsonl('a', 3)})
  with pytest.raises(ValueError, match=r"split 'dev'; choose one of train, te"):
    pipeline.load(task, 'dev')


def test_the_slots_of_a_cycle_are_evenly_spread():
  parts = [shares.Share('a', 0, 5, 3), shares.Share('b', 5, 5, 1)]
  assert shares.slots(parts).tolist() == [0, 0, 1, 0]
  share, visit = shares.visits(shares.slots(parts), 3, 6)
  assert share.tolist() == [0, 0, 0, 1, 0, 0]
  assert visit.tolist() == [2, 3, 4, 1, 5, 6]


def test_a_source_with_a_rate_and_no_problem_is_refused(jsonl):
  task = filters.filtered(
    task=mixtures.mixture(
      tasks={'a': jsonl('a', 6), 'b': jsonl('a_long_name', 6)},
      rates={'a': 1, 'b': 1},
    ),
    filters=[filters.Length(at_most=12)],
  )
  with pytest.raises(ValueError, match="is left of 'b', which the mixture has"):
    pipeline.load(task, 'train')
  assert pipeline.load(task, 'test').shares == ()
