"""Where two texts part, to be shown in a sentence."""

from __future__ import annotations

import itertools


def first_difference(
  here: str, there: str, *, nothing: str = ''
) -> tuple[str, str]:
  r"""The first line of each text that the other does not have in its place.

  Args:
    here: a text of any number of lines.
    there: another one.
    nothing: stands for the line of a text that has ended.

  Returns:
    A line of each; twice `nothing` where all lines are the same.

  >>> first_difference('a = 1\nb = 2', 'a = 1\nb = 3')
  ('b = 2', 'b = 3')
  >>> first_difference('a = 1', 'a = 1\nb = 3', nothing='(nothing)')
  ('(nothing)', 'b = 3')
  """
  pairs = itertools.zip_longest(
    here.splitlines(), there.splitlines(), fillvalue=nothing
  )
  return next((pair for pair in pairs if pair[0] != pair[1]), (nothing,) * 2)
