from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimprove.evaluation.intervals import (
  Measurement,
  mean_and_standard_error,
  paired_difference,
  rate,
)

# The same examples each time, however busy the machine is.
_examples = settings(derandomize=True, deadline=None, max_examples=60)


def _binary(hits, count):
  outcomes = np.zeros(count)
  outcomes[:hits] = 1.0
  return outcomes


def _bounds(found):
  return found.low, found.high


@pytest.mark.parametrize(
  ('hits', 'count', 'low', 'high'),
  [
    # Newcombe, Stat. Med. 17 (1998), table I, method 3.
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
  ],
)
def test_one_sample_per_problem_gives_published_wilson_intervals(
  hits, count, low, high
):
  found = rate(_binary(hits, count), np.ones(count))
  assert found.value == pytest.approx(hits / count)
  assert found.count == count
  np.testing.assert_allclose(_bounds(found), (low, high), atol=5e-5)


def test_problems_without_trials_do_not_matter():
  hits, trials = _binary(3, 10), np.ones(10)
  padded = rate(np.append(hits, [0.0] * 5), np.append(trials, [0.0] * 5))
  assert padded == rate(hits, trials)


def test_a_rate_of_nothing_has_no_value():
  assert rate(np.zeros(3), np.zeros(3)) == Measurement(
    value=None, low=None, high=None, count=0
  )


def test_repeating_every_sample_tells_nothing_new():
  # Five samples that always agree are one observation, not five.
  once = rate(_binary(30, 100), np.ones(100))
  copied = rate(5 * _binary(30, 100), np.full(100, 5.0))
  np.testing.assert_allclose(_bounds(copied), _bounds(once), rtol=1e-9)


def test_independent_samples_tell_as_much_as_as_many_problems():
  # Shares 1/4, 1/2, 1/2, 1/4 vary as two independent fair draws would:
  # variance 1/8 of each mean, so 400 problems of 2 count as 800 of 1.
  hits = np.repeat([0.0, 1.0, 1.0, 2.0], 100)
  clustered = rate(hits, np.full(400, 2.0))
  independent = rate(_binary(400, 800), np.ones(800))
  np.testing.assert_allclose(_bounds(clustered), _bounds(independent))


def test_samples_are_never_worth_more_than_themselves():
  # One of two right in every problem: no variation between problems at all.
  alike = rate(np.ones(50), np.full(50, 2.0))
  independent = rate(_binary(50, 100), np.ones(100))
  np.testing.assert_allclose(_bounds(alike), _bounds(independent))


@pytest.mark.parametrize('share', [0.0, 1.0])
def test_all_alike_counts_problems_and_not_samples(share):
  many = rate(np.full(20, 8 * share), np.full(20, 8.0))
  one = rate(np.full(20, share), np.ones(20))
  assert _bounds(many) == _bounds(one)
  assert many.low < many.high


def test_one_problem_says_little_however_often_it_is_sampled():
  found = rate(np.array([32.0]), np.array([64.0]))
  assert found.high - found.low > 0.8


@_examples
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
def test_an_interval_lies_in_the_unit_range_around_its_value(pairs):
  hits = np.array([float(min(pair)) for pair in pairs])
  trials = np.array([float(max(pair)) for pair in pairs])
  found = rate(hits, trials)
  if found.value is not None:
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_rate_covers_the_truth_as_often_as_it_says():
  # 60 problems of mixed difficulty with 4 samples each, 400 times.
  generator = np.random.default_rng(0)
  covered = 0
  for _ in range(400):
    difficulty = generator.beta(0.5, 0.5, 60)
    found = rate(
      generator.binomial(4, difficulty).astype(float), np.full(60, 4.0)
    )
    covered += found.low <= 0.5 <= found.high
  # 95 % of 400 is 380 with a standard deviation of 4.4; taking the 240
  # samples for independent covers 79 %, which is 317.
  assert 362 <= covered <= 397


def test_a_paired_difference_is_the_adjusted_wald_interval():
  # f12 = 5, f21 = 1, n = 20: (6 - 2)/22 = .1818, variance
  # (8/22 - .1818²)/22 = .015026, half width 1.96 * .12258 = .24026.
  gains = _binary(5, 20)
  found = paired_difference(
    gains, gains[::-1] * (np.arange(20) > 18), samples=20
  )
  assert found.value == pytest.approx(0.2)
  np.testing.assert_allclose(_bounds(found), (-0.05844, 0.42207), atol=1e-5)


def test_swapping_gains_and_losses_mirrors_the_interval():
  gains, losses = _binary(7, 30), _binary(2, 30)[::-1].copy()
  there = paired_difference(gains, losses, samples=30)
  back = paired_difference(losses, gains, samples=30)
  np.testing.assert_allclose(
    (there.value, there.low, there.high), (-back.value, -back.high, -back.low)
  )


def test_a_difference_of_copies_counts_problems_and_not_samples():
  gains, losses = _binary(7, 30), _binary(2, 30)[::-1].copy()
  once = paired_difference(gains, losses, samples=30)
  copied = paired_difference(gains, losses, samples=300)
  assert _bounds(copied) == _bounds(once)
  assert dataclasses.replace(copied, count=30) == once


def test_no_change_is_not_known_for_certain():
  found = paired_difference(np.zeros(100), np.zeros(100), samples=100)
  assert found.value == 0
  assert found.low == pytest.approx(-found.high)
  assert 0 < found.high < 0.05


def test_a_mean_over_seeds_has_the_error_of_the_mean():
  # 1, 2, 6: mean 3, s² = (4 + 1 + 9)/2 = 7, s.e. = sqrt(7/3); with s² over n
  # it would be sqrt(14/9).
  found = mean_and_standard_error([1.0, 2.0, 6.0])
  assert found.mean == 3.0
  assert found.standard_error == pytest.approx((7 / 3) ** 0.5)
  assert found.count == 3


def test_one_seed_has_no_standard_error():
  found = mean_and_standard_error([0.25])
  assert (found.mean, found.standard_error, found.count) == (0.25, None, 1)


@pytest.mark.parametrize('values', [[], [1.0, float('nan')]])
def test_seeds_without_a_finite_value_are_refused(values):
  with pytest.raises(ValueError, match='give at least one, all finite'):
    mean_and_standard_error(values)
