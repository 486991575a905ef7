from __future__ import annotations

from fractions import Fraction

import pytest

from selfimprove.rewards.quantities import agree, quantity


@pytest.mark.parametrize(
  ('text', 'value', 'unit'),
  [
    ('5', 5, ''),
    ('-5', -5, ''),
    ('- 5', -5, ''),
    ('5.', 5, ''),
    ('.5', Fraction(1, 2), ''),
    ('1,234,567.5', Fraction(2469135, 2), ''),
    ('1 000', 1000, ''),
    (r'\frac{1}{2}', Fraction(1, 2), ''),
    (r'-\frac{-1}{2}', Fraction(1, 2), ''),
    (r'1\frac{1}{2}', Fraction(3, 2), ''),
    ('-1 1/2', Fraction(-3, 2), ''),
    ('3/4', Fraction(3, 4), ''),
    ('1e-3', Fraction(1, 1000), ''),
    (r'1.5 \times 10^{3}', 1500, ''),
    (r'2\cdot 10^2', 200, ''),
    ('10^{-2}', Fraction(1, 100), ''),
    (r'\dollar 5', 5, 'dollar'),
    (r'-\dollar 5', -5, 'dollar'),
    ('5 dollars', 5, 'dollar'),
    ('5 cm', 5, 'cm'),
    ('5cm', 5, 'cm'),
    ('5 centimetres', 5, 'cm'),
    ('5 cm^2', 5, 'cm^2'),
    ('5 cm ^{2}', 5, 'cm^2'),
    ('5 square centimeters', 5, 'cm^2'),
    ('5 square units', 5, ''),
    ('5 m/s', 5, 'm s'),
    ('5 meters per second', 5, 'm s'),
    ('90^{\\circ}', 90, 'degree'),
    ('90 degrees', 90, 'degree'),
    ('42 apples', 42, 'apple'),
  ],
)
def test_a_number_is_read_with_its_unit(text, value, unit):
  found = quantity(text)
  assert (found.value, found.unit) == (value, unit)


@pytest.mark.parametrize(
  'text',
  [
    '',
    'x',
    '5x',
    '5m',  # A product.
    '5 million',
    '5 or six',
    '1,00',
    '1/0',
    r'\frac{1}{0}',
    '5 + 3',
    '2^3',
    '1e9999',
    '1e99999999999',
    '9' * 201,
    '5 % cm %',
    '(1, 2)',
  ],
)
def test_what_is_no_quantity_is_none(text):
  assert quantity(text) is None


@pytest.mark.parametrize(
  'text',
  [
    *('5 millions', '5 billions', '3 hundredths', '7 squared', '3 cubed'),
    *('5 negative', '12 less', '5 twice', '5 lakh', '2 dozens', '6 factorial'),
    *('9 roots', '5 degrees below zero', '5 halves', '5 twenties', '5 sixes'),
    *('5 cm twice', '5 tens', '5 n', '5 M', '5 k'),
  ],
)
def test_words_for_numbers_and_operations_are_no_units(text):
  assert quantity(text) is None


def _agree(a, b, **tolerances):
  return agree(quantity(a), quantity(b), **tolerances)


def test_numbers_agree_exactly_but_for_the_tolerance():
  assert not _agree('0.33', '1/3')
  assert _agree('0.33', '1/3', relative_tolerance=0.01)
  assert not _agree('0.32', '1/3', relative_tolerance=0.01)
  assert _agree('1003', '1000', absolute_tolerance=3)
  assert not _agree('1004', '1000', absolute_tolerance=3)


def test_a_percentage_is_its_number_and_its_hundredth():
  assert _agree('50%', '50')
  assert _agree('50 %', '1/2')
  assert _agree('0.5', '50 percent')
  assert not _agree('0.5%', '50%')
  assert not _agree('50', '1/2')


@pytest.mark.parametrize(
  'text', ['5 apples', '5 m/s', '5 square feet', '5 apples per day', '5 J']
)
def test_a_unit_may_be_missing_on_one_side(text):
  assert _agree(text, '5')
  assert _agree('5', text)


def test_several_words_that_are_not_known_must_be_those_of_the_reference():
  assert not _agree('5 red herrings', '5')
  assert _agree('5', '5 red herrings')
  assert _agree('5 red herrings', '5 red herrings')


def test_units_must_agree_where_both_are_stated():
  assert _agree('5', '5 cm')
  assert _agree('5 cm', '5 centimeters')
  assert not _agree('5 cm', '5 m')
  assert not _agree('5 cm', '5 cm^2')
