r"""Where a text says its final answer: `\boxed{}`, `####`, "the answer is".

Functions of text alone, linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from selfimprove import answer_text

_STATED = re.compile(
  r'\b(?:final |correct )?answer\**(?:[ ]?:\**|[ ](?:is|was|are)\b[ ]?:?)',
  re.IGNORECASE,
)
# The end of a sentence: a decimal point is followed by a digit.
_SENTENCE = re.compile(r'\.(?:\s|$)|[!?](?=\s+[A-Z])')
# Blanks of one line alone: white space of all lines would be read once a line.
_LETTER = re.compile(
  r'\(([A-J])\)|^[ \t]*\**([A-J])\**[.:)]?[ \t\r]*$', re.MULTILINE
)


def stated(text: str) -> str | None:
  """What the last "the answer is" or "Answer:" of a text says.

  It ends with the sentence or the line.

  Args:
    text: any text.

  Returns:
    The answer; None where nothing is stated.

  >>> stated('The answer is 1.5 cm. Done.')
  '1.5 cm'
  """
  ends = [found.end() for found in _STATED.finditer(text)]
  if not ends:
    return None
  line = text[ends[-1] :].lstrip(' \t').split('\n', maxsplit=1)[0]
  return _SENTENCE.split(line, maxsplit=1)[0].strip(' \t*') or None


def letter(text: str) -> str | None:
  """The last choice of a text: `(B)`, or a line that is `B`; None without."""
  found = _LETTER.findall(text)
  return (found[-1][0] or found[-1][1]) if found else None


READERS: Mapping[str, Callable[[str], str | None]] = {
  'boxed': answer_text.boxed,
  'hashes': answer_text.after_hashes,
  'stated': stated,
  'letter': letter,
  'whole': str.strip,
}
"""The ways to find an answer, by name; `whole` takes the text as it is."""


def final_answer(text: str, *, ways: tuple[str, ...]) -> str | None:
  """The final answer of a text.

  Args:
    text: any text.
    ways: names of `READERS`; the first that finds something decides.

  Returns:
    The answer; None where no way finds one.

  Raises:
    KeyError: a name is none of `READERS`.
  """
  for way in ways:
    answer = READERS[way](text)
    if answer is not None:
      return answer
  return None
