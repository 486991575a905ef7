from __future__ import annotations

import builtins
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from selfimprove.evaluation import report, summary
from selfimprove.evaluation.metrics import attempt_metrics


def _row(arm='score', seed=0, **changes):
  return {
    'arm': arm,
    'seed': seed,
    'steps': 275,
    'acc_t1': 0.5,
    'acc_t2': 0.7,
    'delta': 0.2,
    'i_to_c': 0.3,
    'c_to_i': 0.1,
    'seconds': 60.0,
    **changes,
  }


def test_a_row_holds_the_fractions_of_an_evaluation():
  found = attempt_metrics(np.array([[[1, 1]], [[0, 1]], [[1, 0]], [[0, 1]]]))
  row = summary.summary_row(found, arm='base', seed=3, steps=0, seconds=1.5)
  assert row == {
    'arm': 'base',
    'seed': 3,
    'steps': 0,
    'acc_t1': 0.5,
    'acc_t2': 0.75,
    'delta': 0.25,
    'i_to_c': 0.5,
    'c_to_i': 0.25,
    'seconds': 1.5,
  }


def test_rows_survive_json(tmp_path):
  rows = [_row(), _row('base')]
  report.write_json(tmp_path / 'summary.json', rows)
  assert json.loads((tmp_path / 'summary.json').read_text()) == rows


def test_arms_are_averaged_over_their_seeds_alone():
  rows = [_row(acc_t2=0.6), _row('base', acc_t2=0.1), _row(seed=1, acc_t2=0.8)]
  means = summary.summarise(rows)
  assert list(means) == ['score', 'base']
  assert means['score']['acc_t2'].mean == pytest.approx(0.7)
  # s = .1 * sqrt(2), over sqrt(2) seeds.
  assert means['score']['acc_t2'].standard_error == pytest.approx(0.1)
  assert means['base']['acc_t2'].standard_error is None


def test_the_table_shows_means_and_errors_in_per_cent():
  rows = [_row(acc_t2=0.6), _row(seed=1, acc_t2=0.8), _row('base', delta=-0.1)]
  lines = summary.summary_table(rows, layout=report.markdown_table).splitlines()
  assert lines[0] == (
    '| arm | acc_t1 % | acc_t2 % | delta % | i_to_c % | c_to_i % | steps '
    '| seconds | seeds |'
  )
  assert lines[2] == (
    '| score | 50.0 ± 0.0 | 70.0 ± 10.0 | 20.0 ± 0.0 | 30.0 ± 0.0 '
    '| 10.0 ± 0.0 | 275 | 60.0 ± 0.0 | 2 |'
  )
  assert lines[3] == (
    '| base | 50.0 | 70.0 | -10.0 | 30.0 | 10.0 | 275 | 60.0 | 1 |'
  )


@pytest.mark.parametrize('value', [52.6, float('nan'), None])
def test_a_value_that_is_no_fraction_is_named(value):
  with pytest.raises(ValueError, match=f'acc_t1 is {value}.*not per cent'):
    summary.summarise([_row(acc_t1=value)])


def test_a_row_without_a_field_is_named():
  row = _row()
  del row['i_to_c']
  with pytest.raises(ValueError, match=r"lacks \['i_to_c'\]"):
    summary.summarise([row])


def test_a_seed_counts_once():
  with pytest.raises(ValueError, match="'score' has seed 0 twice"):
    summary.summarise([_row(), _row()])


@pytest.mark.parametrize('ending', ['png', 'svg'])
def test_the_plot_is_written_with_or_without_errors(tmp_path, ending):
  pytest.importorskip('matplotlib')
  path = tmp_path / 'plots' / f'arms.{ending}'
  summary.plot_arms([_row(), _row(seed=1), _row('base')], path)
  start = {'png': b'\x89PNG', 'svg': b'<?xml'}[ending]
  assert path.read_bytes().startswith(start)


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch, tmp_path):
  load = builtins.__import__

  def without(name, *args, **kwargs):
    if name.startswith('matplotlib'):
      raise ImportError(name)
    return load(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', without)
  with pytest.raises(ImportError, match=r'selfimprove\[plot\]'):
    summary.plot_arms([_row()], tmp_path / 'x.png')


def test_evaluation_needs_neither_jax_nor_matplotlib():
  program = (
    'import sys; from selfimprove.evaluation import metrics, summary; '
    'sys.exit(bool({"jax", "matplotlib"} & set(sys.modules)))'
  )
  root = Path(__file__).parents[2]
  ended = subprocess.run([sys.executable, '-c', program], cwd=root)
  assert ended.returncode == 0
