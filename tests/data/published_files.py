"""Small files in the formats in which data sets are published."""

from __future__ import annotations

import gzip
import json
import pathlib

import pyarrow as pa
from pyarrow import parquet


def write(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
  """Writes rows as the ending of the path says."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.parquet':
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    return path
  lines = '\n'.join(map(json.dumps, rows)).encode()
  if path.suffix == '.gz':
    path.write_bytes(gzip.compress(lines))
  elif path.suffix == '.json':
    path.write_text(json.dumps(rows[0] if len(rows) == 1 else rows))
  else:
    path.write_bytes(lines)
  return path


def gsm8k(count: int, *, first: int = 0) -> list[dict]:
  """Rows of GSM8K; the answers are above a thousand."""
  return [
    {
      'question': f'Ann has {i} clips and buys 1000 more. How many are there?',
      'answer': f'There are {i}+1000=<<{i}+1000={i + 1000}>>{i + 1000} clips.'
      f'\n#### {i + 1000:,}',
    }
    for i in range(first, first + count)
  ]


def math(count: int, *, first: int = 0, split: str = 'train') -> list[dict]:
  """Rows of MATH as its authors publish them."""
  return [
    {
      'problem': f'What is $\\frac{{{i}}}{{7}}$, exactly?',
      'level': f'Level {1 + i % 5}',
      'type': 'Prealgebra',
      'solution': f'It is what it is: $\\boxed{{\\frac{{{i}}}{{7}}}}$.',
    }
    for i in range(first, first + count)
  ]


def math_500(count: int, *, first: int = 0) -> list[dict]:
  """Rows of the 500 test problems: with answer, subject and unique_id."""
  return [
    {
      'problem': row['problem'],
      'solution': row['solution'],
      'answer': f'\\frac{{{i}}}{{7}}',
      'subject': row['type'],
      'level': 1 + i % 5,
      'unique_id': f'test/prealgebra/{i}.json',
    }
    for i, row in enumerate(math(count, first=first), first)
  ]


def humaneval(count: int) -> list[dict]:
  """Rows of HumanEval."""
  return [
    {
      'task_id': f'HumanEval/{i}',
      'prompt': f'def add_{i}(x: int) -> int:\n    """Returns x + {i}."""\n',
      'canonical_solution': f'    return x + {i}\n',
      'test': f'def check(candidate):\n    assert candidate(1) == {i + 1}\n',
      'entry_point': f'add_{i}',
    }
    for i in range(count)
  ]


def mbpp(numbers) -> list[dict]:
  """Rows of MBPP."""
  return [
    {
      'task_id': i,
      'text': f'Write a function to add {i}.',
      'code': f'def add(x):\r\n  return x + {i}',
      'test_list': [f'assert add(1) == {i + 1}', f'assert add(0) == {i}'],
      'test_setup_code': '',
      'challenge_test_list': [],
    }
    for i in numbers
  ]
