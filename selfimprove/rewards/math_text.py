r"""Mathematical answers as text: one spelling, and the lists in it.

What models and data sets write in many ways (`\dfrac12`, `½`, `\frac{1}{2}`) is
brought to one spelling, in which most answers can be compared without computer
algebra. Only the standard library is imported.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata

_SYMBOLS = str.maketrans(
  {
    '−': '-',
    '–': '-',
    '×': r'\times ',
    '·': r'\cdot ',
    '÷': '/',
    'π': r'\pi ',
    '∞': r'\infty ',
    '≤': r'\le ',
    '≥': r'\ge ',
    '≠': r'\ne ',
    '∪': r'\cup ',
    '∩': r'\cap ',
    '°': r'^{\circ}',
    '€': r'\euro ',
    '£': r'\pound ',
    '√': r'\sqrt ',
    '¼': r'\frac{1}{4}',
    '½': r'\frac{1}{2}',
    '¾': r'\frac{3}{4}',
    '⅓': r'\frac{1}{3}',
    '⅔': r'\frac{2}{3}',
    **{mark: f'^{{{i}}}' for i, mark in enumerate('⁰¹²³⁴⁵⁶⁷⁸⁹')},
  }
)
# Pattern and replacement, applied in this order.
_SPELLINGS = tuple(
  (re.compile(pattern), new)
  for pattern, new in (
    (r'√\s*\(([^()]*)\)|√\s*(\d+)', r'\\sqrt{\1\2}'),
    (r'(?<!\\)\\[()\[\]]', ''),  # \( 5 \) is 5.
    (r'\\\$|\$(?=\s*\.?\d[^$]*$)', r'\\dollar '),  # A single $ is money.
    (r'\$', ''),
    (r'\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?', ''),
    (r'\\(?:displaystyle|textstyle|q?quad)(?![a-zA-Z])', ' '),
    (r'\\[dtc]frac(?![a-zA-Z])', r'\\frac'),
    (r'\\!', ''),
    (r'(?<!\\)\\[,;:> ]|~', ' '),
    (r'\\(?:text(?:rm|bf|it)?|mathrm|mathbf|mathit|mbox)\s*\{([^{}]*)\}',
     r' \1 '),
    (r'\\degrees?(?![a-zA-Z])|\^\s*\\circ(?![a-zA-Z])', r'^{\\circ}'),
    (r'\\(l|g|n)eq(?![a-zA-Z])', r'\\\1e'),
    (r'<=', r'\\le '),
    (r'>=', r'\\ge '),
    (r'!=', r'\\ne '),
    (r'\\lbrace(?![a-zA-Z])', r'\\{'),
    (r'\\rbrace(?![a-zA-Z])', r'\\}'),
    (r'\\%', '%'),
    (r'\{,\}', ','),
    (r'\*\*', '^'),
    (r'\*', r'\\cdot '),
    (r'\\frac\s*(\d)\s*(?=[\d{])', r'\\frac{\1}'),
    (r'(\\frac\s*\{[^{}]*\})\s*(\d)', r'\1{\2}'),
    (r'(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)', r'\\sqrt{\1}'),
    (r'\\sqrt\s*([\w])', r'\\sqrt{\1}'),
    (r'(?<![\\a-zA-Z])pi(?![a-zA-Z])', r'\\pi '),
    (r'(?<![\\a-zA-Z])(?:infinity|oo)(?![a-zA-Z])', r'\\infty '),
    (r'\s+', ' '),
  )
)  # fmt: skip
_BRACKETS = {'(': ')', '[': ']', '\\{': '\\}', '{': '}'}
_TOKEN = re.compile(
  r'\\[a-zA-Z]+|\\.|(?P<split>[,;]|(?<= )(?:and|or)(?= ))|[()\[\]{}]',
  re.DOTALL,
)
_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")


def canonical(text: str) -> str:
  r"""An answer in the one spelling.

  Args:
    text: an answer as it was extracted.

  Returns:
    LaTeX without delimiters, spacing commands and final punctuation.

  >>> canonical(r'$\dfrac12$.')
  '\\frac{1}{2}'
  """
  for pattern, new in _SPELLINGS[:1]:
    text = pattern.sub(new, text)
  text = unicodedata.normalize('NFKC', text.translate(_SYMBOLS))
  for pattern, new in _SPELLINGS[1:]:
    text = pattern.sub(new, text)
  ended = text.strip().rstrip(' .,;')
  # 5... goes on, and is not 5.
  return text.strip() if '..' in text[len(ended) :] else ended


def same_text(a: str, b: str) -> bool:
  """Whether two canonical answers differ in spaces at most."""
  return a.replace(' ', '') == b.replace(' ', '')


def is_words(text: str) -> bool:
  """Whether a canonical answer is words: at least two letters, no signs."""
  return len(text) > 1 and _WORDS.fullmatch(text) is not None


def bare(text: str) -> str:
  """A canonical answer without parentheses around a single value."""
  while True:
    opening, closing, inner = _unwrapped(text)
    single = len(_split(inner) or ()) == 1 and inner.strip()
    if (opening, closing) != ('(', ')') or not single:
      return text
    text = inner.strip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
  r"""An answer of several values.

  Attributes:
    opening: its bracket, `(`, `[` or `\{`; empty for a bare list.
    items: the values.
    closing: the other bracket.
  """

  opening: str
  items: tuple[str, ...]
  closing: str

  @property
  def ordered(self) -> bool:
    """Whether the order of the values matters."""
    return self.opening in ('(', '[')


def parts(text: str) -> Parts | None:
  r"""The values of a list, tuple, interval or finite set.

  Args:
    text: a canonical answer.

  Returns:
    Its parts; None where it is a single value.

  >>> parts(r'(1, \frac{1}{2}]').items
  ('1', '\\frac{1}{2}')
  """
  opening, closing, inner = _unwrapped(text)
  items = _split(inner)
  if items is None or len(items) < 2 or not all(items):
    return None
  return Parts(opening=opening, items=tuple(items), closing=closing)


def _unwrapped(text: str) -> tuple[str, str, str]:
  """Outer brackets, and what is within them; none if they do not match."""
  opened: list[str] = []
  for found in _TOKEN.finditer(text):
    token = found.group()
    if token in _BRACKETS:
      opened.append(token)
    elif token in _BRACKETS.values():
      # A half-open interval closes with the other bracket.
      outer = opened.pop() if opened else ''
      if not opened:
        whole = text.startswith(outer) and found.end() == len(text)
        if whole and outer and outer != '{':
          return outer, token, text[len(outer) : found.start()]
        return '', '', text
  return '', '', text


def _split(text: str) -> list[str] | None:
  """What top-level commas, semicolons, and/or separate; None if unbalanced."""
  depth, start, items = 0, 0, []
  for found in _TOKEN.finditer(text):
    token = found.group()
    if token in _BRACKETS:
      depth += 1
    elif token in _BRACKETS.values():
      depth -= 1
    elif found['split'] and depth == 0:
      item = text[start : found.start()].strip()
      # 1, 2, and 3: nothing stands between the comma and the word.
      if item or token in ',;':
        items.append(item)
      start = found.end()
    if depth < 0:
      return None
  items.append(text[start:].strip())
  return items if depth == 0 else None
