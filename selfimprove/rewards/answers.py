"""Verifiers of text: pure functions of an attempt and its reference row.

Each is `(attempt, reference) -> float` and total: whatever a model writes gets
a verdict, while a reference that cannot be read raises. Only the standard
library is imported, because these functions run in worker processes that must
start in milliseconds (see `pool`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

_DIGITS = r'(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)'
_SIZE = rf'(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?'
# A sign after a digit, letter or closing bracket subtracts: 5-3 ends with 3.
_SIGN = r'(?:(?<![\w.)\]}%])[-+])?'
_NUMBER = re.compile(
  rf'(?P<sign>{_SIGN})(?<![\w.])(?P<top>{_SIZE})'
  rf'(?:\s?/\s?(?P<bottom>{_SIZE}))?(?P<percent>\s?\\?%)?'
)
_LATEX_FRACTION = re.compile(r'\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}')
# Longer ones are no answers, and 1e999999999 would never become an integer.
_LONGEST_NUMBER = 64
_LARGEST_EXPONENT = 999


def exact_text(attempt: str, reference: Mapping[str, Any]) -> float:
  """1.0 where attempt and reference are the same text, else 0.0.

  White space around either is ignored; everything else counts.

  Args:
    attempt: what the model wrote.
    reference: data row with the field `answer`.

  Returns:
    1.0 or 0.0.

  Raises:
    ValueError: the row has no `answer`.
  """
  return float(attempt.strip() == _answer(reference))


def read_number(
  text: str, *, where: Literal['last', 'whole'] = 'last'
) -> Fraction | None:
  r"""The exact value of a number in a text.

  Read are signs, commas between thousands, decimals, powers of ten (1e-3),
  fractions (a/b, \frac{a}{b}) and percent (5% is 1/20). Not read are mixed
  numbers (1 1/2 ends with 1/2), and digits inside a word (x2).

  Args:
    text: any text.
    where: `last` takes the last number of the text, `whole` asks that the
      text be a number and nothing else.

  Returns:
    The number; None where there is none, where it divides by zero, or where
    it is longer than 64 characters.

  >>> read_number('So 1,200 - 20 = 1,180.')
  Fraction(1180, 1)
  """
  plain = _LATEX_FRACTION.sub(r'\1/\2', text.replace('\u2212', '-'))
  if where == 'whole':
    found = _NUMBER.fullmatch(plain.strip())
  else:
    found = None
    for found in _NUMBER.finditer(plain):  # noqa: B007, the last one is kept.
      pass
  return None if found is None else _value(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numeric:
  """1.0 where attempt and reference are the same number, else 0.0.

  |x - y| <= max(absolute_tolerance, relative_tolerance * |y|), in exact
  arithmetic, for the number x of the attempt and y of the reference.

  Attributes:
    where: `last` reads the last number of the attempt, `whole` asks that the
      attempt be a number and nothing else.
    relative_tolerance: >= 0; with the default 0, 1/2 equals 0.5 and 0.33 does
      not equal 1/3.
    absolute_tolerance: >= 0.
  """

  where: Literal['last', 'whole'] = 'last'
  relative_tolerance: float = 0.0
  absolute_tolerance: float = 0.0

  def __post_init__(self) -> None:
    if self.where not in ('last', 'whole'):
      raise ValueError(f"where is {self.where!r}; use 'last' or 'whole'.")
    for name in ('relative_tolerance', 'absolute_tolerance'):
      if not 0 <= getattr(self, name) < float('inf'):
        raise ValueError(
          f'{name} is {getattr(self, name)}; use a finite number >= 0.'
        )

  def __call__(self, attempt: str, reference: Mapping[str, Any]) -> float:
    """Returns the verdict.

    Args:
      attempt: what the model wrote; without a number it is wrong.
      reference: data row whose field `answer` is a number.

    Returns:
      1.0 or 0.0.

    Raises:
      ValueError: the row has no `answer`, or it is not a number.
    """
    target = read_number(_answer(reference), where='whole')
    if target is None:
      raise ValueError(
        f'The reference answer {reference["answer"]!r} is not a number; '
        'correct the row or use `exact_text`.'
      )
    value = read_number(attempt, where=self.where)
    if value is None:
      return 0.0
    tolerance = max(
      # Through text: 0.003 is 3/1000, as it was written.
      Fraction(str(self.absolute_tolerance)),
      Fraction(str(self.relative_tolerance)) * abs(target),
    )
    return float(abs(value - target) <= tolerance)


def _answer(reference: Mapping[str, Any]) -> str:
  if 'answer' not in reference:
    raise ValueError(
      f'The reference has the fields {sorted(reference)} and no `answer`; '
      'add it to the data row.'
    )
  return str(reference['answer']).strip()


def _value(found: re.Match[str]) -> Fraction | None:
  if len(found.group()) > _LONGEST_NUMBER:
    return None
  top = _decimal(found['top'])
  bottom = _decimal(found['bottom'] or '1')
  if top is None or not bottom:
    return None
  value = top / bottom / (100 if found['percent'] else 1)
  return -value if found['sign'] == '-' else value


def _decimal(digits: str) -> Fraction | None:
  exponent = re.split('[eE]', digits)[1:]
  if exponent and abs(int(exponent[0])) > _LARGEST_EXPONENT:
    return None
  return Fraction(digits.replace(',', ''))
