"""From a task to batches: a table on the host, and streams that read it.

A stream is random access: the batch at a position is a function of the table,
the seed and the position, so that restoring a run restores one number.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from selfimprove.data.problems import check_seed
from selfimprove.data.rows import Row
from selfimprove.data.shares import Share, slots, visits
from selfimprove.types import Prompts, Text

_PAD = 0  # Of every seqio vocabulary.


class Readable(Protocol):
  """What `load` needs of a task; `TextTask` is one."""

  @property
  def max_prompt_tokens(self) -> int:
    """Width of the prompts."""

  @property
  def max_answer_tokens(self) -> int:
    """Width of the answers."""

  @property
  def extra_tokens(self) -> Mapping[str, int]:
    """Further texts, and their widths."""

  def read(self, split: str) -> tuple[Sequence[Row], Mapping[str, int]]:
    """Returns the rows in a fixed order, and counts of those left out."""


@runtime_checkable
class Mixed(Readable, Protocol):
  """A task whose rows come from several sources, at rates."""

  @property
  def rates(self) -> Mapping[str, float]:
    """By source; empty where every row comes once."""

  def shares(self, rows: Sequence[Row]) -> tuple[Share, ...]:
    """Returns the runs of rows with their shares; none for every row once."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Table:
  """The problems of a split, on the host.

  Attributes:
    fields: the rows as text: `prompt`, `answer` and what came with them.
    prompt_ids: padded on the left.
    prompt_mask: True on real tokens.
    answer_ids: padded on the right, without EOS.
    answer_mask: True on real tokens.
    extra: further texts, ids and mask of each, padded on the right.
    dropped: rows that were left out, by field and rule.
    shares: runs of rows that are trained on at rates of their own; none where
      an epoch has every row once.
  """

  fields: tuple[Mapping[str, Any], ...]
  prompt_ids: Int[np.ndarray, 'n s']
  prompt_mask: Bool[np.ndarray, 'n s']
  answer_ids: Int[np.ndarray, 'n a']
  answer_mask: Bool[np.ndarray, 'n a']
  dropped: Mapping[str, int]
  extra: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(
    default_factory=dict
  )
  shares: tuple[Share, ...] = ()

  def __len__(self) -> int:
    return len(self.fields)

  def head(self, count: int) -> Table:
    """The table of the first rows.

    Args:
      count: how many, at least 1; more than there are gives all.

    Returns:
      A table that shares this one's arrays, of rows that come once each.
    """
    return dataclasses.replace(
      self,
      shares=(),
      fields=self.fields[:count],
      prompt_ids=self.prompt_ids[:count],
      prompt_mask=self.prompt_mask[:count],
      answer_ids=self.answer_ids[:count],
      answer_mask=self.answer_mask[:count],
      extra={k: (i[:count], m[:count]) for k, (i, m) in self.extra.items()},
    )

  def fingerprint(self) -> dict[str, Any]:
    """Returns what tells these problems from others: `rows` and `sha256`."""
    digest = hashlib.sha256()
    for ids, mask in (
      (self.prompt_ids, self.prompt_mask),
      (self.answer_ids, self.answer_mask),
    ):
      digest.update(repr(ids.shape).encode())
      digest.update(np.where(mask, ids, -1).astype('<i4').tobytes())
    if self.shares:
      digest.update(repr(self.shares).encode())
    return {'rows': len(self), 'sha256': digest.hexdigest()[:16]}

  def prompts(self, example_id: Int[np.ndarray, 'p']) -> Prompts:
    """The batch with these identities, as NumPy arrays.

    Args:
      example_id: row + epoch · rows, from 0.

    Returns:
      The problems of these rows.

    Raises:
      ValueError: an identity does not fit the int32 that devices count in.
    """
    if example_id.max(initial=0) > np.iinfo(np.int32).max:
      raise ValueError(
        f'Example {example_id.max()} of a table of {len(self)} rows does not '
        'fit 32 bits; that many epochs need a new run.'
      )
    row = example_id % len(self)
    # Left on the host: the loop knows over which devices a batch is laid.
    columns: dict[str, Any] = {
      'tokens': self.prompt_ids[row],
      'mask': self.prompt_mask[row],
      'example_id': example_id.astype(np.int32),
      'answer': self.answer_ids[row],
      'answer_mask': self.answer_mask[row],
      'extra': {k: _text(i[row], m[row]) for k, (i, m) in self.extra.items()},
    }
    return Prompts(**columns)

  def references(
    self, example_id: Int[np.ndarray, 'p']
  ) -> list[Mapping[str, Any]]:
    """The rows as text, for rewards on the host.

    Args:
      example_id: `Prompts.example_id`, from the host or a device.

    Returns:
      One mapping of fields per problem.
    """
    return [self.fields[i % len(self)] for i in np.asarray(example_id).tolist()]


