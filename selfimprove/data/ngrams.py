"""Runs of words, by which texts are found to be the same in part."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_WORD = re.compile(r'\w+')


def plain(text: str) -> str:
  """The text in one spelling: composed, without case, single spaces.

  Args:
    text: any.

  Returns:
    What texts are compared by that are to be the same; x² stays x².
  """
  return ' '.join(unicodedata.normalize('NFC', text).casefold().split())


def words(text: str) -> list[str]:
  """The words and numbers of a text, without case and punctuation.

  Args:
    text: any.

  Returns:
    Words in their order.
  """
  return _WORD.findall(unicodedata.normalize('NFC', text).casefold())


def ngrams(found: list[str], size: int) -> Iterator[str]:
  """All runs of words.

  Args:
    found: words.
    size: of a run, at least 1.

  Yields:
    Words joined by spaces, from the first run to the last.
  """
  for start in range(len(found) - size + 1):
    yield ' '.join(found[start : start + size])
