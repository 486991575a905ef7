r"""Whether two expressions are the same, by computer algebra.

`math-verify` parses LaTeX and compares with SymPy. It may take for ever, or all
memory: it is to be called in a `pool`, whose kill is the only limit that holds
(its own, an alarm, is switched off). Bounds on the text decide most of what
would hang before anything is parsed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

_DEEPEST = 10
_LONGEST_EXPONENT = 4
_LARGEST_FACTORIAL = 3
_BRACKET = re.compile(r'\\.|[()\[\]{}]', re.DOTALL)
# A power of a power of numbers, however it is bracketed.
_TOWER = re.compile(r'\^[\s{(]*[-\d.]+[\s})]*(?:\^|!|\\cdot|\\times)')
_LONG_EXPONENT = re.compile(rf'\^[\s{{(]*-?\d{{{_LONGEST_EXPONENT + 1},}}')
# What (x+y+z)^{300} is when it is multiplied out.
_LONG_POWER = re.compile(r'[)}\]]\s*\^[\s{(]*\d{3,}')
_BINOMIAL = re.compile(r'binom\s*\{\s*\d{5,}')
_FACTORIAL = re.compile(rf'\d{{{_LARGEST_FACTORIAL + 1},}}[\s)}}]*!|![\s)}}]*!')
_NUMERIC_POWER = re.compile(r'[\d)}]\s*\^')
_MOST_POWERS = 8
_MOST_CELLS = 64
_LOGGERS = ('math_verify.parser', 'math_verify.grader')


def readable(text: str, *, max_characters: int = 500) -> bool:
  r"""Whether an expression is within the bounds of what is parsed.

  Refused are texts that are too long, brackets more than 10 deep, matrices of
  more than 64 cells, exponents of more than 4 digits, of more than 2 behind a
  bracket, numeric powers of powers (9^{9^{9}}), more than 8 numeric powers,
  factorials of numbers above 999 and factorials of factorials, and binomials
  of numbers above 9999.

  Args:
    text: a canonical answer.
    max_characters: longest text, >= 0.

  Returns:
    Whether it may be parsed.

  >>> readable(r'\sqrt{2^{10}}'), readable('9^{9^{9}}')
  (True, False)
  """
  return (
    len(text) <= max_characters
    and _depth(text) <= _DEEPEST
    and text.count('&') + text.count(r'\\') <= _MOST_CELLS
    and len(_NUMERIC_POWER.findall(text)) <= _MOST_POWERS
    and not any(
      pattern.search(text)
      for pattern in (
        _TOWER,
        _LONG_EXPONENT,
        _LONG_POWER,
        _FACTORIAL,
        _BINOMIAL,
      )
    )
  )


def same_value(answer: str, reference: str, *, decimals: int = 6) -> bool:
  """Whether two expressions have the same value.

  What cannot be parsed is the same as nothing. The roles differ: an answer
  `x = 5` is the reference `5`, and the answer `(5, oo)` the reference `x > 5`.

  Args:
    answer: canonical, within the bounds of `readable`.
    reference: the same.
    decimals: to which a decimal is compared with a number that has no end.

  Returns:
    Whether they agree.

  Raises:
    MemoryError: there is not enough for the comparison.
  """
  import math_verify
  from sympy.core import random

  with _quiet():
    # SymPy draws numbers to tell expressions apart: always the same ones.
    random.seed(0)
    target = _parsed(reference)
    found = _parsed(answer) if target else ()
    return bool(found) and math_verify.verify(
      list(target),
      list(found),
      float_rounding=decimals,
      strict=True,
      timeout_seconds=0,
    )


def prepare() -> None:
  """Imports and warms up what the first comparison would wait for."""
  for answer, reference in (('2x+x', '3x'), (r'2\sqrt{2}', r'\sqrt{8}')):
    same_value(answer, reference)
  same_value(r'(1,2)\cup(3,4)', r'[1,\frac{1}{2}]')


@functools.lru_cache(maxsize=2048)
def _parsed(text: str) -> tuple[Any, ...]:
  import math_verify

  if 'answer' in text.lower():
    return ()  # It would look for what follows that word.
  try:
    found = math_verify.parse(
      # With a space, so that a final backslash escapes no dollar.
      f'${text} $',
      [_extraction()],
      fallback_mode='no_fallback',
      parsing_timeout=0,
      raise_on_error=True,
    )
  except MemoryError:
    raise
  except Exception:  # Whatever its many layers raise: it is no expression.
    return ()
  return tuple(found)


@functools.lru_cache(maxsize=1)
def _extraction() -> Any:
  """How text is read; without its removal of units, which drops 5m's m."""
  import math_verify

  usual = math_verify.LatexExtractionConfig(boxed_match_priority=-1)
  how = dataclasses.replace(
    usual.normalization_config, units=False, boxed='none'
  )
  return dataclasses.replace(usual, normalization_config=how)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without its remark that no alarm is set, and warnings about input."""
  loggers = [logging.getLogger(name) for name in _LOGGERS]
  before = [logger.disabled for logger in loggers]
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for logger in loggers:
      logger.disabled = True
    try:
      yield
    finally:
      for logger, disabled in zip(loggers, before):
        logger.disabled = disabled


def _depth(text: str) -> int:
  depth = deepest = 0
  for found in _BRACKET.finditer(text):
    token = found.group()
    depth += (token in '([{') - (token in ')]}')
    deepest = max(deepest, depth)
  return deepest
