from __future__ import annotations

import time

import pytest

from selfimprove.rewards.final_answers import final_answer, letter, stated


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    ('The answer is 5.', '5'),
    ('So the final answer is: $\\frac{1}{2}$. I hope so.', '$\\frac{1}{2}$'),
    ('Answer: 1.5 cm', '1.5 cm'),
    ('**Answer:** (B)', '(B)'),
    ('the answer is not 5; the answer is 6', '6'),
    ('The answer is 3.14', '3.14'),
    ('The answer is 4! And that is all.', '4'),
    ('The answers are many.', None),
    ('answering is hard', None),
    ('the answer is', None),
  ],
)
def test_what_is_stated_last_is_the_answer(text, answer):
  assert stated(text) == answer


@pytest.mark.parametrize(
  ('text', 'answer'),
  [('I take (B) over (A): (B)', 'B'), ('so\nC.\nbye', 'C'), ('A dog', None)],
)
def test_the_last_choice_that_stands_alone_is_a_letter(text, answer):
  assert letter(text) == answer


def test_the_first_way_that_finds_something_decides():
  text = 'The answer is 4.\n#### 5'
  assert final_answer(text, ways=('boxed', 'stated', 'hashes')) == '4'
  assert final_answer(text, ways=('hashes', 'stated')) == '5'
  assert final_answer(' 7 ', ways=('boxed', 'whole')) == '7'
  assert final_answer('7', ways=('boxed',)) is None


@pytest.mark.parametrize(
  'piece',
  ['answer is ', '(A', 'Answer:', '**', '. ', '\n', ' ', ' \n', 'A \n', '\t'],
)
def test_a_long_text_of_beginnings_takes_no_time(piece):
  text = piece * 30_000
  began = time.monotonic()
  for read in (stated, letter):
    read(text)
  assert time.monotonic() - began < 5.0  # Quadratic takes minutes.
