from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from selfimprove.data import (
  contamination,
  filters,
  ngrams,
  pass_rates,
  pipeline,
  rows,
  tasks,
  vocabularies,
)
from selfimprove.data.near_duplicates import near_duplicates
from selfimprove.data.rows import Row

BYTES = vocabularies.ByteVocabulary()
SENTENCE = 'the quick brown fox jumps over the lazy dog and then sleeps all day'


def row(problem, /, **fields):
  ids = np.frombuffer(problem.encode(), np.uint8).astype(np.int32)
  return Row(
    fields={'prompt': problem, **fields}, prompt_ids=ids, answer_ids=ids[:2]
  )


def reasons(rule, *problems, **others):
  found = {split: list(map(row, texts)) for split, texts in others.items()}
  return rule(list(map(row, problems)), lambda: found)


@pytest.fixture
def task(tmp_path):
  def made(on_bad_row=rows.refuse, **splits):
    paths = {}
    for split, problems in splits.items():
      paths[split] = tmp_path / f'{split}.jsonl'
      lines = [{'prompt': text, 'answer': 'x'} for text in problems]
      paths[split].write_text('\n'.join(map(json.dumps, lines)))
    return tasks.jsonl(
      **paths,
      vocabulary=BYTES,
      max_prompt_tokens=200,
      max_answer_tokens=8,
      on_bad_row=on_bad_row,
    )

  return made


def kept(found, split='train'):
  return [fields['prompt'] for fields in pipeline.load(found, split).fields]


def test_filters_follow_each_other_and_are_counted_by_rule(task):
  plain = task(
    train=['one', 'One ', 'two', 'a long prompt', 'three'], test=['x', 'X']
  )
  found = filters.filtered(
    task=plain,
    filters=[
      filters.ExactDuplicates(),
      filters.Length(at_least=4, at_most=6),
    ],
  )
  assert kept(found) == ['three']
  table = pipeline.load(found, 'train')
  assert table.dropped == {
    'filter: duplicate': 1,
    'filter: prompt of fewer than 4 tokens': 2,
    'filter: prompt of more than 6 tokens': 1,
  }
  assert pipeline.left_out(table, split='train').startswith(
    'Split train has 1 problems; left out: 4 (filter: duplicate: 1, '
  )


def test_held_out_splits_are_filtered_only_if_that_is_said(task):
  plain = task(train=['one', 'one'], test=['x', 'X'])
  rules = [filters.ExactDuplicates()]
  found = filters.filtered(task=plain, filters=rules)
  assert kept(found, 'test') == ['x', 'X']
  both = filters.filtered(task=plain, filters=rules, on=('train', 'test'))
  assert kept(both, 'test') == ['x']
  with pytest.raises(ValueError, match=r"to \['dev'\], but task 'jsonl' has"):
    filters.filtered(task=plain, filters=rules, on=['dev'])


def test_bad_rows_and_filtered_rows_are_counted_together(task):
  plain = task(
    train=['one', 'one', 'x' * 300], test=['x'], on_bad_row=rows.drop
  )
  found = filters.filtered(task=plain, filters=[filters.ExactDuplicates()])
  assert pipeline.load(found, 'train').dropped == {
    'prompt: too many tokens': 1,
    'filter: duplicate': 1,
  }


def test_filters_that_keep_nothing_are_refused(task):
  plain = task(train=['one', 'two'], test=['x'])
  found = filters.filtered(task=plain, filters=[filters.Length(at_least=9)])
  with pytest.raises(ValueError, match='keep none of the 2 problems') as error:
    pipeline.load(found, 'train')
  assert "'filter: prompt of fewer than 9 tokens': 2" in str(error.value)


def test_a_filtered_task_is_what_the_task_is(task):
  plain = task(train=['one', 'two'], test=['x'])
  found = filters.filtered(task=plain, filters=[])
  for name in (
    *('name', 'vocabulary', 'splits', 'extra_tokens'),
    *('max_prompt_tokens', 'max_answer_tokens'),
  ):
    assert getattr(found, name) == getattr(plain, name)
  tables = [pipeline.load(t, 'train') for t in (found, plain)]
  assert tables[0].fingerprint() == tables[1].fingerprint()


def test_long_answers_can_be_left_out():
  rule = filters.Length(answer_at_most=1)
  assert reasons(rule, 'a', 'ab') == [
    None,
    'filter: answer of more than 1 tokens',
  ]


