from __future__ import annotations

import json

import numpy as np
import pytest

from selfimprove.data import (
  catalogue,
  pipeline,
  published,
  rows,
  sources,
  vocabularies,
)
from tests.data import published_files as files

BYTES = vocabularies.ByteVocabulary()


def task(dataset, folder, **kwargs):
  defaults = {
    'vocabulary': BYTES,
    'max_prompt_tokens': 512,
    'max_answer_tokens': 256,
  }
  return published.task(dataset=dataset, folder=folder, **(defaults | kwargs))


def tables(found, *splits):
  return [pipeline.load(found, split) for split in splits or found.splits]


def field(table, name):
  return [fields[name] for fields in table.fields]


def decoded(ids, mask):
  return vocabularies.decode(ids[mask], vocabulary=BYTES)


@pytest.fixture
def gsm8k(tmp_path):
  files.write(tmp_path / 'train.jsonl', files.gsm8k(60))
  files.write(tmp_path / 'test.jsonl', files.gsm8k(10, first=100))
  return tmp_path


def test_gsm8k_from_github(gsm8k):
  train, validation, test = tables(task('gsm8k', gsm8k, held_out=0.2))
  assert len(train) + len(validation) == 60
  assert 4 < len(validation) < 24
  assert field(test, 'answer') == [str(i) for i in range(1100, 1110)]
  assert test.fields[0] == {
    **files.gsm8k(1, first=100)[0],
    'problem': 'Ann has 100 clips and buys 1000 more. How many are there?',
    'prompt': 'Ann has 100 clips and buys 1000 more. How many are there?',
    'answer': '1100',
    'final_answer': '1100',
    'solution': files.gsm8k(1, first=100)[0]['answer'],
  }
  assert decoded(test.answer_ids[3], test.answer_mask[3]) == '1103'
  assert decoded(test.prompt_ids[3], test.prompt_mask[3]).startswith('Ann has')


def test_gsm8k_from_the_hub_is_the_same(gsm8k, tmp_path):
  for split, found in (('train', (60, 0)), ('test', (10, 100))):
    path = tmp_path / f'hub/main/{split}-00000-of-00001.parquet'
    files.write(path, files.gsm8k(found[0], first=found[1]))
  hub = tables(task('gsm8k', tmp_path / 'hub'))
  for one, other in zip(hub, tables(task('gsm8k', gsm8k)), strict=True):
    assert one.fields == other.fields
    np.testing.assert_array_equal(one.prompt_ids, other.prompt_ids)


def prepare_with_tfds(folder, splits):
  """Writes what `tfds build gsm8k` leaves behind."""
  import tensorflow_datasets as tfds

  folder.mkdir(parents=True)
  names = ('question', 'answer', 'annotation', 'short_answer')
  identity = tfds.core.dataset_info.DatasetIdentity(
    name='gsm8k',
    version=tfds.core.Version('1.0.0'),
    data_dir=str(folder),
    module_name='',
  )
  info = tfds.core.DatasetInfo(
    builder=identity,
    features=tfds.features.FeaturesDict(
      {name: tfds.features.Text() for name in names}
    ),
  )
  writer = tfds.core.SequentialWriter(info, max_examples_per_shard=25)
  writer.initialize_splits(list(splits))
  for split, found in splits.items():
    rows = [{'annotation': '', 'short_answer': '', **row} for row in found]
    writer.add_examples({split: rows})
  writer.close_all()


def test_gsm8k_as_tfds_prepares_it(gsm8k, tmp_path):
  prepare_with_tfds(
    tmp_path / 'tfds/gsm8k/1.0.0',
    {'train': files.gsm8k(60), 'test': files.gsm8k(10, first=100)},
  )
  from_tfds = tables(task('gsm8k', tmp_path / 'tfds/gsm8k'))
  for one, other in zip(from_tfds, tables(task('gsm8k', gsm8k)), strict=True):
    assert field(one, 'answer') == field(other, 'answer')
    np.testing.assert_array_equal(one.prompt_ids, other.prompt_ids)
  assert from_tfds[0].fields[0]['annotation'] == ''
  broken = next((tmp_path / 'tfds/gsm8k/1.0.0').glob('*test*tfrecord*'))
  broken.write_bytes(broken.read_bytes()[:-9])
  with pytest.raises(ValueError, match=r"Split 'test' of .* prepare the data"):
    tables(task('gsm8k', tmp_path / 'tfds/gsm8k'))


