r"""Final answers as data sets and models mark them: `#### 7`, `\boxed{7}`.

References (in the data room) and attempts (in the rewards room) are read by
the same functions. Only the standard library is imported: verifiers run in
worker processes that must start in milliseconds.
"""

from __future__ import annotations

import re

_BOX = re.compile(r'\\(?:boxed|fbox)(?![A-Za-z])\s*')
_BARE = re.compile(r'[^$\s]*')
_BRACE = re.compile(r'\\.|[{}]', re.DOTALL)
_SEPARATOR = re.compile(r'(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))')


def after_hashes(text: str) -> str | None:
  """What stands behind the last `####`, to the end of its line.

  Args:
    text: a solution.

  Returns:
    The answer without white space around it; None where nothing is marked.

  Source: arXiv 2110.14168, the format of GSM8K.
  Differs: no.

  >>> after_hashes('48 / 2 = 24 clips. #### 1,072')
  '1,072'
  """
  _, mark, rest = text.rpartition('####')
  lines = rest.strip().splitlines()
  return lines[0].strip() if mark and lines else None


def boxed(text: str) -> str | None:
  r"""The content of the last `\boxed{...}` or `\fbox{...}`.

  Braces may be nested, and `\{` and `\}` are no braces. Without braces the
  content goes on to the next `$` or white space, as in `\boxed 7$`.

  Args:
    text: a solution.

  Returns:
    The answer without white space around it; None where nothing is boxed. A
    box that does not end, or is empty, is none.

  Source: arXiv 2103.03874, the format of MATH.
  Differs: escaped braces are not counted.

  >>> boxed(r'so $x = \boxed{\frac{1}{2}}$.')
  '\\frac{1}{2}'
  """
  closing = _closing(text)
  for found in reversed(list(_BOX.finditer(text))):
    start = found.end()
    if text[start : start + 1] != '{':
      bare = _BARE.match(text, start)
      answer = bare.group().rstrip('.,;') if bare else ''
    else:
      answer = text[start + 1 : closing.get(start, 0)]
    if answer.strip():
      return answer.strip()
  return None


def without_thousands_separators(text: str) -> str:
  """The text without commas between groups of three digits.

  Args:
    text: an answer; a list such as `1, 2` and decimals stay as they are.

  Returns:
    The text with `1072` for `1,072`.

  >>> without_thousands_separators('$1,072,000')
  '$1072000'
  """
  return _SEPARATOR.sub('', text)


def _closing(text: str) -> dict[int, int]:
  """Where each brace that is closed is closed, by where it opens."""
  opened: list[int] = []
  closing = {}
  for brace in _BRACE.finditer(text):
    if brace.group() == '{':
      opened.append(brace.start())
    elif brace.group() == '}' and opened:
      closing[opened.pop()] = brace.start()
  return closing
