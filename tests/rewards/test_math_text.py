from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimprove.rewards.math_text import (
  bare,
  canonical,
  is_words,
  parts,
  same_text,
)


@pytest.mark.parametrize(
  ('text', 'spelling'),
  [
    (r'$\dfrac12$.', r'\frac{1}{2}'),
    (r'\tfrac{1}2', r'\frac{1}{2}'),
    (r'\( 5 \)', '5'),
    (r'\left( 1,\, 2 \right]', '( 1, 2 ]'),
    (r'\text{(B)}', '(B)'),
    (r'1{,}000', '1,000'),
    (r'1\!,000', '1,000'),
    (r'\$5', r'\dollar 5'),
    ('$5', r'\dollar 5'),
    ('$5$', '5'),
    ('x²', 'x^{2}'),
    ('√12', r'\sqrt{12}'),
    ('sqrt(8)', r'\sqrt{8}'),
    (r'\sqrt2', r'\sqrt{2}'),
    ('2π', r'2\pi'),
    ('pi', r'\pi'),
    ('pipe', 'pipe'),
    (r'90^\circ', r'90^{\circ}'),
    ('90°', r'90^{\circ}'),
    ('x**2*3', r'x^2\cdot 3'),
    ('x <= 5', r'x \le 5'),
    (r'x \leq 5', r'x \le 5'),
    ('５', '5'),  # Full width.
    (r'a \\ b', r'a \\ b'),
    (r'a \\[2pt] b', r'a \\[2pt] b'),
  ],
)
def test_an_answer_has_one_spelling(text, spelling):
  assert canonical(text) == spelling


@given(st.text(max_size=60))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_any_text_can_be_read(text):
  spelling = canonical(text)
  assert parts(spelling) is None or len(parts(spelling).items) > 1
  assert same_text(bare(spelling), bare(spelling))


@pytest.mark.parametrize(
  ('text', 'found'),
  [
    ('(1, 2)', ('(', ('1', '2'), ')')),
    ('[0,1)', ('[', ('0', '1'), ')')),
    (r'\{1,2\}', (r'\{', ('1', '2'), r'\}')),
    ('1, 2, and 3', ('', ('1', '2', '3'), '')),
    ('1 or 2', ('', ('1', '2'), '')),
    ('(1,2), (3,4)', ('', ('(1,2)', '(3,4)'), '')),
    ('f(1, 2)', None),
    ('(1,2', None),
    ('1,2)', None),
    ('1,,2', None),
    ('(5)', None),
    ('', None),
  ],
)
def test_a_list_is_taken_apart(text, found):
  got = parts(text)
  assert (got and (got.opening, got.items, got.closing)) == found


@pytest.mark.parametrize(
  ('text', 'inner'),
  [
    ('((5))', '5'),
    ('(x+1)(x-1)', '(x+1)(x-1)'),
    ('(1,2)', '(1,2)'),
    ('()', '()'),
    ('(', '('),
  ],
)
def test_parentheses_around_one_value_are_dropped(text, inner):
  assert bare(text) == inner


def test_words_are_not_variables():
  assert is_words('no solution')
  assert not is_words('x')
  assert not is_words('2 cats')
