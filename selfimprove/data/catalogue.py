"""The published data sets that are known by name: where, which, whose.

Licences and origins are those that the authors state; docs/data.md says more.
Nothing here downloads anything.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfimprove.data import formats
from selfimprove.data.rows import BadRowError

ANY_SPLIT = '*'
"""In a layout: files whose rows say themselves which split they are of."""

Layout = Mapping[str, Sequence[str]]
"""Split -> patterns, relative to the folder of the data set."""

_GSM8K = (
  'https://raw.githubusercontent.com/openai/grade-school-math/master/'
  'grade_school_math/data'
)
_PRM800K = (
  'https://media.githubusercontent.com/media/openai/prm800k/main/'
  'prm800k/math_splits'
)
_HUMANEVAL = (
  'https://raw.githubusercontent.com/openai/human-eval/master/data/'
  'HumanEval.jsonl.gz'
)
_MBPP = (
  'https://raw.githubusercontent.com/google-research/google-research/master/'
  'mbpp/mbpp.jsonl'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
  """What is known of a published data set.

  Attributes:
    title: for people.
    paper: arXiv id, or what stands for one.
    licence: as its authors state it.
    origin: page that describes it.
    fetch: command that puts it into `data/<name>`.
    layouts: published arrangements of its files; the first that is there
      counts.
    read: brings its rows into one form.
    tfds: splits of the edition of tensorflow_datasets, if it has one.
    splits: those that `split_of` gives.
    split_of: (fields, where) -> split, where a layout has `ANY_SPLIT`.
  """

  title: str
  paper: str
  licence: str
  origin: str
  fetch: str
  layouts: Sequence[Layout]
  read: formats.Format
  tfds: Sequence[str] = ()
  splits: tuple[str, ...] = ()
  split_of: Callable[[Mapping[str, Any], str], str] | None = None


def mbpp_split(fields: Mapping[str, Any], where: str) -> str:
  """The split of an MBPP problem, by its number.

  1-10 prompt, 11-510 test, 511-600 validation, 601-974 train.

  Args:
    fields: the row.
    where: file and row.

  Returns:
    The split.

  Raises:
    BadRowError: `task_id` is none of these numbers.
  """
  number = fields.get('task_id')
  ends = (('prompt', 10), ('test', 510), ('validation', 600), ('train', 974))
  if isinstance(number, int) and 1 <= number <= 974:
    return next(split for split, last in ends if number <= last)
  raise BadRowError(
    where=where,
    field='task_id',
    rule='no split',
    detail=f'{number!r} is not in 1..974, which says the split; correct it',
  )


DATA_SETS: Mapping[str, DataSet] = {
  'gsm8k': DataSet(
    title='GSM8K',
    paper='arXiv 2110.14168',
    licence='MIT',
    origin='https://github.com/openai/grade-school-math',
    fetch=(
      f'for s in train test; do curl -fL --create-dirs -o data/gsm8k/$s.jsonl '
      f'{_GSM8K}/$s.jsonl; done'
    ),
    layouts=(
      {'train': ('train.jsonl',), 'test': ('test.jsonl',)},
      {'train': ('main/train-*.parquet',), 'test': ('main/test-*.parquet',)},
    ),
    tfds=('train', 'test'),
    read=formats.gsm8k,
  ),
  'math': DataSet(
    title='MATH',
    paper='arXiv 2103.03874; 500 test problems: arXiv 2305.20050',
    licence='MIT',
    origin='https://github.com/openai/prm800k#math-splits',
    fetch=(
      f'for s in train test; do curl -fL --create-dirs -o data/math/$s.jsonl '
      f'{_PRM800K}/$s.jsonl; done'
    ),
    # Where the 500 come beside all 12,500, what they test is taken out of
    # `train` problem by problem.
    layouts=(
      {'train': ('train.jsonl',), 'test': ('test.jsonl',)},
      {'train': ('data/train-*.parquet',), 'test': ('data/test-*.parquet',)},
      {
        'train': ('*/train-*.parquet', '*/test-*.parquet'),
        'test': ('test.jsonl',),
      },
      {
        'train': ('MATH/train/*/*.json', 'MATH/test/*/*.json'),
        'test': ('test.jsonl',),
      },
    ),
    read=formats.math,
  ),
  'aime': DataSet(
    title='AIME',
    paper='none: problems of the Mathematical Association of America',
    licence='see the source; the problems belong to their authors',
    origin='https://huggingface.co/datasets/HuggingFaceH4/aime_2024',
    fetch=(
      'hf download HuggingFaceH4/aime_2024 --repo-type dataset '
      '--local-dir data/aime'
    ),
    layouts=(
      {'test': ('*.jsonl',)},
      {'test': ('data/*.parquet',)},
      {'test': ('*.parquet',)},
    ),
    read=formats.integer,
  ),
  'humaneval': DataSet(
    title='HumanEval',
    paper='arXiv 2107.03374',
    licence='MIT',
    origin='https://github.com/openai/human-eval',
    fetch=(
      'curl -fL --create-dirs -o data/humaneval/HumanEval.jsonl.gz '
      f'{_HUMANEVAL}'
    ),
    layouts=(
      {'test': ('HumanEval.jsonl',)},
      {'test': ('HumanEval.jsonl.gz',)},
      {'test': ('openai_humaneval/test-*.parquet',)},
    ),
    read=formats.humaneval,
  ),
  'mbpp': DataSet(
    title='MBPP',
    paper='arXiv 2108.07732',
    licence='CC-BY-4.0',
    origin='https://github.com/google-research/google-research/tree/master/mbpp',
    fetch=f'curl -fL --create-dirs -o data/mbpp/mbpp.jsonl {_MBPP}',
    layouts=(
      {ANY_SPLIT: ('mbpp.jsonl',)},
      {ANY_SPLIT: ('full/*.parquet',)},
      {ANY_SPLIT: ('sanitized-mbpp.json',)},
      {ANY_SPLIT: ('sanitized/*.parquet',)},
    ),
    read=formats.mbpp,
    splits=('train', 'validation', 'test', 'prompt'),
    split_of=mbpp_split,
  ),
}
"""By the name that configurations use."""


def look_up(name: str) -> DataSet:
  """A data set by its name.

  Args:
    name: one of `DATA_SETS`.

  Returns:
    What is known of it.

  Raises:
    ValueError: there is none of that name.
  """
  if name not in DATA_SETS:
    near = difflib.get_close_matches(str(name), DATA_SETS, n=1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    raise ValueError(
      f'There is no published data set {name!r}{hint}; choose one of '
      f'{", ".join(DATA_SETS)}, or read your own file with tasks.jsonl.'
    )
  return DATA_SETS[name]
