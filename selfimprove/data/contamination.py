"""Problems that are trained on and tested: shared runs of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from selfimprove.data.ngrams import ngrams, words
from selfimprove.data.rows import Row

DEFAULT_WORDS = 13
"""Of a run, as in arXiv 2005.14165, appendix C."""


class Overlap(NamedTuple):
  """A row that shares a run of words with a row of another split.

  Attributes:
    row: its index.
    other_split: which split.
    other_row: index of the first row there that has the run.
    ngram: the first run that they share.
    shared: how many runs of the row other splits have.
  """

  row: int
  other_split: str
  other_row: int
  ngram: str
  shared: int


def problem_of(row: Row) -> str:
  """The text that tells a problem apart.

  Args:
    row: any.

  Returns:
    Its field `problem`, if it has one: without instructions that all prompts
    share; else its prompt.
  """
  return str(row.fields.get('problem', row.fields.get('prompt', '')))


def overlaps(
  rows: Sequence[Row],
  against: Mapping[str, Sequence[Row]],
  *,
  size: int = DEFAULT_WORDS,
) -> list[Overlap]:
  """The rows that share `size` words in a row with one of other splits.

  A problem with fewer words counts if it is the same, word by word, as one of
  the others.

  Args:
    rows: of one split.
    against: the rows of others, by split.
    size: words of a run, at least 1; below 8 common phrases are found.

  Returns:
    One item per row that shares something, in the order of the rows.

  Raises:
    ValueError: `size` is below 1.
  """
  if size < 1:
    raise ValueError(f'A run of size={size} words is none; choose at least 1.')
  seen: dict[str, tuple[str, int]] = {}
  for split, others in against.items():
    for index, row in enumerate(others):
      for run in _runs(row, size):
        seen.setdefault(run, (split, index))
  found = []
  for index, row in enumerate(rows):
    shared = [run for run in _runs(row, size) if run in seen]
    if shared:
      split, other = seen[shared[0]]
      found.append(Overlap(index, split, other, shared[0], len(shared)))
  return found


def report(
  splits: Mapping[str, Sequence[Row]], *, size: int = DEFAULT_WORDS
) -> dict[str, Any]:
  """Which rows of `train` other splits test, and how many.

  Args:
    splits: the rows of each split; `train` and at least one other.
    size: words of a run.

  Returns:
    Plain data: `words`, `checked` (rows by split), `counts` (rows of `train`
    by the split that they overlap with) and `rows`, one object per row of
    `train` that overlaps, with both texts.
  """
  others = {name: rows for name, rows in splits.items() if name != 'train'}
  found = overlaps(splits.get('train', ()), others, size=size)
  counts = dict.fromkeys(others, 0)
  for overlap in found:
    counts[overlap.other_split] += 1
  return {
    'words': size,
    'checked': {name: len(rows) for name, rows in splits.items()},
    'counts': counts,
    'rows': [
      {
        'split': 'train',
        **overlap._asdict(),
        'problem': problem_of(splits['train'][overlap.row]),
        'other_problem': problem_of(
          others[overlap.other_split][overlap.other_row]
        ),
      }
      for overlap in found
    ],
  }


def _runs(row: Row, size: int) -> list[str]:
  """The runs of a problem; of a short one, all of it, marked as such."""
  found = words(problem_of(row))
  if len(found) >= size:
    return list(ngrams(found, size))
  return [f'whole: {" ".join(found)}'] if found else []
