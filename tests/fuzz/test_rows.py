"""Malformed rows: each is kept or counted, and none ends in a traceback."""

from __future__ import annotations

import json
import random

import pytest

from selfimprove.data import rows, tasks, vocabularies
from tests.fuzz import junk

pytestmark = pytest.mark.slow  # Thousands of cases.

FILES, LINES = 40, 75
GOOD = {'prompt': 'one and one', 'answer': '2', 'source': {'level': [1, 2]}}


def _line(rng: random.Random, number: int) -> bytes:
  good = {**GOOD, 'prompt': f'{number} and one'}
  kind = rng.random()
  if kind < 0.3:
    return json.dumps(good).encode()
  if kind < 0.6:
    return json.dumps(junk.changed(rng, good)).encode()
  if kind < 0.7:
    return json.dumps(junk.value(rng)).encode()
  content = junk.damaged(rng, json.dumps(good).encode())
  return content.replace(b'\n', b' ')


def _file(rng: random.Random) -> list[bytes]:
  return [_line(rng, number) for number in range(LINES)]


def _task(folder, seed, **options):
  path = folder / 'rows.jsonl'
  lines = _file(random.Random(seed))
  path.write_bytes(b'\n'.join(lines))
  task = tasks.jsonl(
    train=path,
    vocabulary=vocabularies.ByteVocabulary(),
    max_prompt_tokens=64,
    max_answer_tokens=16,
    held_out=0.2,
    **options,
  )
  return lines, task


@pytest.mark.parametrize('seed', range(FILES))
def test_of_malformed_rows_none_is_lost(tmp_path, seed):
  lines, task = _task(tmp_path, seed, on_bad_row=rows.drop)
  read = {split: task.read(split) for split in task.splits}
  kept = sum(len(found) for found, _ in read.values())
  (dropped,) = {tuple(sorted(count.items())) for _, count in read.values()}
  assert kept + sum(dict(dropped).values()) == sum(
    bool(line.strip()) for line in lines
  )
  assert kept > 10
  assert sum(dict(dropped).values()) > 10


@pytest.mark.parametrize('seed', range(FILES))
def test_the_first_malformed_row_is_named_in_a_sentence(tmp_path, seed):
  _, task = _task(tmp_path, seed)
  with pytest.raises(rows.BadRowError, match=r'rows\.jsonl, line \d+') as said:
    task.read('train')
  assert junk.is_a_sentence(str(said.value))