def test_exact_duplicates_differ_in_case_and_white_space_alone():
  assert reasons(
    filters.ExactDuplicates(),
    'What is  x?',
    'what is\nX?',
    'What is x',
    'x² = 1',
    'x2 = 1',
    'cafe\u0301',
    'caf\u00e9',
  ) == [None, 'filter: duplicate', *[None] * 4, 'filter: duplicate']


def measured(path, *lines):
  path.write_text('\n'.join(map(json.dumps, lines)))
  return str(path)


def test_problems_are_kept_by_their_pass_rate(tmp_path):
  path = str(tmp_path / 'rates.jsonl')
  problems = ['never', 'seldom', 'often', 'always']
  pass_rates.write(
    path,
    rows=[{'prompt': text} for text in problems],
    rates=[0.0, 0.25, 0.75, 1.0],
    samples=4,
  )
  rule = filters.Difficulty(path=path, at_least=0.25, at_most=0.75)
  assert reasons(rule, *problems, 'unknown') == [
    'filter: pass rate below 0.25',
    None,
    None,
    'filter: pass rate above 0.75',
    'filter: no pass rate measured',
  ]
  lenient = filters.Difficulty(path=path, keep_unmeasured=True)
  assert reasons(lenient, 'unknown') == [None]


def test_pass_rates_belong_to_the_problem_and_not_to_its_template():
  one = pass_rates.problem_key({'problem': 'a', 'prompt': 'Question: a'})
  assert one == pass_rates.problem_key({'problem': 'a', 'prompt': 'Q: a'})
  assert one == pass_rates.problem_key({'prompt': 'a'})
  assert one != pass_rates.problem_key({'prompt': 'Q: a'})


def test_several_measurements_of_a_problem_are_averaged(tmp_path):
  key = pass_rates.problem_key({'prompt': 'a'})
  path = measured(
    tmp_path / 'r.jsonl',
    {'problem_sha256': key, 'pass_rate': 0},
    {'problem_sha256': key, 'pass_rate': 0.5},
  )
  assert pass_rates.read(path) == {key: 0.25}


@pytest.mark.parametrize(
  'line',
  [
    {'problem_sha256': 'a'},
    {'pass_rate': 0.5},
    {'problem_sha256': 'a', 'pass_rate': 1.5},
    {'problem_sha256': 'a', 'pass_rate': '0.5'},
    {'problem_sha256': 'a', 'pass_rate': float('nan')},
    {'problem_sha256': 1, 'pass_rate': True},
  ],
)
def test_what_is_no_measurement_is_refused_with_its_line(tmp_path, line):
  path = measured(tmp_path / 'r.jsonl', line)
  with pytest.raises(ValueError, match=r'r\.jsonl, line 1: .* no measurement'):
    pass_rates.read(path)


def test_missing_pass_rates_come_with_the_command_that_measures_them(tmp_path):
  path = str(tmp_path / 'gone.jsonl')
  with pytest.raises(FileNotFoundError, match=f'--pass_rates={path}'):
    reasons(filters.Difficulty(path=path), 'a')
  with pytest.raises(ValueError, match='0 <= at_least <= at_most <= 1'):
    filters.Difficulty(path=path, at_least=0.5, at_most=0.2)


def jaccard(one, other, size):
  parts = [set(ngrams.ngrams(ngrams.words(t), size)) for t in (one, other)]
  return len(parts[0] & parts[1]) / len(parts[0] | parts[1])


def test_near_duplicates_are_those_of_a_comparison_of_all_pairs():
  generator = np.random.default_rng(0)
  words = [f'w{i}' for i in range(50)]
  texts = [' '.join(generator.choice(words, 40)) for _ in range(60)]
  for text in texts[:40]:  # Copies with a few words changed.
    copy = text.split()
    for place in generator.integers(40, size=generator.integers(1, 6)):
      copy[place] = 'other'
    texts.append(' '.join(copy))
  found = near_duplicates(texts, threshold=0.7, size=3)
  expected = {}
  for i, j in itertools.product(range(len(texts)), repeat=2):
    kept = j < i and j not in expected and i not in expected
    if kept and jaccard(texts[i], texts[j], 3) >= 0.7:
      expected[i] = j
  assert found == expected
  assert 5 < len(found) < 40


def test_near_duplicates_are_left_out_after_the_first():
  longer = SENTENCE + ' long'
  assert reasons(filters.NearDuplicates(), SENTENCE, 'short', longer) == [
    None,
    None,
    'filter: near duplicate',
  ]
  assert reasons(filters.NearDuplicates(), 'short', 'Short!', 'other') == [
    None,
    'filter: near duplicate',
    None,
  ]
  with pytest.raises(ValueError, match='threshold=0'):
    near_duplicates(['a'], threshold=0)