def test_math_as_the_500_problem_split_publishes_it(tmp_path):
  files.write(tmp_path / 'train.jsonl', files.math_500(120))
  files.write(tmp_path / 'test.jsonl', files.math_500(5, first=500))
  train, validation, test = tables(task('math', tmp_path))
  assert len(train) + len(validation) == 120
  assert field(test, 'answer') == [
    f'\\frac{{{i}}}{{7}}' for i in range(500, 505)
  ]
  assert test.fields[1]['unique_id'] == 'test/prealgebra/501.json'
  assert test.fields[1]['level'] == 2


@pytest.mark.parametrize('layout', ['hub', 'archive'])
def test_the_tested_problems_are_taken_out_of_all_of_math(tmp_path, layout):
  every = files.math(75) + files.math(50, first=100)
  if layout == 'hub':
    hub = tmp_path / 'algebra'
    files.write(hub / 'train-00000-of-00001.parquet', every[:75])
    files.write(hub / 'test-00000-of-00001.parquet', every[75:])
  else:
    for i, row in enumerate(every):
      split = 'train' if i < 75 else 'test'
      files.write(tmp_path / f'MATH/{split}/algebra/{i}.json', [row])
  files.write(tmp_path / 'test.jsonl', files.math_500(5, first=120))
  train, validation, test = tables(task('math', tmp_path))
  assert len(test) == 5
  # As 7,500 + 5,000 - 500 = 12,000.
  assert len(train) + len(validation) == 75 + 50 - 5
  assert train.dropped == {'problem: also in test': 5}
  assert not set(field(train, 'problem')) & set(field(test, 'problem'))
  assert field(train, 'answer')[1].startswith('\\frac{')


@pytest.mark.parametrize(
  ('row', 'answer'),
  [
    ({'problem': 'a', 'answer': '033'}, '33'),
    ({'problem': 'a', 'answer': 142.0}, '142'),
    ({'ID': '2024-I-1', 'Problem': 'a', 'Answer': 204}, '204'),
    ({'question': 'a', 'answer': '7'}, '7'),
    ({'problem': 'a', 'answer': -3, 'solution': ' '}, '-3'),
  ],
)
def test_answers_of_aime_are_whole_numbers(tmp_path, row, answer):
  files.write(tmp_path / 'aime.jsonl', [row])
  (test,) = tables(task('aime', tmp_path))
  assert field(test, 'answer') == [answer]
  assert field(test, 'problem') == ['a']


def test_humaneval_keeps_what_its_tests_need(tmp_path):
  wanted = files.humaneval(4)
  files.write(tmp_path / 'HumanEval.jsonl.gz', wanted)
  found = task('humaneval', tmp_path)
  assert found.splits == ('test',)
  (test,) = tables(found)
  for row, fields in zip(wanted, test.fields, strict=True):
    assert row.items() <= fields.items()
    assert fields['answer'] == row['canonical_solution']
  assert decoded(test.prompt_ids[2], test.prompt_mask[2]) == wanted[2]['prompt']
  assert (
    decoded(test.answer_ids[2], test.answer_mask[2]) == '    return x + 2\n'
  )


NUMBERS = [1, 10, 11, 510, 511, 600, 601, 974]


