from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from selfimprove.evaluation.metrics import (
  attempt_metrics,
  changed,
  majority_at_k,
  pass_at_k,
)

# The same examples each time, however busy the machine is.
_examples = settings(derandomize=True, deadline=None, max_examples=60)

_VERDICTS = st_numpy.arrays(
  np.bool_,
  st.tuples(st.integers(1, 6), st.integers(1, 4), st.just(2)),
)


def _values(correct):
  found = attempt_metrics(np.asarray(correct))
  return {name: item.value for name, item in found.items()}


def test_the_metrics_of_ten_problems_counted_by_hand():
  # Right twice 3, fixed 2, broken 1, wrong twice 4.
  pairs = [(1, 1)] * 3 + [(0, 1)] * 2 + [(1, 0)] + [(0, 0)] * 4
  values = _values([[pair] for pair in pairs])
  assert values == pytest.approx(
    {
      'acc_t1': 0.4,
      'acc_t2': 0.5,
      'delta': 0.1,
      'i_to_c': 0.2,
      'c_to_i': 0.1,
      'confidence': 3 / 4,
      'critique': 2 / 6,
    }
  )


@_examples
@given(_VERDICTS)
def test_delta_is_what_was_fixed_minus_what_was_broken(correct):
  values = _values(correct)
  assert values['delta'] == pytest.approx(values['i_to_c'] - values['c_to_i'])
  assert values['delta'] == pytest.approx(values['acc_t2'] - values['acc_t1'])
  assert values['i_to_c'] <= 1 - values['acc_t1'] + 1e-12
  assert values['c_to_i'] <= values['acc_t1'] + 1e-12


@_examples
@given(_VERDICTS)
def test_conditional_rates_are_the_rates_divided_by_their_condition(correct):
  values = _values(correct)
  acc_t1 = values['acc_t1']
  if acc_t1 == 0:
    assert values['confidence'] is None
  else:
    assert values['confidence'] == pytest.approx(1 - values['c_to_i'] / acc_t1)
  if acc_t1 == 1:
    assert values['critique'] is None
  else:
    assert values['critique'] == pytest.approx(values['i_to_c'] / (1 - acc_t1))


@_examples
@given(_VERDICTS, st.randoms())
def test_the_order_of_problems_does_not_matter(correct, random):
  order = list(range(len(correct)))
  random.shuffle(order)
  shuffled = attempt_metrics(correct[order])
  for name, found in attempt_metrics(correct).items():
    assert found.value == pytest.approx(shuffled[name].value)
    assert found.low == pytest.approx(shuffled[name].low)


# SCoRe, table 1 (MATH) and table 2 (HumanEval), per cent:
# acc@t1, acc@t2, delta, i->c, c->i.
@pytest.mark.parametrize(
  'row',
  [
    (52.6, 41.4, -11.2, 4.6, 15.8),
    (52.8, 51.8, -1.0, 3.2, 4.2),
    (53.6, 54.0, 0.4, 2.6, 2.2),
    (55.4, 41.2, -14.2, 5.4, 19.6),
    (52.4, 54.2, 1.8, 5.4, 3.6),
    (55.0, 55.0, 0.0, 0.0, 0.0),
    (60.0, 64.4, 4.4, 5.8, 1.4),
    (53.7, 56.7, 3.0, 7.9, 4.9),
    (53.7, 52.5, -1.2, 9.8, 11.0),
    (56.1, 54.3, -1.8, 4.3, 6.1),
    (52.4, 64.6, 12.2, 15.2, 3.0),
  ],
)
def test_published_rows_come_out_of_problems_with_their_counts(row):
  acc_t1, _, _, fixed, broken = (round(10 * entry) for entry in row)
  pairs = (
    [(1, 0)] * broken
    + [(1, 1)] * (acc_t1 - broken)
    + [(0, 1)] * fixed
    + [(0, 0)] * (1000 - acc_t1 - fixed)
  )
  values = _values([[pair] for pair in pairs])
  names = ('acc_t1', 'acc_t2', 'delta', 'i_to_c', 'c_to_i')
  # The paper rounds each entry by itself, to a tenth.
  np.testing.assert_allclose(
    [100 * values[name] for name in names], row, atol=0.11
  )


def test_delta_is_known_better_than_the_accuracies():
  # 95 of 100 problems do not change: only the other five are uncertain.
  pairs = [(1, 1)] * 50 + [(0, 0)] * 45 + [(0, 1)] * 5
  found = attempt_metrics(np.array([[pair] for pair in pairs]))
  width = {name: item.high - item.low for name, item in found.items()}
  assert width['delta'] < width['acc_t1'] / 1.5


def test_conditional_rates_count_what_they_are_a_share_of():
  found = attempt_metrics(np.array([[(1, 1)], [(1, 0)], [(0, 0)]]))
  assert found['confidence'].count == 2
  assert found['critique'].count == 1
  assert found['acc_t1'].count == 3


