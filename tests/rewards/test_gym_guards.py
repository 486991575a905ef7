from __future__ import annotations

import pytest

from selfimprove.rewards.gym_guards import (
  ARITHMETIC,
  FORMULAS,
  LITERALS,
  is_harmless,
)

ATTACKS = [
  '__import__("os").system("id")',
  '[x for x in ().__class__.__base__.__subclasses__()]',
  'exec("1")',
  'open("/etc/passwd").read()',
  '(lambda: 1)()',
  'x.func',
  'sympify("1")',
  "S('1')",
  'lambdify(x, x)',
  'f"{exit()}"',
  '(exit := 1)',
  'print()',
]
BOMBS = ['9**9**9', '10**(10*10*10)', '9**999', '((9**99)**99)**99', '1' * 99]


@pytest.mark.parametrize('attack', ATTACKS)
@pytest.mark.parametrize('generator', sorted(LITERALS | ARITHMETIC | FORMULAS))
def test_programs_are_not_harmless(attack, generator):
  assert not is_harmless(attack, generator=generator)
  assert not is_harmless(f' \n{attack}', generator=generator)


@pytest.mark.parametrize('bomb', BOMBS)
@pytest.mark.parametrize('generator', sorted(ARITHMETIC | FORMULAS))
def test_numbers_that_would_fill_the_memory_are_not_harmless(bomb, generator):
  assert not is_harmless(bomb, generator=generator)


@pytest.mark.parametrize(
  'call',
  [
    'N(pi, 99999999)',
    'N (pi, 9)',
    'S(1)',
    'O(x)',
    'Q(1)',
    '(N)(pi, 9)',
    '_(1)',
  ],
)
@pytest.mark.parametrize('generator', sorted(FORMULAS))
def test_a_letter_is_not_called(call, generator):
  assert not is_harmless(call, generator=generator)
  assert not is_harmless(f'x + 2*{call}', generator=generator)


@pytest.mark.parametrize('generator', sorted(LITERALS))
def test_a_list_may_be_evaluated_but_not_computed(generator):
  assert is_harmless("['a', ['b', 1]]", generator=generator)
  assert is_harmless('[-1, (2, 3)]', generator=generator)
  assert is_harmless('1 2 3\n4 5 6', generator=generator)  # No expression.
  assert is_harmless('BAAD', generator=generator)
  assert not is_harmless('[0] * 10**10', generator=generator)


def test_an_expression_that_python_cannot_parse_for_depth_is_not_harmless():
  assert not is_harmless('-' * 99999 + '1', generator='n_queens')


@pytest.mark.parametrize(
  ('generator', 'answer'),
  [
    ('puzzle24', '(1 + 2 - 3/4) * 5'),
    ('countdown', '81 - 19 - 20*2'),
    ('simple_integration', '3*x**4/4 - 2*x**(1/2) + C'),
    ('intermediate_integration', 'x*exp(-2*x)*sin(3*x)/13 + C'),
    ('intermediate_integration', 'log(Abs(x)) + sqrt(2)*atan(x/2) + C'),
    ('polynomial_multiplication', '-15*x**3*y**2 + 70*z - 3'),
  ],
)
def test_what_is_asked_for_is_harmless(generator, answer):
  assert is_harmless(answer, generator=generator)


def test_a_generator_that_evaluates_nothing_may_be_shown_anything():
  assert is_harmless('__import__("os")', generator='chain_sum')
