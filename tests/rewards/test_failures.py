from __future__ import annotations

import json

import numpy as np

from selfimprove.rewards.failures import FailureFile, VerifierError


def _save(file, attempt='loop', reference=None):
  file.save(
    verifier='act',
    reason='took too long',
    timed_out=True,
    attempt=attempt,
    reference=reference or {'answer': 'x'},
  )


def test_every_sample_is_a_line(tmp_path):
  file = FailureFile()
  file.path = tmp_path / 'new' / 'failures.jsonl'
  for attempt in ('two\nlines', 'half a pair: \ud800'):
    _save(file, attempt)
  rows = [json.loads(line) for line in file.path.read_text().splitlines()]
  assert [row['attempt'] for row in rows] == [
    'two\nlines',
    'half a pair: \ud800',
  ]
  assert rows[0] == {
    'verifier': 'act',
    'reason': 'took too long',
    'timed_out': True,
    'attempt': 'two\nlines',
    'reference': {'answer': 'x'},
  }


def test_a_field_that_json_does_not_know_is_written_as_text(tmp_path):
  file = FailureFile()
  file.path = tmp_path / 'failures.jsonl'
  _save(file, reference={'ids': np.arange(2), 'raw': b'\xff'})
  row = json.loads(file.path.read_text())
  assert row['reference'] == {'ids': 'array([0, 1])', 'raw': "b'\\xff'"}


def test_nothing_is_saved_where_nobody_said_where(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _save(FailureFile())
  assert not list(tmp_path.iterdir())


def test_an_error_names_the_file():
  error = VerifierError('act', 'ended.', 'x', {}, path='run/failures.jsonl')
  assert 'both are whole in run/failures.jsonl' in str(error)
