from __future__ import annotations

import logging

import pytest

from selfimprove.rewards.symbolic import readable, same_value


@pytest.mark.parametrize(
  'text',
  [
    '9^{9^{9}}',
    '9^9^9',
    '9^{(9^{9})}',
    '9^{9!}',
    '2^{100000}',
    '(x+y+z)^{300}',
    '100000!',
    '(9!)!',
    r'\binom{1000000000}{5}',
    '(' * 11 + '1' + ')' * 11,
    r'\frac{' * 6 + '1' + '}{(1)}' * 6 + '(' * 12,
    r'\begin{pmatrix}' + r'1&1\\' * 40 + r'\end{pmatrix}',
    '2^2+' * 9 + '1',
    'x' * 501,
  ],
)
def test_what_would_hang_is_not_parsed(text):
  assert not readable(text)


@pytest.mark.parametrize(
  'text',
  ['', 'x^{2023}', '2^{10}', 'e^{x^2}', '999!', r'\binom{10}{5}', 'x' * 500],
)
def test_ordinary_answers_are_within_the_bounds(text):
  assert readable(text)


def test_the_length_that_is_parsed_can_be_set():
  assert readable('x' * 20, max_characters=20)
  assert not readable('x' * 21, max_characters=20)


def test_what_cannot_be_parsed_is_the_same_as_nothing():
  assert not same_value(r'\frac{', r'\frac{')
  assert not same_value('', '5')


@pytest.mark.parametrize(
  'text',
  [
    r'\sin/4^\frac{1}{2}\}(-',
    r'\frac{1}{2})(',
    '\\frac{1}{2}^\\',
    r'^ answer is \frac{1}{2})(',
  ],
)
def test_a_fraction_within_what_cannot_be_parsed_is_no_answer(text):
  assert not same_value(text, r'\frac{1}{2}')


def test_the_roles_of_answer_and_reference_differ():
  # The answer may be the set of a condition, but not the other way around.
  assert same_value(r'(5,\infty)', 'x>5')
  assert not same_value('x>5', r'(5,\infty)')


def test_decimals_say_how_well_a_decimal_must_agree():
  assert same_value('1.41421356', r'\sqrt{2}')
  assert not same_value('1.414', r'\sqrt{2}')
  assert same_value('1.414', r'\sqrt{2}', decimals=3)


def test_nothing_is_said(caplog, capfd):
  with caplog.at_level(logging.DEBUG):
    same_value(r'\frac{x}{', 'x+1')
    same_value('2x', 'x+x')
  assert not caplog.records
  assert capfd.readouterr() == ('', '')
