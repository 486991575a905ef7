from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from selfimprove.data import pipeline, rows, splits, tasks, vocabularies
from selfimprove.data.rows import BadRowError

LETTERS = vocabularies.CharVocabulary('abcdefghij0123456789 +=')


@pytest.fixture
def write(tmp_path):
  def written(*lines, name='train.jsonl'):
    path = tmp_path / name
    path.write_bytes(
      b'\n'.join(
        line if isinstance(line, bytes) else json.dumps(line).encode()
        for line in lines
      )
    )
    return str(path)

  return written


def task(train, **kwargs):
  defaults = {
    'vocabulary': LETTERS,
    'max_prompt_tokens': 8,
    'max_answer_tokens': 4,
  }
  return tasks.jsonl(train=train, **(defaults | kwargs))


def good(index=0, **extra):
  return {'prompt': f'{index}+a=', 'answer': 'b', **extra}


def in_splits(found, wanted=splits.SPLITS):
  return {split: pipeline.load(found, split) for split in wanted}


# A line, and the field, rule and fix that its error must name.
BAD = [
  (b'{"prompt": "a"', None, 'not JSON', 'write one JSON object a line'),
  (b'{"n": ' + b'1' * 5000 + b'}', None, 'not JSON', '(ValueError)'),
  (b'[' * 100_000, None, 'not JSON', '(RecursionError)'),
  (b'[1, 2]', None, 'not an object', 'is a JSON list, not an object; write'),
  (b'"a"', None, 'not an object', 'is a JSON str, not an object; write'),
  (b'\xff\xfe{', None, 'not UTF-8', 'save the file as UTF-8'),
  ({'prompt': 'a'}, 'answer', 'missing', "has ['prompt'], add it or rename"),
  ({'answer': 'a'}, 'prompt', 'missing', "has ['answer'], add it or rename"),
  ({'prompt': 'a', 'answer': 7}, 'answer', 'not a string', 'put it in quotes'),
  (
    {'prompt': ['a'], 'answer': 'a'},
    'prompt',
    'not a string',
    'put it in quotes',
  ),
  (
    {'prompt': None, 'answer': 'a'},
    'prompt',
    'not a string',
    'put it in quotes',
  ),
  ({'prompt': '', 'answer': 'a'}, 'prompt', 'empty', 'or remove the row'),
  ({'prompt': 'a', 'answer': ' '}, 'answer', 'empty', 'or remove the row'),
  (
    {'prompt': 'aZ', 'answer': 'a'},
    'prompt',
    'unknown character',
    "character 'Z' (U+005A) of 'aZ' is not in CharVocabulary(",
  ),
  (
    {'prompt': 'a', 'answer': 'a\n'},
    'answer',
    'unknown character',
    'add it to the vocabulary or take it out of the text',
  ),
  (
    {'prompt': 'a' * 9, 'answer': 'a'},
    'prompt',
    'too many tokens',
    '9 tokens are more than max_prompt_tokens=8; shorten it or raise',
  ),
  (
    {'prompt': 'a', 'answer': 'abcde'},
    'answer',
    'too many tokens',
    '5 tokens are more than max_answer_tokens=4; shorten it or raise',
  ),
]


@pytest.mark.parametrize(('line', 'field', 'rule', 'fix'), BAD)
def test_a_bad_row_is_one_sentence_with_file_line_field_and_fix(
  write, line, field, rule, fix
):
  path = write(good(), b'', line, good(1))
  with pytest.raises(BadRowError) as caught:
    pipeline.load(task(path), 'train')
  message = str(caught.value)
  where = f'{path}, line 3'
  assert message.startswith(f'{where}, field {field!r}: ' if field else where)
  assert fix in message
  assert message.endswith('.')
  assert '\n' not in message


@pytest.mark.parametrize(('line', 'field', 'rule', 'fix'), BAD)
def test_a_dropped_row_is_counted_by_field_and_rule(
  write, line, field, rule, fix
):
  path = write(*(good(i) for i in range(9)), line, line)
  table = pipeline.load(task(path, on_bad_row=rows.drop), 'train')
  assert table.dropped == {f'{field or "row"}: {rule}': 2}


def test_all_kinds_of_bad_rows_are_counted_together(write):
  path = write(*(line for line, *_ in BAD), *(good(i) for i in range(9)))
  table = pipeline.load(task(path, on_bad_row=rows.drop), 'train')
  assert sum(table.dropped.values()) == len(BAD)
  assert table.dropped['prompt: not a string'] == 2


def test_what_happens_to_a_bad_row_can_be_a_function_of_the_user(write):
  seen = []
  path = write(b'nonsense', *(good(i) for i in range(9)))
  pipeline.load(task(path, on_bad_row=seen.append), 'train')
  assert [row.key for row in seen] == ['row: not JSON']


def test_a_file_without_a_good_row_is_refused_even_when_dropping(write):
  path = write(b'nonsense', b'', b'[]')
  with pytest.raises(ValueError, match=r'has no usable row .*not JSON.: 1'):
    pipeline.load(task(path, on_bad_row=rows.drop), 'train')


