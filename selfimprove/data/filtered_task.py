"""A task without the problems that filters leave out."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from selfimprove.data import pipeline
from selfimprove.data.rows import Row
from selfimprove.data.shares import Share
from selfimprove.data.tensorflow_host import seqio

Reasons = list[str | None]
"""Why each row is left out; None keeps it."""


class Filter(Protocol):
  """A rule about the rows of a split."""

  def __call__(
    self, rows: Sequence[Row], others: Callable[[], Mapping[str, Sequence[Row]]]
  ) -> Reasons:
    """Returns a reason or None per row; `others` are the other splits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filtered:
  """A task without some of its problems; what the task is to the loop.

  Attributes:
    task: a `TextTask` or a mixture.
    filters: applied one after the other, each to what the one before kept.
    on: splits they apply to; the others stay as they are.
  """

  task: Any
  filters: Sequence[Filter]
  on: Sequence[str] = ('train',)

  def __post_init__(self) -> None:
    unknown = sorted(set(self.on) - set(self.task.splits))
    if unknown:
      raise ValueError(
        f'Filters are to apply to {unknown}, but task {self.task.name!r} has '
        f'the splits {", ".join(self.task.splits)}; name some of these.'
      )

  @property
  def name(self) -> str:
    """Name of the task."""
    return self.task.name

  @property
  def vocabulary(self) -> seqio.Vocabulary:
    """Vocabulary of the task."""
    return self.task.vocabulary

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits."""
    return self.task.splits

  @property
  def max_prompt_tokens(self) -> int:
    """Width of the prompts."""
    return self.task.max_prompt_tokens

  @property
  def max_answer_tokens(self) -> int:
    """Width of the answers."""
    return self.task.max_answer_tokens

  @property
  def extra_tokens(self) -> Mapping[str, int]:
    """Further texts, and their widths."""
    return self.task.extra_tokens

  @property
  def rates(self) -> Mapping[str, float]:
    """Of a mixture."""
    return getattr(self.task, 'rates', {})

  @property
  def field(self) -> str:
    """Of the rows of a mixture, that names their task; else empty."""
    return getattr(self.task, 'field', '')

  def prompt_ids(
    self, texts: Sequence[str]
  ) -> list[Int[np.ndarray, 'tokens'] | ValueError]:
    """What the model reads of prompts.

    Args:
      texts: prompts as they are in the rows.

    Returns:
      For each its ids, or why it has none.
    """
    return self.task.prompt_ids(texts)

  def read(self, split: str) -> tuple[tuple[Row, ...], dict[str, int]]:
    """The problems that are kept, in the order of the task.

    Args:
      split: one of `splits`.

    Returns:
      The problems, and how many rows were left out, by rule.

    Raises:
      ValueError: there is no such split, or nothing is kept of it.
    """
    rows, dropped = self.task.read(split)
    if split not in self.on:
      return tuple(rows), dict(dropped)
    counts = collections.Counter(dropped)
    before = len(rows)
    for rule in self.filters:
      reasons = rule(rows, functools.partial(self._others, split))
      counts.update(reason for reason in reasons if reason is not None)
      rows = [
        row for row, why in zip(rows, reasons, strict=True) if why is None
      ]
    if not rows:
      raise ValueError(
        f'The filters keep none of the {before} problems of split {split!r} '
        f'of task {self.name!r} ({dict(counts)}); loosen them.'
      )
    return tuple(rows), dict(counts)

  def shares(self, rows: Sequence[Row]) -> tuple[Share, ...]:
    """The shares of a mixture, of what is kept of it.

    Args:
      rows: as `read` returned them.

    Returns:
      Shares; none where the task has none.
    """
    task = self.task
    return task.shares(rows) if isinstance(task, pipeline.Mixed) else ()

  def _others(self, split: str) -> dict[str, Sequence[Row]]:
    """The rows of all other splits, unfiltered."""
    return {n: self.task.read(n)[0] for n in self.splits if n != split}
