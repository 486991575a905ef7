from __future__ import annotations

import json

import numpy as np
import pytest

from selfimprove.evaluation import report
from selfimprove.evaluation.intervals import Measurement
from selfimprove.evaluation.metrics import attempt_metrics

_FOUND = Measurement(value=0.526, low=0.4817, high=0.5699, count=500)
_NOTHING = Measurement(value=None, low=None, high=None, count=0)


def test_columns_of_a_text_table_line_up():
  table = report.text_table(['arm', 'x'], [['a', '1'], ['longer', '100.0 ± 9']])
  assert table.splitlines() == [
    'arm             x',
    '------  ---------',
    'a               1',
    'longer  100.0 ± 9',
  ]


def test_a_table_without_rows_is_its_header():
  assert report.text_table(['arm', 'x'], []) == 'arm  x\n---  -'


def test_measurements_are_shown_in_per_cent_with_their_intervals():
  table = report.metrics_table(
    {'base': {'acc_t1': _FOUND, 'critique': _NOTHING}, 'other': {}},
    layout=report.markdown_table,
  )
  assert table.splitlines() == [
    '| % | acc_t1 | critique |',
    '|:---|---:|---:|',
    '| base | 52.6 [48.2, 57.0] | - |',
    '| other | - | - |',
  ]


def test_the_table_of_an_evaluation_holds_every_metric():
  found = attempt_metrics(np.array([[[1, 1]], [[1, 0]]]))
  table = report.metrics_table({'base': found})
  assert table.splitlines()[0].split() == ['%', *found]
  assert table.splitlines()[2].endswith('-')  # Nothing was wrong: no critique.


def test_json_holds_measurements_and_arrays(tmp_path):
  path = tmp_path / 'new' / 'metrics.json'
  report.write_json(
    path,
    {'found': _FOUND, 'nothing': _NOTHING, 'n': np.int32(3), 'x': np.ones(2)},
  )
  assert json.loads(path.read_text()) == {
    'found': {'value': 0.526, 'low': 0.4817, 'high': 0.5699, 'count': 500},
    'nothing': {'value': None, 'low': None, 'high': None, 'count': 0},
    'n': 3,
    'x': [1.0, 1.0],
  }


def test_a_failed_write_leaves_the_previous_file_and_nothing_else(
  tmp_path, monkeypatch
):
  path = tmp_path / 'summary.json'
  report.write_json(path, [1])

  def interrupt(descriptor):
    raise KeyboardInterrupt

  monkeypatch.setattr(report.os, 'fsync', interrupt)
  with pytest.raises(KeyboardInterrupt):
    report.write_json(path, [1, 2])
  assert json.loads(path.read_text()) == [1]
  assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_complete_before_it_gets_its_name(tmp_path, monkeypatch):
  path, seen = tmp_path / 'summary.json', []
  rename = report.Path.replace

  def spy(temporary, target):
    assert temporary.parent == path.parent  # Else the rename is no rename.
    seen.append((json.loads(temporary.read_text()), path.exists()))
    return rename(temporary, target)

  monkeypatch.setattr(report.Path, 'replace', spy)
  report.write_json(path, [1, 2])
  assert seen == [([1, 2], False)]


def test_what_json_cannot_say_is_refused(tmp_path):
  path = tmp_path / 'x.json'
  with pytest.raises(ValueError, match='number that is not finite'):
    report.write_json(path, {'delta': float('nan')})
  with pytest.raises(TypeError, match='cannot be written as JSON'):
    report.write_json(path, {'what': object()})
  assert not path.exists()
