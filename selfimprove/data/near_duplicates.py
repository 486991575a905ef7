"""Texts that are nearly the same: MinHash to find them, Jaccard to decide."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt64

from selfimprove.data.ngrams import ngrams, words

_BANDS, _ROWS = 32, 4
# Of a hash h -> (a·h + b) mod 2⁶⁴, with a odd: fixed, so that a data set has
# the same duplicates everywhere.
_WORDS = np.random.Philox(key=0).random_raw(2 * _BANDS * _ROWS)
_FACTORS, _OFFSETS = _WORDS[::2] | np.uint64(1), _WORDS[1::2]


def near_duplicates(
  texts: Sequence[str], *, threshold: float = 0.8, size: int = 5
) -> dict[int, int]:
  """Texts that are nearly the same as an earlier one.

    J(A, B) = |A ∩ B| / |A ∪ B|  of the runs of `size` words of two texts

  Pairs to be compared share one of 32 bands of four MinHash values: a pair
  with J = 0.8 is missed once in 10⁷ times, one with J = 0.5 in eight. What is
  compared is decided exactly.

  Args:
    texts: in the order in which the first of several is kept.
    threshold: of J, in (0, 1].
    size: words of a run, at least 1; a shorter text is one run.

  Returns:
    Index -> the earlier index that it is nearly the same as and that is none
    itself.

  Raises:
    ValueError: an argument is out of range.

  Source: Broder, On the resemblance and containment of documents, 1997.
  Differs: no.
  """
  if not 0 < threshold <= 1 or size < 1:
    raise ValueError(
      f'threshold={threshold} and size={size}: choose a threshold in (0, 1] '
      'and runs of at least 1 word.'
    )
  kept: dict[bytes, list[int]] = collections.defaultdict(list)
  runs: list[frozenset[int]] = []
  found: dict[int, int] = {}
  for index, text in enumerate(texts):
    mine = _runs(text, size)
    runs.append(mine)
    bands = _bands(mine)
    candidates = sorted({other for band in bands for other in kept[band]})
    same = (o for o in candidates if _jaccard(mine, runs[o]) >= threshold)
    earlier = next(same, None)
    if earlier is None:
      for band in bands:
        kept[band].append(index)
    else:
      found[index] = earlier
  return found


def _runs(text: str, size: int) -> frozenset[int]:
  found = words(text)
  every = list(ngrams(found, size)) or [' '.join(found)]
  return frozenset(map(_hash, every))


def _bands(runs: frozenset[int]) -> list[bytes]:
  """The MinHash values of a text, four by four, each with its place."""
  hashes: UInt64[np.ndarray, 'n'] = np.asarray(sorted(runs), np.uint64)
  mixed = hashes[:, None] * _FACTORS[None, :] + _OFFSETS[None, :]
  # The upper bits depend on all of the lower ones.
  least = (mixed >> np.uint64(16)).min(axis=0).reshape(_BANDS, _ROWS)
  return [bytes([i]) + band.tobytes() for i, band in enumerate(least)]


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
  return len(one & other) / len(one | other)


def _hash(text: str) -> int:
  data = text.encode('utf-8', 'surrogatepass')
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), 'big')