def load(task: Readable, split: str) -> Table:
  """The table of a split: all of it, in the order of the task.

  Args:
    task: for example a `TextTask`.
    split: one of its splits.

  Returns:
    The table.
  """
  rows, dropped = task.read(split)
  prompts = [row.prompt_ids for row in rows]
  answers = [row.answer_ids for row in rows]
  slots = np.arange(task.max_prompt_tokens)[None, :]
  prompt_mask = slots >= task.max_prompt_tokens - _lengths(prompts)
  answer_ids, answer_mask = _padded(answers, task.max_answer_tokens)
  return Table(
    fields=tuple(row.fields for row in rows),
    prompt_ids=_placed(prompts, prompt_mask),
    prompt_mask=prompt_mask,
    answer_ids=answer_ids,
    answer_mask=answer_mask,
    dropped=dropped,
    extra={
      name: _padded([row.extra_ids[name] for row in rows], width)
      for name, width in task.extra_tokens.items()
    },
    shares=_shares(task, rows) if split == 'train' else (),
  )


def _shares(task: Readable, rows: Sequence[Row]) -> tuple[Share, ...]:
  """The shares of what is trained on; every source with a rate has one."""
  if not isinstance(task, Mixed):
    return ()
  shares = task.shares(rows)
  wanted = {name for name, rate in task.rates.items() if rate > 0}
  missing = sorted(wanted - {share.name for share in shares})
  if missing:
    raise ValueError(
      f'No training problem is left of {", ".join(map(repr, missing))}, which '
      'the mixture has a rate for; give a rate of 0, or look at what filters '
      'and bad rows take away (selfimprove.check_data).'
    )
  return shares


def left_out(table: Table, *, split: str) -> str:
  """A sentence on the rows that are missing from a table.

  Args:
    table: as `load` returned it.
    split: its name.

  Returns:
    One line; empty where none was left out.
  """
  if not table.dropped:
    return ''
  why = ', '.join(f'{key}: {n}' for key, n in sorted(table.dropped.items()))
  return (
    f'Split {split} has {len(table)} problems; left out: '
    f'{sum(table.dropped.values())} ({why}).'
  )


def permutation(rows: int, *, seed: int, epoch: int) -> Int[np.ndarray, 'rows']:
  """The order of an epoch.

    order = argsort(w),  w: `rows` raw 64-bit words of Philox(seed, epoch)

  Raw words are the same on every platform and in every NumPy, which
  `Generator.permutation` does not promise.

  Args:
    rows: of the table, at least 1.
    seed: in [0, 2⁶⁴).
    epoch: in [0, 2⁶⁴).

  Returns:
    A permutation of 0..rows-1.
  """
  words = np.random.Philox(key=np.asarray([seed, epoch], np.uint64))
  return np.argsort(words.random_raw(rows), kind='stable')


