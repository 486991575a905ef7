from __future__ import annotations

import numpy as np
import pytest

from selfimprove.data import problems


def draw(**kwargs):
  usual = {'seed': 0, 'stream': 2, 'rows': 3, 'columns': 2}
  return problems.uniforms(**{**usual, **kwargs})


def test_the_numbers_are_uniform():
  found = draw(rows=20000, columns=1)
  # 20,000 numbers: standard error of the mean .0020, of the variance .0005.
  assert found.min() >= 0
  assert found.max() < 1
  assert found.mean() == pytest.approx(0.5, abs=0.01)
  assert found.var() == pytest.approx(1 / 12, abs=0.003)


def test_the_numbers_are_part_of_the_format():
  # Written down once: the same on every platform and in every NumPy.
  np.testing.assert_array_equal((draw(rows=1) * 10**6).astype(int), GOLDEN)


GOLDEN = [[756441, 417327]]


def test_more_rows_continue_fewer():
  np.testing.assert_array_equal(draw(rows=50)[:3], draw())


@pytest.mark.parametrize('other', [{'seed': 1}, {'stream': 3}])
def test_another_seed_or_stream_has_other_numbers(other):
  assert not np.any(draw(**other) == draw())


@pytest.mark.parametrize(
  'wrong', [{'seed': -1}, {'seed': 2**64}, {'rows': 0}, {'columns': 0}]
)
def test_a_number_out_of_range_is_refused(wrong):
  with pytest.raises(ValueError, match='choose'):
    draw(**wrong)


def test_a_share_outside_0_and_1_is_refused():
  problems.check_shares(right=0.0, wrong=1.0)
  with pytest.raises(ValueError, match='is no probability'):
    problems.check_shares(right=0.0, wrong=1.5)