def test_extra_fields_are_kept_as_they_are(write):
  extras = {
    'level': 3,
    'ratio': 0.1,
    'tags': ['x', {'deep': [None, True]}],
    'solution': 'naïve 漢字\nline',
    'id': 2**70,
  }
  path = write(good(0, **extras), *(good(i, **extras) for i in range(1, 6)))
  table = in_splits(task(path, held_out=0.01), ['train'])['train']
  assert table.fields[0] == {'prompt': '0+a=', 'answer': 'b', **extras}
  assert table.references(np.asarray([0])) == [table.fields[0]]


def test_rows_are_in_file_order(write):
  path = write(*(good(i) for i in range(200)))
  for table in in_splits(task(path)).values():
    numbers = [int(f['prompt'].split('+')[0]) for f in table.fields]
    assert numbers == sorted(numbers)


def test_a_single_file_is_split_by_the_prompt(write):
  lines = [good(i, copy=c) for c in range(2) for i in range(300)]
  found = in_splits(task(write(*lines), held_out=0.2))
  prompts = {s: {f['prompt'] for f in t.fields} for s, t in found.items()}
  for one, other in itertools.combinations(prompts.values(), 2):
    assert not one & other
  # Nothing is lost, and a prompt that stands twice is in one split twice.
  assert sum(map(len, found.values())) == len(lines)
  assert len(found['test']) == 2 * len(prompts['test'])


def test_the_split_of_a_prompt_does_not_depend_on_the_rest_of_the_file(write):
  few = in_splits(task(write(*(good(i) for i in range(300)))))
  many = in_splits(
    task(write(*(good(i) for i in range(399, -1, -1)), name='more.jsonl'))
  )
  for split in splits.SPLITS:
    prompts = [{f['prompt'] for f in t[split].fields} for t in (few, many)]
    assert prompts[0] <= prompts[1]


def test_several_files_are_the_splits(write):
  found = task(
    write(good(1), good(2)), test=write(good(3, x=1), name='test.jsonl')
  )
  assert found.splits == ('train', 'test')
  tables = in_splits(found, found.splits)
  assert [f['prompt'] for f in tables['train'].fields] == ['1+a=', '2+a=']
  assert tables['test'].fields == ({'prompt': '3+a=', 'answer': 'b', 'x': 1},)
  with pytest.raises(ValueError, match=r'no split .validation.; choose one of'):
    pipeline.load(found, 'validation')


def test_dropped_rows_belong_to_the_file_of_their_split(write):
  found = task(
    write(good(1)),
    test=write(good(2), b'nonsense', name='test.jsonl'),
    on_bad_row=rows.drop,
  )
  tables = in_splits(found, found.splits)
  assert tables['train'].dropped == {}
  assert tables['test'].dropped == {'row: not JSON': 1}


def test_a_problem_in_two_files_is_refused_with_both_lines(write):
  train = write(good(1), good(2))
  test = write(good(3), good(4), good(2), name='test.jsonl')
  with pytest.raises(ValueError, match='share a problem') as caught:
    pipeline.load(task(train, test=test, on_bad_row=rows.drop), 'train')
  assert f'{test}, line 3 (test)' in str(caught.value)
  assert f'{train}, line 2 (train)' in str(caught.value)


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_are_fine(write):
  line = json.dumps(good()).encode()
  path = write(b'\xef\xbb\xbf' + line + b'\r', b'  \r', b'')
  found = task(path, validation=write(good(1), name='v.jsonl'))
  assert pipeline.load(found, 'train').fields == (good(),)


def test_text_reaches_the_ids_unchanged(write):
  text = 'naïve 漢字\x00'
  path = write({'prompt': text, 'answer': text})
  found = task(
    path,
    validation=write(good(1), name='v.jsonl'),
    vocabulary=vocabularies.ByteVocabulary(),
    max_prompt_tokens=20,
    max_answer_tokens=20,
  )
  table = pipeline.load(found, 'train')
  for ids in (table.prompt_ids[0], table.answer_ids[0]):
    decoded = vocabularies.decode(ids, vocabulary=found.vocabulary)
    assert decoded == text
  assert table.fields[0]['prompt'] == text


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r"train='.*gone\.jsonl' is not a"
  ):
    task(tmp_path / 'gone.jsonl')
  with pytest.raises(FileNotFoundError, match='is not a file'):
    task(tmp_path)


def test_a_path_that_was_never_set_is_refused():
  with pytest.raises(ValueError, match=r'train=<object .* is not a path'):
    task(object())


@pytest.mark.parametrize('setting', ['max_prompt_tokens', 'max_answer_tokens'])
def test_a_width_of_zero_is_refused(write, setting):
  with pytest.raises(ValueError, match=f'{setting}=0 leaves no room'):
    task(write(good()), **{setting: 0})


def test_a_share_that_empties_a_split_is_refused_before_reading(write):
  with pytest.raises(ValueError, match=r'held_out=0\.5 leaves a split empty'):
    task(write(good()), held_out=0.5)
