"""Rules that leave problems out of what is trained on, counted one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfimprove.data import contamination, ngrams, pass_rates
from selfimprove.data.contamination import problem_of
from selfimprove.data.filtered_task import Filter, Filtered, Reasons
from selfimprove.data.near_duplicates import near_duplicates
from selfimprove.data.rows import Row


def filtered(
  *, task: Any, filters: Sequence[Filter], on: Sequence[str] = ('train',)
) -> Filtered:
  """A task without the problems that filters leave out.

  What is left out is counted by rule in `Table.dropped`, and shown when a run
  begins. Positions count what is kept.

  Args:
    task: a `TextTask` or a mixture.
    filters: applied in their order.
    on: splits they apply to.

  Returns:
    The task.

  Raises:
    ValueError: the task has no such split.
  """
  return Filtered(task=task, filters=tuple(filters), on=tuple(on))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
  """Keeps problems whose prompt has a number of tokens in a range.

  Attributes:
    at_least: tokens of the prompt.
    at_most: tokens of the prompt.
    answer_at_most: tokens of the reference answer.
  """

  at_least: int = 1
  at_most: int = 1 << 30
  answer_at_most: int = 1 << 30

  def __call__(self, rows: Sequence[Row], others: Any) -> Reasons:
    """Returns a reason or None per row."""
    del others
    return [self._reason(row) for row in rows]

  def _reason(self, row: Row) -> str | None:
    size = len(row.prompt_ids)
    if size < self.at_least:
      return f'filter: prompt of fewer than {self.at_least} tokens'
    if size > self.at_most:
      return f'filter: prompt of more than {self.at_most} tokens'
    if len(row.answer_ids) > self.answer_at_most:
      return f'filter: answer of more than {self.answer_at_most} tokens'
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difficulty:
  """Keeps problems that a model was right about at a rate in a range.

  Attributes:
    path: of a file that `evaluate --pass_rates=...` has written: JSON lines
      with `problem_sha256` and `pass_rate`.
    at_least: lowest rate that is kept, in [0, 1].
    at_most: highest rate that is kept, in [0, 1].
    keep_unmeasured: whether problems are kept that the file does not have.
  """

  path: str
  at_least: float = 0.0
  at_most: float = 1.0
  keep_unmeasured: bool = False

  def __post_init__(self) -> None:
    if not 0 <= self.at_least <= self.at_most <= 1:
      raise ValueError(
        f'Pass rates from at_least={self.at_least} to at_most={self.at_most} '
        'are none; choose 0 <= at_least <= at_most <= 1.'
      )

  def __call__(self, rows: Sequence[Row], others: Any) -> Reasons:
    """Returns a reason or None per row."""
    del others
    rates = pass_rates.read(self.path)
    return [
      self._reason(rates.get(pass_rates.problem_key(row.fields)))
      for row in rows
    ]

  def _reason(self, rate: float | None) -> str | None:
    if rate is None:
      return None if self.keep_unmeasured else 'filter: no pass rate measured'
    if rate < self.at_least:
      return f'filter: pass rate below {self.at_least:g}'
    if rate > self.at_most:
      return f'filter: pass rate above {self.at_most:g}'
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactDuplicates:
  """Keeps the first of problems that differ in case and white space at most."""

  def __call__(self, rows: Sequence[Row], others: Any) -> Reasons:
    """Returns a reason or None per row."""
    del others
    seen = set[str]()
    reasons: Reasons = []
    for row in rows:
      text = ngrams.plain(problem_of(row))
      reasons.append('filter: duplicate' if text in seen else None)
      seen.add(text)
    return reasons


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDuplicates:
  """Keeps the first of problems that share most of their runs of words.

  Problems that differ in a number alone can be near duplicates: look at what
  goes before training on what is left.

  Attributes:
    threshold: of the Jaccard index, in (0, 1].
    words: of a run.
  """

  threshold: float = 0.8
  words: int = 5

  def __call__(self, rows: Sequence[Row], others: Any) -> Reasons:
    """Returns a reason or None per row."""
    del others
    found = near_duplicates(
      [problem_of(row) for row in rows],
      threshold=self.threshold,
      size=self.words,
    )
    why = 'filter: near duplicate'
    return [why if index in found else None for index in range(len(rows))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contamination:
  """Keeps problems that share no run of words with another split.

  Attributes:
    words: of a run; see `contamination.overlaps`.
    against: splits; none for all others.
  """

  words: int = contamination.DEFAULT_WORDS
  against: Sequence[str] = ()

  def __call__(
    self, rows: Sequence[Row], others: Callable[[], Mapping[str, Sequence[Row]]]
  ) -> Reasons:
    """Returns a reason or None per row."""
    reasons: Reasons = [None] * len(rows)
    found = others()
    if missing := sorted(set(self.against) - set(found)):
      raise ValueError(
        f'Contamination is to be checked against {missing}, but the other '
        f'splits are {", ".join(found)}; name some of these.'
      )
    checked = {k: v for k, v in found.items() if k in (self.against or found)}
    for overlap in contamination.overlaps(rows, checked, size=self.words):
      why = f'filter: shares {self.words} words with {overlap.other_split}'
      reasons[overlap.row] = why
    return reasons