@pytest.mark.parametrize('layout', ['mbpp.jsonl', 'full/all.parquet'])
def test_mbpp_is_split_by_number(tmp_path, layout):
  files.write(tmp_path / layout, files.mbpp(NUMBERS))
  found = task('mbpp', tmp_path)
  got = {s: field(pipeline.load(found, s), 'task_id') for s in found.splits}
  assert got == {
    'train': [601, 974],
    'validation': [511, 600],
    'test': [11, 510],
    'prompt': [1, 10],
  }


def test_mbpp_shows_its_tests(tmp_path):
  files.write(tmp_path / 'mbpp.jsonl', files.mbpp(NUMBERS))
  fields = pipeline.load(task('mbpp', tmp_path), 'test').fields[0]
  assert fields['problem'] == 'Write a function to add 11.'
  assert fields['prompt'] == (
    'Write a function to add 11.\nThe program has to pass these tests:\n'
    'assert add(1) == 12\nassert add(0) == 11'
  )
  assert fields['answer'] == 'def add(x):\n  return x + 11'
  assert fields['test_list'] == ['assert add(1) == 12', 'assert add(0) == 11']


def test_the_sanitized_edition_of_mbpp_is_read_as_well(tmp_path):
  found = [
    {
      'task_id': row['task_id'],
      'prompt': row['text'],
      'code': row['code'],
      'test_imports': ['import math'],
      'test_list': row['test_list'],
    }
    for row in files.mbpp(NUMBERS)
  ]
  files.write(tmp_path / 'sanitized-mbpp.json', found)
  fields = pipeline.load(task('mbpp', tmp_path), 'train').fields[0]
  assert fields['problem'] == 'Write a function to add 601.'
  assert fields['test_setup_code'] == 'import math'


def test_solutions_can_be_what_is_imitated(gsm8k):
  found = task('gsm8k', gsm8k, imitated='solution')
  test = pipeline.load(found, 'test')
  row = files.gsm8k(1, first=100)[0]
  assert decoded(test.answer_ids[0], test.answer_mask[0]) == row['answer']
  assert test.fields[0]['answer'] == row['answer']
  assert test.fields[0]['final_answer'] == '1100'


def test_a_template_stands_around_prompts_and_changes_no_split(gsm8k):
  plain = tables(task('gsm8k', gsm8k))
  other = tables(task('gsm8k', gsm8k, template='Question: {prompt}\nAnswer:'))
  for one, two in zip(plain, other, strict=True):
    assert field(one, 'problem') == field(two, 'problem')
    assert two.fields[0]['prompt'] == (
      f'Question: {one.fields[0]["prompt"]}\nAnswer:'
    )
  shown = decoded(other[0].prompt_ids[0], other[0].prompt_mask[0])
  assert shown == other[0].fields[0]['prompt']


@pytest.mark.parametrize('dataset', sorted(catalogue.DATA_SETS))
def test_missing_data_comes_with_the_command_that_fetches_it(tmp_path, dataset):
  with pytest.raises(FileNotFoundError) as caught:
    task(dataset, tmp_path / 'gone')
  message = str(caught.value)
  assert f'`{catalogue.DATA_SETS[dataset].fetch}`' in message
  assert f'data/{dataset}' in message
  assert '\n' not in message


def test_files_can_be_named_in_place_of_a_layout(gsm8k, tmp_path):
  files.write(tmp_path / 'mine/a.jsonl', files.gsm8k(3, first=300))
  files.write(tmp_path / 'mine/b.parquet', files.gsm8k(3, first=200))
  found = task(
    'gsm8k',
    gsm8k,
    files={'test': [str(tmp_path / 'mine/*.jsonl'), 'mine/b.parquet']},
  )
  assert found.splits == ('test',)
  assert field(pipeline.load(found, 'test'), 'answer') == [
    *('1300', '1301', '1302'),
    *('1200', '1201', '1202'),
  ]
  only = task('gsm8k', gsm8k, files={'train': 'train.jsonl'}, held_out=0.2)
  assert sum(map(len, tables(only, 'train', 'validation', 'test'))) == 60
  with pytest.raises(FileNotFoundError, match=r'looked for gone\.jsonl'):
    task('gsm8k', gsm8k, files={'test': 'gone.jsonl'})


