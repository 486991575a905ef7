from __future__ import annotations

import time

import pytest

from selfimprove import answer_text


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    ('Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72', '72'),
    ('#### 1\nno:\n####  1,072 \n', '1,072'),
    ('a #### -3\nmore words', '-3'),
    ('no mark', None),
    ('### 5', None),
    ('nothing behind ####', None),
    ('nothing behind ####  \n ', None),
    ('', None),
  ],
)
def test_the_answer_behind_hashes(text, answer):
  assert answer_text.after_hashes(text) == answer


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    (r'$\boxed{7}$', '7'),
    (r'first \boxed{1}, then \boxed{2}.', '2'),
    (r'\boxed{\frac{1}{\sqrt{2}}} and {more}', r'\frac{1}{\sqrt{2}}'),
    (r'\fbox{12}', '12'),
    (r'\boxed{1} \fbox{2}', '2'),
    (r'\boxed {3}', '3'),
    (r'$\boxed 7$ is it', '7'),
    (r'\boxed{\left\{1,2\right\}}', r'\left\{1,2\right\}'),
    (r'\boxed{[0,1\}}', r'[0,1\}'),  # Braces of sets need not balance.
    (r'\boxed{ 5 }', '5'),
    (r'\boxed{\text{(A)}}', r'\text{(A)}'),
    (r'\boxed{cut off', None),
    (r'\boxed{1} then \boxed{cut', '1'),
    (r'\boxed{\boxed{5}}', '5'),
    (r'\boxed { 5 }', '5'),
    (r'so \boxed 7. Then', '7'),
    ('{ { \\boxed{5}', '5'),
    (r'\boxed{\left\{ 1 \right.}', r'\left\{ 1 \right.'),
    (r'\boxed{5} or \boxed{}', '5'),
    (r'\boxed{}', None),
    (r'\boxedsomething{1}', None),
    ('7', None),
    ('', None),
  ],
)
def test_the_answer_in_the_last_box(text, answer):
  assert answer_text.boxed(text) == answer


@pytest.mark.parametrize(
  ('text', 'plain'),
  [
    ('1,072', '1072'),
    ('12,345,678.5', '12345678.5'),
    ('10{,}000', '10000'),
    ('(1, 2)', '(1, 2)'),
    ('(1,2)', '(1,2)'),
    ('1,0725', '1,0725'),
    ('x', 'x'),
  ],
)
def test_only_separators_of_thousands_are_removed(text, plain):
  assert answer_text.without_thousands_separators(text) == plain


@pytest.mark.parametrize(
  'text',
  [r'\boxed{' * 50_000, r'\boxed $' * 50_000, '####' * 100_000, '1,' * 100_000],
)
def test_hostile_texts_are_read_in_linear_time(text):
  start = time.perf_counter()
  answer_text.boxed(text)
  answer_text.after_hashes(text)
  answer_text.without_thousands_separators(text)
  assert time.perf_counter() - start < 2
