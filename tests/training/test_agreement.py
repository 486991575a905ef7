"""With the answers of other processes put in: `test_many_processes` asks."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from selfimprove.training import agreement
from selfimprove.training.signals import StopRequest


@pytest.fixture
def others(monkeypatch):
  """Makes this process the second of three; gives what each one answers."""

  def answer(make):
    monkeypatch.setattr(jax, 'process_count', lambda: 3)
    monkeypatch.setattr(
      agreement,
      'numbers',
      lambda own: np.stack([make(0, own), own, make(2, own)]),
    )

  return answer


def test_alone_nothing_is_sent():
  assert agreement.texts('ä') == ['ä']
  assert agreement.together(lambda: 3) == 3
  request = StopRequest()
  assert agreement.stop_request(request) is request
  assert agreement.totals({'b': 2, 'a': 1}) == {'b': 2, 'a': 1}
  agreement.check_same({'the config': 'any'})


def test_alone_an_error_is_left_alone():
  with pytest.raises(ZeroDivisionError):
    agreement.together(lambda: 1 // 0)


def test_counts_are_added_and_the_largest_is_kept(others):
  others(lambda index, own: own * (10 if index else 1))
  found = agreement.totals({'b_max_x': 2, 'a': 1.0})
  assert found == {'a': 12.0, 'b_max_x': 20.0}


def test_rows_of_all_processes_are_put_together(others):
  rows = [np.asarray([0, 3]), np.asarray([1]), np.asarray([2, 4])]
  values = np.arange(10.0, dtype=np.float32).reshape(5, 2)
  calls = itertools.count()

  def make(index, own):
    # First which rows each one has, then what is in them.
    if next(calls) < 2:
      return np.isin(np.arange(5), rows[index])
    whole = np.full_like(own, 7.0)
    whole[rows[index]] = values[rows[index]]
    return whole

  others(make)
  found = agreement.joined_rows(values[rows[1]], rows[1], count=5)
  np.testing.assert_array_equal(found, values)


def test_the_first_process_that_was_asked_gives_the_reason(others):
  others(lambda index, own: own * 0 + (15 if index else 0))
  found = agreement.stop_request(StopRequest(requested=True, reason='SIGINT'))
  assert (found.requested, found.reason) == (True, 'SIGINT (process 1)')
  found = agreement.stop_request(StopRequest())
  assert (found.requested, found.reason) == (True, 'SIGTERM (process 2)')


def test_one_line_of_what_differs_is_shown(others, monkeypatch):
  others(lambda index, own: own)
  monkeypatch.setattr(
    agreement, 'texts', lambda text: [text, text, f'{text}\nmore = 1']
  )
  with pytest.raises(
    agreement.DisagreementError,
    match='differ in the config: process 0 has ``, process 2 has `more = 1`',
  ):
    agreement.check_same({'the config': 'a = 1'})