def test_contamination_is_thirteen_words_in_a_row():
  words = SENTENCE.split()
  thirteen, twelve = ' '.join(words[:13]), ' '.join(words[:12])
  rule = filters.Contamination()
  assert reasons(
    rule,
    f'Once {thirteen.upper()}, they say.',
    f'Once {twelve}, they say, and nothing more.',
    test=[f'Tell me: {thirteen}?'],
  ) == ['filter: shares 13 words with test', None]


def test_short_problems_are_contaminated_only_by_the_same_one():
  rule = filters.Contamination()
  assert reasons(
    rule,
    'What is 2 + 2?',
    'What is 2 + 2? And what is 3 + 3, if you know it as well as I do, please?',
    test=['what is 2+2'],
  ) == ['filter: shares 13 words with test', None]


def test_what_is_checked_against_can_be_chosen():
  problems = {'test': [SENTENCE], 'prompt': ['x ' * 20]}
  rule = filters.Contamination(against=['prompt'])
  assert reasons(rule, SENTENCE, 'x ' * 15, **problems) == [
    None,
    'filter: shares 13 words with prompt',
  ]
  with pytest.raises(ValueError, match=r"against \['dev'\], but the other"):
    reasons(filters.Contamination(against=['dev']), 'a', **problems)
  with pytest.raises(ValueError, match='size=0'):
    reasons(filters.Contamination(words=0), 'a', **problems)


def test_instructions_that_all_prompts_share_are_no_contamination():
  template = f'{SENTENCE} {{}}'
  train = [row(template.format(i), problem=f'add {i}') for i in range(3)]
  test = [row(template.format(9), problem='add 9')]
  assert contamination.overlaps(train, {'test': test}) == []


def test_overlaps_are_those_of_a_search_through_all_texts():
  generator = np.random.default_rng(1)
  words = [f'w{i}' for i in range(6)]
  texts = [
    [' '.join(generator.choice(words, 12)) for _ in range(40)] for _ in range(2)
  ]
  found = contamination.overlaps(
    list(map(row, texts[0])), {'test': list(map(row, texts[1]))}, size=5
  )
  expected = {}
  for i, text in enumerate(texts[0]):
    runs = list(ngrams.ngrams(text.split(), 5))
    hits = [run for run in runs if any(run in other for other in texts[1])]
    if hits:
      other = next(j for j, t in enumerate(texts[1]) if hits[0] in t)
      expected[i] = (other, hits[0], len(hits))
  assert {f.row: (f.other_row, f.ngram, f.shared) for f in found} == expected
  assert 3 < len(expected) < 37


def test_the_report_says_which_rows_share_which_words():
  splits = {
    'train': [row('something else'), row(f'Well, {SENTENCE}.')],
    'validation': [row('other')],
    'test': [row('none'), row(SENTENCE)],
  }
  report = contamination.report(splits)
  assert report['counts'] == {'validation': 0, 'test': 1}
  assert report['checked'] == {'train': 2, 'validation': 1, 'test': 2}
  (found,) = report['rows']
  assert found == {
    'split': 'train',
    'row': 1,
    'other_split': 'test',
    'other_row': 1,
    'ngram': ' '.join(SENTENCE.split()[:13]),
    'shared': 2,
    'problem': f'Well, {SENTENCE}.',
    'other_problem': SENTENCE,
  }
  json.dumps(report)


def test_the_contamination_filter_reads_the_other_splits_of_the_task(task):
  plain = task(train=[f'A: {SENTENCE}', 'fine'], test=[f'B: {SENTENCE}'])
  found = filters.filtered(task=plain, filters=[filters.Contamination()])
  assert kept(found) == ['fine']
  assert kept(found, 'test') == [f'B: {SENTENCE}']


def test_positions_count_what_is_kept(task):
  plain = task(train=[f'{i} {"x" * (i % 3)}' for i in range(30)], test=['q'])

  def stream():
    found = filters.filtered(task=plain, filters=[filters.Length(at_most=4)])
    table = pipeline.load(found, 'train')
    return pipeline.PromptStream(table, prompts_per_step=4, seed=5)

  straight = stream()
  seen = [straight.batch(4 * i).example_id.tolist() for i in range(20)]
  again = [stream().batch(4 * i).example_id.tolist() for i in range(20)]
  assert seen == again
  size = len(straight.table)
  assert 9 < size < 30
  first = list(itertools.chain(*seen))[:size]
  assert sorted(first) == list(range(size))
