"""The rows of a published data set by split, with what was left out of it."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

from selfimprove.data import sources
from selfimprove.data.catalogue import ANY_SPLIT, DataSet, Layout
from selfimprove.data.json_lines import Fields
from selfimprove.data.rows import BadRowError, OnBadRow
from selfimprove.data.splits import SPLITS, split_of
from selfimprove.data.tensorflow_host import tf

_BY_WEIGHT = ('test', 'validation', 'train')
"""A problem of several splits stays in the first of these."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problems:
  """The rows of a published data set by split, read once when asked for.

  Attributes:
    dataset: which.
    layout: split -> paths; `ANY_SPLIT` where the rows say their split.
    shown: fields -> fields, the last step of every row.
    on_bad_row: what to do with a row that is not in the published format.
    held_out: share of `train` for a split that the authors do not give.
  """

  dataset: DataSet
  layout: Layout
  shown: Callable[[Fields], Fields]
  on_bad_row: OnBadRow
  held_out: float

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits, known before anything is read."""
    if ANY_SPLIT in self.layout:
      return self.dataset.splits
    # What is made of `train` alone.
    made = SPLITS if 'train' in self.layout else ()
    return tuple(dict.fromkeys((*made, *self.layout)))

  def rows(self, split: str) -> list[Fields]:
    """Returns the rows of a split, in the order of the files."""
    return self._read[0][split]

  def dropped(self, split: str) -> Mapping[str, int]:
    """Returns how many rows were left out of a split, by field and rule."""
    return self._read[1][split]

  @functools.cached_property
  def _read(
    self,
  ) -> tuple[dict[str, list[Fields]], dict[str, collections.Counter[str]]]:
    """Rows and counts by split."""
    parts: dict[str, list[Fields]] = {split: [] for split in self.splits}
    dropped = {split: collections.Counter[str]() for split in self.splits}
    for split, where, fields in self._found():
      try:
        if isinstance(fields, BadRowError):
          raise fields
        added = self.dataset.read(fields, where)
        whole = {**fields, **added}
        own = self._split_of(whole, split, where)
      except BadRowError as bad_row:
        self.on_bad_row(bad_row)
        # Of which split it would have been, a bad row need not say.
        for name in self.splits if split == ANY_SPLIT else (split,):
          dropped[name][bad_row.key] += 1
        continue
      parts[own].append(self.shown(whole))
    _take_out_held_out(parts, dropped)
    return parts, dropped

  def _found(self) -> Iterator[tuple[str, str, Fields | BadRowError]]:
    for split, paths in self.layout.items():
      for path in paths:
        prepared = tf.io.gfile.isdir(path)
        found = (
          sources.read_tfds(path, split) if prepared else sources.read(path)
        )
        for where, fields in found:
          yield split, where, fields

  def _split_of(self, fields: Fields, split: str, where: str) -> str:
    """The split of a row, by its authors or else by its problem."""
    if split == ANY_SPLIT and self.dataset.split_of is not None:
      return self.dataset.split_of(fields, where)
    if split != 'train':
      return split
    own = split_of(fields['problem'], held_out=self.held_out)
    # Splits that have files of their own take nothing from `train`.
    return 'train' if own in self.layout else own


def _take_out_held_out(
  parts: dict[str, list[Fields]],
  dropped: Mapping[str, collections.Counter[str]],
) -> None:
  """Takes problems out of splits that are learned from, if others test them."""
  _check_found(parts)
  tested: dict[str, str] = {}
  for split in (name for name in _BY_WEIGHT if name in parts):
    kept = []
    for fields in parts[split]:
      if other := tested.get(_plain(fields)):
        dropped[split][f'problem: also in {other}'] += 1
      else:
        kept.append(fields)
    parts[split] = kept
    tested |= {_plain(fields): split for fields in kept}


def _check_found(parts: Mapping[str, list[Fields]]) -> None:
  """Refuses files that hold most of what is tested, and the rest not as it is.

  Where test problems come once more among all problems, they are to be found
  there by their text: one in another spelling would be trained on.
  """
  tested = {_plain(fields) for fields in parts.get('test', ())}
  known = {_plain(fields) for fields in parts.get('train', ())}
  left = sorted(tested - known)
  if left and len(left) < len(tested) / 2:
    raise ValueError(
      f'{len(tested) - len(left)} of {len(tested)} test problems are among '
      f'those of train and are taken out, but not {left[0][:80]!r}, which may '
      'be there in other words; take both files from one edition.'
    )


def _plain(fields: Fields) -> str:
  return ' '.join(fields['problem'].split())