def test_one_attempt_has_an_accuracy_and_nothing_else():
  assert _values([[[1]], [[0]]]) == {'acc_t1': 0.5}


def test_later_attempts_have_accuracies_too():
  values = _values([[[0, 0, 1]], [[0, 1, 1]]])
  assert (values['acc_t3'], values['delta']) == (1.0, 0.5)


def test_verdicts_are_zero_or_one():
  with pytest.raises(ValueError, match=r'A verdict is 0\.5'):
    attempt_metrics(np.array([[[1.0, 0.5]]]))
  with pytest.raises(ValueError, match='no verdicts'):
    attempt_metrics(np.zeros((0, 1, 2)))


def test_changed_counts_second_attempts_that_are_no_copies():
  answers = [[('a', 'a'), ('a', 'b')], [('c', 'c'), ('d', 'd')]]
  assert changed(answers).value == 0.25
  ids = [[[(1, 2), (1, 2)]], [[(1, 2), (2, 1)]]]
  assert changed(ids).value == 0.5


def test_changed_needs_two_attempts_and_as_many_samples_each():
  with pytest.raises(ValueError, match='fewer than 2 attempts'):
    changed([[('a',)]])
  with pytest.raises(ValueError, match=r'\[1, 2\] samples'):
    changed([[('a', 'a')], [('a', 'a'), ('a', 'a')]])


@pytest.mark.parametrize('samples', [1, 4, 7])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_sample(samples):
  for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
    verdicts = np.arange(samples) < right
    subsets = list(itertools.combinations(verdicts, k))
    expected = sum(map(any, subsets)) / len(subsets)
    found = pass_at_k(verdicts[None, :], k=k).value
    assert found == pytest.approx(expected, abs=1e-12)


def test_pass_at_one_is_the_accuracy():
  correct = np.random.default_rng(0).random((30, 8)) < 0.3
  assert pass_at_k(correct, k=1).value == pytest.approx(correct.mean())


def test_pass_at_k_does_not_overflow_for_many_samples():
  verdicts = (np.arange(2000) < 1)[None, :]
  # C(1999, 1000)/C(2000, 1000) = 1/2.
  assert pass_at_k(verdicts, k=1000).value == pytest.approx(0.5)


def test_pass_at_k_is_surer_with_more_samples():
  generator = np.random.default_rng(0)
  few = pass_at_k(generator.random((40, 2)) < 0.3, k=2)
  many = pass_at_k(generator.random((40, 64)) < 0.3, k=2)
  assert many.high - many.low < 0.5 * (few.high - few.low)


def test_the_majority_decides():
  answers = [['a', 'b', 'b'], ['c', 'c', 'd']]
  correct = np.array([[0, 1, 1], [0, 0, 1]])
  assert majority_at_k(answers, correct, k=3).value == 0.5
  assert majority_at_k(answers, correct, k=1).value == 0.0


def test_of_tied_answers_the_first_given_wins():
  correct = np.array([[0, 1, 1, 0]])
  assert majority_at_k([['a', 'b', 'b', 'a']], correct, k=4).value == 0.0
  assert majority_at_k([['b', 'a', 'a', 'b']], 1 - correct, k=4).value == 1.0
  # At k = 3 there is no tie.
  assert majority_at_k([['a', 'b', 'b', 'a']], correct, k=3).value == 1.0


def test_a_missing_answer_does_not_vote():
  correct = np.array([[0, 0, 1], [0, 0, 0]])
  answers = [[None, None, 'a'], [None, None, None]]
  assert majority_at_k(answers, correct, k=3).value == 0.5


def test_one_vote_is_the_first_sample():
  correct = np.random.default_rng(0).random((30, 4)) < 0.5
  answers = [[f'{i}' for i in range(4)] for _ in range(30)]
  found = majority_at_k(answers, correct, k=1).value
  assert found == pytest.approx(correct[:, 0].mean())


@pytest.mark.parametrize('k', [0, 5])
def test_k_beyond_the_samples_is_refused(k):
  correct = np.ones((2, 4))
  with pytest.raises(ValueError, match=f'k is {k} and there are 4 samples'):
    pass_at_k(correct, k=k)
  with pytest.raises(ValueError, match=f'k is {k} and there are 4 samples'):
    majority_at_k([['a'] * 4] * 2, correct, k=k)


def test_answers_without_verdicts_are_refused():
  with pytest.raises(ValueError, match='2 x 1 answers and 2 x 4 verdicts'):
    majority_at_k([['a'], ['b']], np.ones((2, 4)), k=1)


def test_a_known_value_of_pass_at_k():
  # 1 - C(7, 5)/C(10, 5) = 1 - 21/252; the biased form gives 1 - .7^5 = .832.
  verdicts = (np.arange(10) < 3)[None, :]
  expected = 1 - math.comb(7, 5) / math.comb(10, 5)
  assert pass_at_k(verdicts, k=5).value == pytest.approx(expected)
