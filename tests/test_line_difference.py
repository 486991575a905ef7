from __future__ import annotations

import pytest

from selfimprove.line_difference import first_difference


@pytest.mark.parametrize(
  ('here', 'there', 'lines'),
  [
    ('a\nb\nc', 'a\nx\ny', ('b', 'x')),
    ('a', 'a\nb\nc', ('-', 'b')),
    ('a\nb', 'a', ('b', '-')),
    ('a\n', 'a\n\n', ('-', '')),
    ('', 'a', ('-', 'a')),
    ('a', 'a\n', ('-', '-')),
  ],
)
def test_the_first_lines_that_differ_are_shown(here, there, lines):
  assert first_difference(here, there, nothing='-') == lines
  assert first_difference(there, here, nothing='-') == lines[::-1]
