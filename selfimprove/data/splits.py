"""Which split a problem belongs to: a function of its text alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

Problem = TypeVar('Problem')

SPLITS = ('train', 'validation', 'test')

# Part of the definition of every split that was ever made: with another key, a
# problem that a checkpoint was trained on could be one that it is tested on.
_KEY = b'selfimprove.data.splits'


def split_of(text: str, *, held_out: float) -> str:
  """The split of the problem `text`.

    u = blake2b_key(text) / 2⁶⁴ ∈ [0, 1)
    u < f: validation;  f ≤ u < 2f: test;  else train

  No run, seed, file order or number of problems enters, so a problem cannot be
  in two splits, not even in those of two different runs.

  Args:
    text: the problem, as the model sees it.
    held_out: f, the share of all problems that goes to validation, and the
      share that goes to test; in (0, 0.5).

  Returns:
    'train', 'validation' or 'test'.

  Raises:
    ValueError: `held_out` is outside (0, 0.5).
  """
  if not 0.0 < held_out < 0.5:
    raise ValueError(
      f'held_out={held_out} leaves a split empty: it is the share of '
      'validation and again of test; choose a value between 0 and 0.5.'
    )
  data = text.encode('utf-8', 'surrogatepass')
  digest = hashlib.blake2b(data, digest_size=8, key=_KEY).digest()
  share = int.from_bytes(digest, 'big') / 2.0**64
  if share < held_out:
    return 'validation'
  return 'test' if share < 2 * held_out else 'train'


def divided(
  problems: Iterable[Problem],
  *,
  text_of: Callable[[Problem], str],
  held_out: float,
) -> dict[str, list[Problem]]:
  """Drawn problems by split; those held out are all different.

  Args:
    problems: in the order of the draw; some may come repeatedly.
    text_of: the text of a problem, which decides its split.
    held_out: the share of validation, and again of test; in (0, 0.5).

  Returns:
    The problems of each of `SPLITS`, in their order.

  Raises:
    ValueError: `held_out` is outside (0, 0.5).
  """
  parts: dict[str, list[Problem]] = {split: [] for split in SPLITS}
  held = set[str]()
  for problem in problems:
    text = text_of(problem)
    split = split_of(text, held_out=held_out)
    if split != 'train' and text in held:
      continue
    held.add(text)
    parts[split].append(problem)
  return parts
