from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimprove.rewards.answers import Numeric, exact_text, read_number

# The same examples each time, however busy the machine is.
_examples = settings(derandomize=True, deadline=None, max_examples=60)


@pytest.mark.parametrize(
  ('attempt', 'verdict'),
  [('42', 1.0), (' 42\n', 1.0), ('42.', 0.0), ('4 2', 0.0), ('', 0.0)],
)
def test_exact_text_ignores_only_white_space_around(attempt, verdict):
  assert exact_text(attempt, {'answer': '42 '}) == verdict


def test_exact_text_reads_a_reference_that_is_a_number():
  assert exact_text('42', {'answer': 42}) == 1.0


@pytest.mark.parametrize('verifier', [exact_text, Numeric()])
def test_a_row_without_an_answer_is_named(verifier):
  with pytest.raises(ValueError, match=r"\['prompt'\] and no `answer`"):
    verifier('42', {'prompt': '6*7='})


@pytest.mark.parametrize(
  ('text', 'value'),
  [
    ('7', Fraction(7)),
    ('The answer is 7.', Fraction(7)),
    ('first 3, then 4', Fraction(4)),
    ('1,234,567', Fraction(1234567)),
    ('(1, 2)', Fraction(2)),
    ('1,23', Fraction(23)),  # No thousands: two numbers.
    ('-3', Fraction(-3)),
    ('is −3', Fraction(-3)),
    ('+3', Fraction(3)),
    ('5-3', Fraction(3)),  # A difference, not 5 and minus 3.
    ('x-3', Fraction(3)),
    ('(5)-3', Fraction(3)),
    ('= -3', Fraction(-3)),
    ('0.25', Fraction(1, 4)),
    ('.25', Fraction(1, 4)),
    ('-.5', Fraction(-1, 2)),
    ('2.5e-3', Fraction(1, 400)),
    ('1E3', Fraction(1000)),
    ('3/4', Fraction(3, 4)),
    ('-3 / 4', Fraction(-3, 4)),
    (r'\boxed{\frac{3}{4}}', Fraction(3, 4)),
    ('12.5%', Fraction(1, 8)),
    (r'50\%', Fraction(1, 2)),
    ('5 %', Fraction(1, 20)),
    ('$1,000.50', Fraction(2001, 2)),
    ('2 apples and x3', Fraction(2)),
    ('no number', None),
    ('', None),
    ('3/0', None),
    ('1e999999999', None),
    ('9' * 5000, None),
  ],
)
def test_the_last_number_of_a_text_is_read(text, value):
  assert read_number(text) == value


@pytest.mark.parametrize(
  ('text', 'value'),
  [
    (' 7 ', Fraction(7)),
    ('-3/4', Fraction(-3, 4)),
    ('is 7', None),
    ('7.', None),
  ],
)
def test_a_whole_text_must_be_a_number(text, value):
  assert read_number(text, where='whole') == value


@_examples
@given(st.text(alphabet='0123456789.,/%eE+-−() x', max_size=40))
def test_any_text_gets_a_verdict(text):
  assert Numeric()(text, {'answer': '7'}) in (0.0, 1.0)


@_examples
@given(st.fractions(), st.text(alphabet='abc \n', max_size=5))
def test_a_fraction_is_read_back_from_any_words_around_it(value, words):
  assert read_number(f'{words} {value} {words}') == value


@_examples
@given(st.integers(min_value=-(10**12), max_value=10**12))
def test_commas_between_thousands_change_nothing(value):
  assert read_number(f'{value:,}') == value


@pytest.mark.parametrize(
  ('attempt', 'verdict'),
  [('1/2', 1.0), ('50%', 1.0), ('0.50', 1.0), ('0.5001', 0.0), ('none', 0.0)],
)
def test_numbers_are_compared_exactly_by_default(attempt, verdict):
  assert Numeric()(attempt, {'answer': 0.5}) == verdict


def test_the_larger_tolerance_decides():
  # |1003 - 1000| = 3, which is .003 of the reference.
  reference = {'answer': '1,000'}
  assert Numeric(relative_tolerance=0.003)('1003', reference) == 1.0
  assert Numeric(relative_tolerance=0.0029)('1003', reference) == 0.0
  assert Numeric(absolute_tolerance=3)('1003', reference) == 1.0
  assert Numeric(absolute_tolerance=2)('1003', reference) == 0.0
  both = Numeric(absolute_tolerance=2, relative_tolerance=0.003)
  assert both('1003', reference) == 1.0


def test_a_relative_tolerance_is_relative_to_the_reference():
  # |50 - 100| = 50 is .5 of the reference 100 and all of the attempt 50.
  assert Numeric(relative_tolerance=0.5)('50', {'answer': 100}) == 1.0
  assert Numeric(relative_tolerance=0.5)('100', {'answer': 50}) == 0.0


def test_whole_asks_that_the_attempt_be_a_number_alone():
  assert Numeric()('it is 5', {'answer': 5}) == 1.0
  assert Numeric(where='whole')('it is 5', {'answer': 5}) == 0.0
  assert Numeric(where='whole')(' 5 ', {'answer': 5}) == 1.0


def test_a_reference_that_is_no_number_is_named():
  with pytest.raises(ValueError, match="'seven' is not a number"):
    Numeric()('7', {'answer': 'seven'})


@pytest.mark.parametrize(
  ('setting', 'value'),
  [
    ('where', 'first'),
    ('relative_tolerance', -0.1),
    ('absolute_tolerance', float('nan')),
  ],
)
def test_a_setting_out_of_range_is_named(setting, value):
  with pytest.raises(ValueError, match=f'{setting} is '):
    Numeric(**{setting: value})