class PromptStream:
  """Batches of training prompts, by position.

  Every problem is seen once in each epoch, in a new order; a batch may begin
  in one epoch and end in a later one. Where a table has shares, each of them
  has epochs of its own, and the shares alternate as `shares.slots` says.

  Attributes:
    table: the problems.
    prompts_per_step: size of a batch.
    seed: of the orders.
  """

  def __init__(
    self, table: Table, *, prompts_per_step: int, seed: int = 0
  ) -> None:
    if not 1 <= prompts_per_step <= len(table):
      raise ValueError(
        f'prompts_per_step={prompts_per_step} of a table of {len(table)} rows: '
        'a batch holds at least one prompt and no more than there are; '
        f'choose 1 to {len(table)}, or give the task more problems.'
      )
    check_seed(seed)
    self.table = table
    self.prompts_per_step = prompts_per_step
    self.seed = seed
    self._shares = table.shares or (Share('', 0, len(table), 1),)
    self._slots = slots(self._shares)
    # A batch touches two epochs of a share, and more of a small one.
    self._order = functools.lru_cache(maxsize=2 * len(self._shares))(
      self._permutation
    )

  def batch(self, position: SupportsIndex) -> Prompts:
    """The batch that starts after `position` prompts.

    Args:
      position: number of prompts consumed so far, at least 0; the next batch
        is at `position + prompts_per_step`.

    Returns:
      NumPy arrays; `example_id` is row + epoch · rows.

    Raises:
      ValueError: `position` is negative.
    """
    start = operator.index(position)
    if start < 0:
      raise ValueError(
        f'position={start} is negative; it counts prompts, from 0.'
      )
    share, visit = visits(self._slots, start, self.prompts_per_step)
    identities = np.empty(self.prompts_per_step, np.int64)
    for index, part in enumerate(self._shares):
      mine = share == index
      identities[mine] = self._identities(index, part, visit[mine])
    return self.table.prompts(identities)

  def references(
    self, example_id: Int[np.ndarray, 'p']
  ) -> list[Mapping[str, Any]]:
    """The rows as text; see `Table.references`.

    Args:
      example_id: `Prompts.example_id` of any batch.

    Returns:
      One mapping of fields per problem.
    """
    return self.table.references(example_id)

  def _identities(
    self, index: int, part: Share, visit: Int[np.ndarray, 'n']
  ) -> Int[np.ndarray, 'n']:
    """Rows and epochs of the n-th visits to a share."""
    epoch, offset = np.divmod(visit, part.rows)
    found = np.empty_like(visit)
    for e in np.unique(epoch).tolist():
      here = epoch == e
      order = self._order(index, e)[offset[here]]
      found[here] = part.start + order + e * len(self.table)
    return found

  def _permutation(self, index: int, epoch: int) -> Int[np.ndarray, 'rows']:
    rows = self._shares[index].rows
    # The first share has the order that it would have alone.
    stream = epoch + (index << 32)
    return permutation(rows, seed=self.seed, epoch=stream)


class EvaluationBatch(NamedTuple):
  """Some rows of a table.

  Attributes:
    prompts: NumPy arrays.
    valid: False on a row that only fills up the last batch.
  """

  prompts: Prompts
  valid: Bool[np.ndarray, 'p']


def in_order(table: Table, *, batch_size: int) -> Iterator[EvaluationBatch]:
  """All rows of a table, each valid in exactly one batch.

  Args:
    table: the problems.
    batch_size: rows of every batch, at least 1; the last one is filled up
      with its last row.

  Yields:
    Batches of one shape.

  Raises:
    ValueError: `batch_size` is below 1.
  """
  if batch_size < 1:
    raise ValueError(
      f'batch_size={batch_size} holds no row; choose at least 1.'
    )
  for start in range(0, len(table), batch_size):
    row = np.arange(start, start + batch_size)
    last = len(table) - 1
    yield EvaluationBatch(
      prompts=table.prompts(np.minimum(row, last)), valid=row <= last
    )


def _lengths(
  rows: Sequence[Int[np.ndarray, 'tokens']],
) -> Int[np.ndarray, 'n 1']:
  return np.asarray([len(row) for row in rows])[:, None]


def _text(tokens: Any, mask: Any) -> Text:
  return Text(tokens=tokens, mask=mask)


def _padded(
  rows: Sequence[Int[np.ndarray, 'tokens']], width: int
) -> tuple[Int[np.ndarray, 'n w'], Bool[np.ndarray, 'n w']]:
  """Rows padded on the right, and which of their slots are real."""
  mask = np.arange(width)[None, :] < _lengths(rows)
  return _placed(rows, mask), mask


def _placed(
  rows: Sequence[Int[np.ndarray, 'tokens']], mask: Bool[np.ndarray, 'n w']
) -> Int[np.ndarray, 'n w']:
  """The tokens of each row where the mask is True, padding elsewhere."""
  ids = np.full(mask.shape, _PAD, np.int32)
  ids[mask] = np.concatenate(rows)
  return ids
