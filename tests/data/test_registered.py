from __future__ import annotations

import numpy as np
import pytest

from selfimprove.data import pipeline, rows, tasks, vocabularies
from selfimprove.data.tensorflow_host import seqio, tf

LETTERS = vocabularies.CharVocabulary('abcdefghij0123456789 +=')
TEXT = seqio.Feature(LETTERS, add_eos=False)
WITH_EOS = seqio.Feature(LETTERS, add_eos=True)


def split_columns(dataset):
  """The seqio way to read a text file: tab-separated columns to features."""

  def columns(line):
    inputs, targets, level = tf.unstack(tf.strings.split(line, '\t'), num=3)
    return {
      'inputs': inputs,
      'targets': targets,
      'level': tf.strings.to_number(level, tf.int32),
      'words': tf.strings.split(inputs, '+'),
    }

  return dataset.map(columns)


@pytest.fixture
def add():
  """Registers a task or mixture, and forgets it after the test."""
  names = []

  def added(name, **kwargs):
    registry = (
      seqio.MixtureRegistry if 'tasks' in kwargs else seqio.TaskRegistry
    )
    registry.add(name, **kwargs)
    names.append((registry, name))
    return name

  yield added
  for registry, name in names:
    registry.remove(name)


@pytest.fixture
def text_file(tmp_path):
  path = tmp_path / 'sums.tsv'
  lines = [f'{i}+a=\tb{i}\t{i % 3}' for i in range(40)]
  path.write_text('\n'.join(lines))
  return str(path)


@pytest.fixture
def tokenized(add, text_file):
  return add(
    'test_tokenized',
    source=seqio.TextLineDataSource({'train': text_file}),
    preprocessors=[
      split_columns,
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos,
    ],
    output_features={'inputs': TEXT, 'targets': WITH_EOS},
  )


def registered(name, **kwargs):
  defaults = {
    'vocabulary': LETTERS,
    'max_prompt_tokens': 6,
    'max_answer_tokens': 4,
  }
  return tasks.registered(name=name, **(defaults | kwargs))


def function_source(**columns):
  """A source whose function takes no seed, as most do."""

  def dataset(split, shuffle_files):
    return tf.data.Dataset.from_tensor_slices(columns)

  return seqio.FunctionDataSource(dataset, splits=['train'])


def test_a_tokenized_task_gives_ids_without_eos_and_its_text(tokenized):
  table = pipeline.load(registered(tokenized), 'train')
  assert len(table) == 40
  np.testing.assert_array_equal(
    table.prompt_ids[7],
    [0, 0, *vocabularies.encode('7+a=', vocabulary=LETTERS)],
  )
  np.testing.assert_array_equal(
    table.answer_ids[17],
    [*vocabularies.encode('b17', vocabulary=LETTERS), 0],
  )
  assert table.answer_mask[17].tolist() == [True] * 3 + [False]


def test_other_features_become_plain_fields(tokenized):
  table = pipeline.load(registered(tokenized), 'train')
  assert table.fields[17] == {
    'prompt': '17+a=',
    'answer': 'b17',
    'level': 2,
    'words': ['17', 'a='],
  }


def test_a_text_feature_is_encoded_here(add):
  plain = seqio.Feature(seqio.PassThroughVocabulary(1), rank=0, dtype=tf.string)
  name = add(
    'test_plain',
    source=function_source(q=['a+b=', 'c='], a=['ab', 'c']),
    output_features={'q': plain, 'a': plain},
  )
  table = pipeline.load(
    registered(name, prompt_field='q', answer_field='a'), 'train'
  )
  assert table.fields == (
    {'prompt': 'a+b=', 'answer': 'ab'},
    {'prompt': 'c=', 'answer': 'c'},
  )
  assert table.prompt_mask.sum(axis=1).tolist() == [4, 2]


def test_ids_without_their_text_are_decoded(add):
  ids = vocabularies.encode('a+b=', vocabulary=LETTERS)
  name = add(
    'test_ids',
    source=function_source(
      inputs=[[*ids, 1, 0, 0]], targets=np.asarray([[4, 5, 0, 0]], np.int32)
    ),
    output_features={'inputs': TEXT, 'targets': TEXT},
  )
  table = pipeline.load(registered(name), 'train')
  assert table.fields == ({'prompt': 'a+b=', 'answer': 'bc'},)


def test_preprocessors_that_draw_numbers_draw_the_same_ones_again(add):
  @seqio.map_over_dataset(num_seeds=1)
  def renamed(example, seed):
    letter = tf.random.stateless_uniform([], seed, 0, 9, tf.int32)
    return example | {'inputs': tf.strings.as_string(letter) + '+'}

  name = add(
    'test_random',
    source=function_source(inputs=['x'] * 30, targets=['a'] * 30),
    preprocessors=[renamed, seqio.preprocessors.tokenize],
    output_features={'inputs': TEXT, 'targets': TEXT},
  )
  loaded = [pipeline.load(registered(name), 'train') for _ in range(2)]
  assert loaded[0].fields == loaded[1].fields
  assert len({f['prompt'] for f in loaded[0].fields}) > 3


def test_a_mixture_is_read_by_name(add, tokenized):
  name = add('test_mixture', tasks=[tokenized], default_rate=1)
  table = pipeline.load(registered(name), 'train')
  assert len(table) == 40
  assert table.fields[3]['prompt'] == '3+a='


def test_a_bad_row_is_named_by_task_split_and_row(tokenized):
  with pytest.raises(
    rows.BadRowError,
    match=r"task 'test_tokenized', split 'train', row 10, field 'inputs': "
    r'5 tokens are more than max_prompt_tokens=4; shorten it or raise',
  ):
    pipeline.load(registered(tokenized, max_prompt_tokens=4), 'train')


def test_bad_rows_can_be_dropped_and_are_counted(tokenized):
  task = registered(tokenized, max_prompt_tokens=4, on_bad_row=rows.drop)
  table = pipeline.load(task, 'train')
  assert len(table) == 10
  assert table.dropped == {'inputs: too many tokens': 30}


def test_bytes_that_are_no_text_are_a_bad_row(add):
  plain = seqio.Feature(seqio.PassThroughVocabulary(1), rank=0, dtype=tf.string)
  name = add(
    'test_binary',
    source=function_source(inputs=[b'a\xff'], targets=['a']),
    output_features={'inputs': plain, 'targets': plain},
  )
  task = registered(name, vocabulary=vocabularies.ByteVocabulary())
  with pytest.raises(rows.BadRowError, match=r'row 0.*not in ByteVocabulary'):
    pipeline.load(task, 'train')


def test_a_feature_that_is_not_there_is_named_with_those_there_are(tokenized):
  task = registered(tokenized, answer_field='answer')
  with pytest.raises(
    rows.BadRowError, match=r"'answer': is missing; .*'level'"
  ):
    pipeline.load(task, 'train')


def test_a_feature_in_another_vocabulary_is_refused(tokenized):
  with pytest.raises(ValueError, match='tokenized with another vocabulary'):
    registered(tokenized, vocabulary=vocabularies.ByteVocabulary())


def test_an_unknown_name_comes_with_its_nearest(tokenized):
  with pytest.raises(ValueError, match=r"'test_tokenize' \(nearest: .*ized"):
    registered('test_tokenize')
