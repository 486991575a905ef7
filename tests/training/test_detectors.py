from __future__ import annotations

import dataclasses
import json
import math

import pytest

from selfimprove.training.detectors import (
  Detector,
  Monitor,
  default_detectors,
)

_TIED = Detector(
  name='tied',
  metric='rollout/tied_groups',
  comparison='at_least',
  threshold=1.0,
  patience=3,
  action='warn',
  advice='raise the group size',
)


def _reports(monitor, values, *, metric='rollout/tied_groups', start=1):
  """The steps at which a monitor reports, one value per step."""
  return [
    finding.step
    for step, value in enumerate(values, start=start)
    for finding in monitor.observe(step, {metric: value})
  ]


def test_a_detector_waits_for_its_patience_and_reports_once():
  assert _reports(Monitor([_TIED]), [1.0] * 10) == [3]


def test_a_good_value_starts_the_count_again():
  values = [1.0, 1.0, 0.5, 1.0, 1.0, 1.0]
  assert _reports(Monitor([_TIED]), values) == [6]


def test_a_second_episode_is_reported_again():
  values = [1.0] * 4 + [0.9] + [1.0] * 3
  assert _reports(Monitor([_TIED]), values) == [3, 8]


def test_at_most_is_bad_downwards():
  collapse = dataclasses.replace(
    _TIED, comparison='at_most', threshold=0.1, patience=1
  )
  assert _reports(Monitor([collapse]), [0.2, 0.1, 0.0]) == [2]


def test_a_report_is_one_sentence_with_value_rule_and_advice():
  (finding,) = [
    finding
    for step in range(3)
    for finding in Monitor([dataclasses.replace(_TIED, patience=1)]).observe(
      step, {'rollout/tied_groups': 1.0} if step == 2 else {}
    )
  ]
  assert finding.sentence == (
    'Step 2: `rollout/tied_groups` is 1, at least 1 for 1 observations (tied): '
    'raise the group size.'
  )
  assert finding.action == 'warn'


def test_absent_and_nan_metrics_are_not_judged_and_absent_ones_are_listed():
  monitor = Monitor([_TIED])
  assert monitor.unobserved() == ['rollout/tied_groups']
  assert monitor.observe(1, {'other': 1.0}) == []
  assert monitor.unobserved() == ['rollout/tied_groups']
  assert _reports(monitor, [math.nan] * 5) == []
  assert _reports(monitor, [1.0, math.nan, 1.0, 1.0]) == [4]
  assert monitor.unobserved() == []


@pytest.mark.parametrize('killed_after', range(8))
def test_a_restored_monitor_goes_on_exactly(killed_after):
  values = [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
  first = Monitor([_TIED])
  reports = _reports(first, values[:killed_after])
  second = Monitor([_TIED])
  second.load(json.loads(json.dumps(first.state())))
  assert second.unobserved() == first.unobserved()
  reports += _reports(second, values[killed_after:], start=killed_after + 1)
  assert reports == [3, 8]


def test_the_state_of_a_detector_that_is_gone_is_forgotten():
  monitor = Monitor([_TIED])
  monitor.load({'streaks': {'gone': 4, 'tied': 2}})
  assert monitor.state() == {'streaks': {'tied': 2}}


def test_two_detectors_of_one_name_are_refused():
  with pytest.raises(ValueError, match=r"share the names \['tied'\]"):
    Monitor([_TIED, _TIED])


@pytest.mark.parametrize(
  ('field', 'value'),
  [('comparison', 'above'), ('action', 'halt'), ('patience', 0)],
)
def test_fields_out_of_range_are_refused(field, value):
  with pytest.raises(ValueError, match=f"'tied': {field} "):
    dataclasses.replace(_TIED, **{field: value})


@pytest.mark.parametrize(
  ('metric', 'bad', 'good'),
  [
    ('rollout/tied_groups', 1.0, 0.98),
    ('rollout/truncated', 1.0, 0.9),
    ('rollout/truncated_t1', 0.8, 0.1),
    ('rollout/truncated_t2', 0.8, 0.1),
    ('loss/kl_t1', math.inf, 2.0),
    ('loss/kl_t2', 101.0, 99.0),
    ('policy/sampler_gap', 1.5, 1e-6),
    ('policy/entropy', 0.0, 0.2),
    ('rollout/copied', 1.0, 0.6),
  ],
)
def test_the_defaults_see_the_symptom_and_pass_health(metric, bad, good):
  assert (
    _reports(Monitor(default_detectors()), [good] * 50, metric=metric) == []
  )
  assert _reports(Monitor(default_detectors()), [bad] * 50, metric=metric)


def test_every_default_has_advice_that_reads_on_in_its_sentence():
  for detector in default_detectors():
    assert detector.advice[0].islower()
    assert not detector.advice.endswith('.')


def test_a_strong_coefficient_alone_is_no_blow_up():
  # SCoRe's stage I: ten times a divergence of 12 nats is not one of 100.
  monitor = Monitor(default_detectors())
  for step in range(9):
    found = monitor.observe(step, {'loss/kl': 120.0, 'loss/kl_t1': 12.0})
    assert found == []
