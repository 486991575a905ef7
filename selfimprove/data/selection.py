"""Some of the problems of a table: what a stage of a curriculum draws from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, SupportsIndex

import numpy as np

from selfimprove.data.pipeline import PromptStream, Table
from selfimprove.data.shares import Share
from selfimprove.types import Prompts

Keep = Callable[[Mapping[str, Any]], bool]
"""Whether a problem with these fields is drawn from."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Having:
  """The problems whose field has one of some values.

  Attributes:
    field: such as `level` of `gym.reasoning_gym`.
    values: at least one.
  """

  field: str
  values: tuple[Any, ...]

  def __post_init__(self) -> None:
    if not self.values:
      raise ValueError(
        f'Having(field={self.field!r}) has no values, so it would keep no '
        'problem; name one.'
      )

  def __call__(self, fields: Mapping[str, Any]) -> bool:
    """Returns whether a problem is one of them.

    Args:
      fields: of the problem.

    Raises:
      ValueError: it has no such field.
    """
    if self.field not in fields:
      raise ValueError(
        f'A problem has the fields {sorted(fields)} and no {self.field!r}, by '
        'which a stage chooses its problems; correct selection.Having.field.'
      )
    return fields[self.field] in self.values


class SelectedStream:
  """Batches of some of the problems, with their identities in the whole table.

  Attributes:
    table: all problems.
  """

  def __init__(
    self, table: Table, *, keep: Keep, prompts_per_step: int, seed: int = 0
  ) -> None:
    chosen = [i for i, fields in enumerate(table.fields) if keep(fields)]
    if not chosen:
      raise ValueError(
        f'{keep!r} keeps none of the {len(table)} problems; a stage needs some '
        'to draw from.'
      )
    self.table = table
    self._rows = np.asarray(chosen, np.int64)
    self._stream = PromptStream(
      _subset(table, self._rows), prompts_per_step=prompts_per_step, seed=seed
    )

  def batch(self, position: SupportsIndex) -> Prompts:
    """The batch that starts after `position` prompts.

    Args:
      position: number of prompts consumed so far, at least 0.

    Returns:
      NumPy arrays; `example_id` is row + epoch · rows, of the whole table.
    """
    own = np.asarray(self._stream.batch(position).example_id, np.int64)
    epoch, place = np.divmod(own, len(self._rows))
    return self.table.prompts(self._rows[place] + epoch * len(self.table))


def _subset(table: Table, rows: np.ndarray) -> Table:
  return dataclasses.replace(
    table,
    fields=tuple(table.fields[i] for i in rows.tolist()),
    prompt_ids=table.prompt_ids[rows],
    prompt_mask=table.prompt_mask[rows],
    answer_ids=table.answer_ids[rows],
    answer_mask=table.answer_mask[rows],
    extra={k: (i[rows], m[rows]) for k, (i, m) in table.extra.items()},
    shares=tuple(_shares(table, rows)),
  )


def _shares(table: Table, rows: np.ndarray) -> Iterator[Share]:
  """The shares of a mixture, of the rows that were chosen in their order."""
  for share in table.shares:
    ends = (share.start, share.start + share.rows)
    start, end = np.searchsorted(rows, ends).tolist()
    if start == end:
      raise ValueError(
        f'A stage keeps no problem of {share.name!r}, which the mixture has a '
        'rate for; give it a rate of 0, or correct Stage.problems.'
      )
    yield share._replace(start=start, rows=end - start)