BAD = [
  ('gsm8k', {'question': 'a'}, 'answer', 'missing'),
  ('gsm8k', {'question': 'a', 'answer': 'it is 7'}, 'answer', 'no answer'),
  ('gsm8k', {'question': '', 'answer': '#### 7'}, 'question', 'empty'),
  ('math', {'problem': 'a', 'solution': '7'}, 'solution', 'no answer'),
  (
    'math',
    {'problem': 'a', 'solution': r'\boxed{7'},
    'solution',
    'no answer',
  ),
  ('math', {'problem': 3, 'solution': r'\boxed{7}'}, 'problem', 'not a string'),
  ('aime', {'problem': 'a', 'answer': '1/2'}, 'answer', 'no answer'),
  ('aime', {'problem': 'a', 'answer': True}, 'answer', 'no answer'),
  ('aime', {'problem': 'a', 'answer': '9' * 5000}, 'answer', 'no answer'),
  ('aime', {'problem': 'a'}, 'answer', 'missing'),
  (
    'humaneval',
    {k: v for k, v in files.humaneval(1)[0].items() if k != 'test'},
    'test',
    'missing',
  ),
  ('mbpp', {**files.mbpp([5])[0], 'test_list': []}, 'test_list', 'no answer'),
  ('mbpp', {**files.mbpp([5])[0], 'task_id': 975}, 'task_id', 'no split'),
  ('mbpp', {**files.mbpp([5])[0], 'task_id': '11'}, 'task_id', 'no split'),
]
GOOD = {
  'gsm8k': files.gsm8k(3),
  'math': files.math_500(3),
  'aime': [{'problem': 'b', 'answer': 1}],
  'humaneval': files.humaneval(2),
  'mbpp': files.mbpp(NUMBERS),
}


@pytest.mark.parametrize(('dataset', 'row', 'name', 'rule'), BAD)
def test_a_malformed_row_is_refused_or_counted(
  tmp_path, dataset, row, name, rule
):
  path = files.write(tmp_path / 'x.jsonl', [*GOOD[dataset], row])
  key = '*' if dataset == 'mbpp' else 'test'
  how = {'files': {key: str(path)}}
  with pytest.raises(rows.BadRowError) as caught:
    pipeline.load(task(dataset, tmp_path, **how), 'test')
  line = len(GOOD[dataset]) + 1
  assert str(caught.value).startswith(f'{path}, line {line}, field {name!r}: ')
  table = pipeline.load(
    task(dataset, tmp_path, on_bad_row=rows.drop, **how), 'test'
  )
  assert table.dropped == {f'{name}: {rule}': 1}


@pytest.mark.parametrize(
  ('name', 'content', 'match'),
  [
    ('a.parquet', b'PAR1 and no more', 'no whole Parquet file'),
    ('a.json', b'{"question": 1}\n{', r'name it \.jsonl'),
    ('a.json', b'7', 'holds a JSON int'),
    ('a.jsonl.gz', b'not gzip', 'no whole gzip file'),
    (
      'a.jsonl',
      b'version https://git-lfs.github.com/spec/v1\n',
      'git lfs pull',
    ),
    ('a.jsonl', b'<html>not found</html>', 'is not JSON'),
  ],
)
def test_a_file_that_is_not_the_data_is_one_sentence(
  tmp_path, name, content, match
):
  (tmp_path / name).write_bytes(content)
  found = task('gsm8k', tmp_path, files={'test': name})
  with pytest.raises(ValueError, match=match) as caught:
    pipeline.load(found, 'test')
  assert '\n' not in str(caught.value)
  assert str(tmp_path / name) in str(caught.value)


def test_half_a_parquet_file_is_refused(tmp_path):
  path = files.write(tmp_path / 'a.parquet', files.gsm8k(50))
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match='no whole Parquet file'):
    list(sources.read(str(path)))


