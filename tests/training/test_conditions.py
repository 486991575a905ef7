from __future__ import annotations

import json
import math

import pytest

from selfimprove.training.conditions import (
  AllOf,
  MetricAtLeast,
  MetricAtMost,
  TotalAtLeast,
  metric_names,
)


def _first_done(condition, rows):
  """The index of the row at which a condition is met; None if never.

  The state goes through JSON between rows, as it does in a checkpoint.
  """
  state = {}
  for index, metrics in enumerate(rows):
    done, state = condition.update(json.loads(json.dumps(state)), metrics)
    if done:
      return index
  return None


def _rows(name, values):
  return [{} if value is None else {name: value} for value in values]


def test_a_threshold_must_hold_for_the_patience_in_a_row():
  condition = MetricAtLeast(metric='acc', threshold=0.5, patience=2)
  assert _first_done(condition, _rows('acc', [0.5, 0.4, 0.6, 0.5, 0.9])) == 3


def test_at_most_counts_downwards():
  condition = MetricAtMost(metric='kl', threshold=0.1)
  assert _first_done(condition, _rows('kl', [0.2, 0.11, 0.1])) == 2


def test_steps_without_the_metric_neither_count_nor_break_the_row():
  condition = MetricAtLeast(metric='acc', threshold=0.5, patience=2)
  values = [None, 0.6, None, None, 0.7]
  assert _first_done(condition, _rows('acc', values)) == 4


@pytest.mark.parametrize('kind', [MetricAtLeast, MetricAtMost])
def test_nan_never_reaches_a_threshold(kind):
  condition = kind(metric='acc', threshold=0.5)
  assert _first_done(condition, _rows('acc', [math.nan] * 5)) is None


def test_all_of_waits_until_all_hold_together():
  both = AllOf(
    conditions=(
      MetricAtLeast(metric='acc', threshold=0.5),
      MetricAtMost(metric='kl', threshold=0.1, patience=2),
    )
  )
  rows = [
    {'acc': 0.6, 'kl': 0.1},  # kl once
    {'acc': 0.4, 'kl': 0.1},  # acc lost
    {'kl': 0.1},  # acc not measured, last seen below
    {'acc': 0.7},  # kl not measured, last seen below for long
  ]
  assert _first_done(both, rows) == 3


def test_updating_does_not_change_the_state_that_was_given():
  condition = AllOf(conditions=(MetricAtLeast(metric='a', threshold=0.0),))
  _, before = condition.update({}, {'a': 1.0})
  copy = json.loads(json.dumps(before))
  condition.update(before, {'a': 1.0})
  assert before == copy


def test_nonsense_is_refused():
  with pytest.raises(ValueError, match="'acc' has patience 0"):
    MetricAtLeast(metric='acc', threshold=0.5, patience=0)
  with pytest.raises(ValueError, match='no conditions'):
    AllOf(conditions=())


def test_a_condition_names_the_metrics_that_it_reads():
  both = AllOf(
    conditions=(
      MetricAtLeast(metric='a', threshold=0.0),
      AllOf(conditions=(MetricAtMost(metric='b', threshold=0.0),)),
    )
  )
  assert metric_names(both) == {'a', 'b'}
  assert metric_names(None) == set()


def test_a_budget_is_used_up_by_what_is_spent_over_all_steps():
  condition = TotalAtLeast(metric='rollout/tokens', total=10)
  state, done = {}, []
  for spent in (4.0, 5.0, 1.0):
    met, state = condition.update(state, {'rollout/tokens': spent})
    state = json.loads(json.dumps(state))  # As a checkpoint holds it.
    done.append(met)
  assert done == [False, False, True]
  # Steps without the metric spend nothing.
  assert condition.update({'spent': 9.0}, {}) == (False, {'spent': 9.0})


def test_a_budget_of_nothing_is_refused():
  with pytest.raises(ValueError, match='is 0, so a stage would end'):
    TotalAtLeast(metric='rollout/tokens', total=0)
