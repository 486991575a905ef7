"""Several tasks as one, trained on at rates and told apart by a field."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from selfimprove.data.rows import Row
from selfimprove.data.shares import Share, whole_rates
from selfimprove.data.tensorflow_host import seqio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
  """Tasks with one vocabulary; what `TextTask` is to the loop.

  A split has the rows of all tasks that have such a split. In `train` only
  tasks with a rate above 0 take part; held-out splits have every row once.

  Attributes:
    tasks: by the name that rows are given as their `source`.
    rates: of training prompts, by name; none for every problem once in each
      epoch.
    name: for messages and reports.
    field: of the rows, that names their task.
  """

  tasks: Mapping[str, Any]
  rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
  name: str = 'mixture'
  field: str = 'source'

  def __post_init__(self) -> None:
    if not self.tasks:
      raise ValueError('A mixture of no tasks; name at least one.')
    if self.rates and set(self.rates) != set(self.tasks):
      raise ValueError(
        f'The mixture has tasks {sorted(self.tasks)} and rates of '
        f'{sorted(self.rates)}; give each task a rate, or none.'
      )
    first = next(iter(self.tasks.values()))
    for name, task in self.tasks.items():
      if getattr(task, 'rates', None):
        raise ValueError(
          f'Task {name!r} of the mixture is a mixture with rates itself; name '
          'its tasks here, with their rates.'
        )
      if task.vocabulary != first.vocabulary:
        raise ValueError(
          f'Task {name!r} of the mixture has another vocabulary than '
          f'{next(iter(self.tasks))!r}; give all of them the same one.'
        )
      if set(task.extra_tokens) != set(first.extra_tokens):
        raise ValueError(
          f'Task {name!r} of the mixture gives the texts '
          f'{sorted(task.extra_tokens)} and {next(iter(self.tasks))!r} '
          f'{sorted(first.extra_tokens)}; give all of them the same ones.'
        )
    if self.rates:
      whole_rates(self.rates)  # Refuses them now.

  @property
  def vocabulary(self) -> seqio.Vocabulary:
    """The vocabulary of all tasks."""
    return next(iter(self.tasks.values())).vocabulary

  @property
  def max_prompt_tokens(self) -> int:
    """Width of the widest prompt."""
    return max(task.max_prompt_tokens for task in self.tasks.values())

  @property
  def max_answer_tokens(self) -> int:
    """Width of the widest answer."""
    return max(task.max_answer_tokens for task in self.tasks.values())

  @property
  def extra_tokens(self) -> dict[str, int]:
    """Further texts and their widths."""
    tasks = self.tasks.values()
    return {
      name: max(task.extra_tokens[name] for task in tasks)
      for name in next(iter(tasks)).extra_tokens
    }

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits of which some task has rows."""
    every = [split for task in self.tasks.values() for split in task.splits]
    return tuple(s for s in dict.fromkeys(every) if self._parts(s))

  def prompt_ids(
    self, texts: Sequence[str]
  ) -> list[Int[np.ndarray, 'tokens'] | ValueError]:
    """What the model reads of prompts, as its first task shows them.

    Args:
      texts: prompts as they are in the rows.

    Returns:
      For each its ids, or why it has none.
    """
    return next(iter(self.tasks.values())).prompt_ids(texts)

  def read(self, split: str) -> tuple[tuple[Row, ...], dict[str, int]]:
    """All problems of a split, task by task in their order.

    Args:
      split: one of `splits`.

    Returns:
      The problems, each with its `source`, and how many rows were left out, by
      source, field and rule.

    Raises:
      ValueError: there is no such split, or nothing in it.
    """
    parts = self._parts(split)
    if not parts:
      raise ValueError(
        f'No task of the mixture {self.name!r} has a split {split!r}; choose '
        f'one of {", ".join(self.splits)}.'
      )
    found: list[Row] = []
    dropped: dict[str, int] = {}
    for name in parts:
      rows, left_out = self.tasks[name].read(split)
      found += (self._named(row, name) for row in rows)
      dropped |= {f'{name}, {key}': n for key, n in left_out.items()}
    return tuple(found), dropped

  def shares(self, rows: Sequence[Row]) -> tuple[Share, ...]:
    """The runs of rows of one source, with their slots of a cycle.

    Args:
      rows: as `read` returned them, or some of them in the same order.

    Returns:
      One share per source that has rows; none without `rates`.
    """
    if not self.rates:
      return ()
    slots = whole_rates(self.rates)
    shares: list[Share] = []
    start = 0
    for name, run in itertools.groupby(
      rows, lambda row: row.fields[self.field]
    ):
      count = len(list(run))
      if slots[name]:
        shares.append(Share(name, start, count, slots[name]))
      start += count
    return tuple(shares)

  def _named(self, row: Row, name: str) -> Row:
    """The row with the name of its task."""
    if row.fields.get(self.field, name) != name:
      raise ValueError(
        f'A row of task {name!r} has a field {self.field!r} of its own '
        f'({row.fields[self.field]!r:.40}); give the mixture another `field`.'
      )
    return dataclasses.replace(row, fields={**row.fields, self.field: name})

  def _parts(self, split: str) -> list[str]:
    """Names of the tasks that take part in a split."""
    return [
      name
      for name, task in self.tasks.items()
      if split in task.splits and (split != 'train' or self.rates.get(name, 1))
    ]


def mixture(
  *,
  tasks: Mapping[str, Any],
  rates: Mapping[str, float] | None = None,
  name: str = 'mixture',
  field: str = 'source',
) -> Mixture:
  """Several tasks as one.

  The row says which task it came from, in its field `source`, by which a
  verifier can be chosen. The position in the data is one number, as for a
  single task, and restoring it restores every source.

  Args:
    tasks: by the name that rows are given; they share a vocabulary.
    rates: of training prompts, in any unit; 0 leaves a task to the held-out
      splits. None for every problem once in each epoch.
    name: of the mixture.
    field: of the rows, that is given the name of their task.

  Returns:
    The task.

  Raises:
    ValueError: rates and tasks do not match, a rate is negative, or the tasks
      have different vocabularies.
  """
  return Mixture(tasks=tasks, rates=rates or {}, name=name, field=field)