def test_what_json_cannot_hold_becomes_text(tmp_path):
  import datetime
  import decimal

  row = {
    **files.gsm8k(1)[0],
    'day': datetime.date(2024, 2, 29),
    'price': decimal.Decimal('1.50'),
    'raw': b'\xff',
    'nested': [{'x': (1, None)}],
  }
  files.write(tmp_path / 'a.parquet', [row])
  found = task('gsm8k', tmp_path, files={'test': 'a.parquet'})
  fields = pipeline.load(found, 'test').fields[0]
  assert (fields['day'], fields['price']) == ('2024-02-29', '1.50')
  assert json.loads(json.dumps(fields)) == fields


@pytest.mark.parametrize('limit', ['max_prompt_tokens', 'max_answer_tokens'])
@pytest.mark.parametrize('dataset', sorted(catalogue.DATA_SETS))
def test_what_is_too_long_is_refused_or_counted_and_never_cut(
  tmp_path, dataset, limit
):
  long = {
    'gsm8k': {'question': 'a' * 600, 'answer': f'#### {"1" * 300}'},
    'math': {'problem': 'a' * 600, 'solution': f'\\boxed{{{"1" * 300}}}'},
    'aime': {'problem': 'a' * 600, 'answer': '1' * 50},
    'humaneval': {
      **files.humaneval(1)[0],
      'prompt': '#' * 600,
      'canonical_solution': '#' * 300,
    },
    'mbpp': {**files.mbpp([20])[0], 'text': 'a' * 600, 'code': '#' * 300},
  }[dataset]
  path = files.write(tmp_path / 'x.jsonl', [*GOOD[dataset], long])
  limits = {'max_prompt_tokens': 2000, 'max_answer_tokens': 2000}
  limits[limit] = {'max_prompt_tokens': 500, 'max_answer_tokens': 40}[limit]
  how = {
    'files': {'*' if dataset == 'mbpp' else 'test': str(path)},
    **limits,
  }
  with pytest.raises(rows.BadRowError, match=f'are more than {limit}='):
    pipeline.load(task(dataset, tmp_path, **how), 'test')
  table = pipeline.load(
    task(dataset, tmp_path, on_bad_row=rows.drop, **how), 'test'
  )
  part = limit.split('_')[1]
  assert table.dropped == {f'{part}: too many tokens': 1}
  sentence = pipeline.left_out(table, split='test')
  assert sentence.endswith(f'left out: 1 ({part}: too many tokens: 1).')


def test_an_unknown_name_comes_with_its_nearest(tmp_path):
  with pytest.raises(ValueError, match=r"'gsm8' \(did you mean 'gsm8k'\?\)"):
    task('gsm8', tmp_path)


@pytest.mark.parametrize(
  ('wrong', 'match'),
  [
    ({'template': 'Solve it.'}, 'shows no problem'),
    ({'imitated': 'both'}, "use 'answer' or 'solution'"),
    ({'held_out': 0.5}, 'leaves a split empty'),
    ({'max_prompt_tokens': 0}, 'leaves no room'),
  ],
)
def test_an_argument_out_of_range_is_refused_at_once(gsm8k, wrong, match):
  with pytest.raises(ValueError, match=match):
    task('gsm8k', gsm8k, **wrong)


def test_most_of_the_tested_problems_in_train_and_not_all_is_refused(tmp_path):
  whole = files.math_500(20)
  files.write(tmp_path / 'train.jsonl', whole)
  files.write(tmp_path / 'test.jsonl', whole[:5])
  (train,) = tables(task('math', tmp_path), 'train')
  assert train.dropped == {'problem: also in test': 5}
  whole[3] = whole[3] | {'problem': whole[3]['problem'] + ' Say it.'}
  files.write(tmp_path / 'train.jsonl', whole)
  with pytest.raises(ValueError, match='4 of 5 test problems are among those'):
    tables(task('math', tmp_path))
