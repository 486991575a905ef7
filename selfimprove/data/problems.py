"""A drawn problem of a toy task, and the numbers that it is drawn with."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
  """What is asked, and what a base model is shown about it.

  Attributes:
    prompt: as the model sees it; it decides the split.
    answer: the reference, without EOS.
    shown: prompts and attempts that a base model imitates.
    kind: a group that results can be told apart by.
  """

  prompt: str
  answer: str
  shown: tuple[tuple[str, str], ...]
  kind: str


def uniforms(
  *, seed: int, stream: int, rows: int, columns: int
) -> Float[np.ndarray, 'rows columns']:
  """Numbers in [0, 1), the same on every platform and in every NumPy.

  They are the upper 53 bits of raw Philox words; more rows continue fewer.

  Args:
    seed: of the draw, in [0, 2**64).
    stream: tells the draws of one seed apart, in [2, 2**64).
    rows: how many rows, at least 1.
    columns: numbers of a row, at least 1.

  Returns:
    f64 numbers.

  Raises:
    ValueError: a number is out of range.
  """
  check_seed(seed)
  if rows < 1 or columns < 1:
    raise ValueError(
      f'{rows} rows of {columns} numbers are no draw; choose at least 1 of '
      'each.'
    )
  # The counter keeps these words apart from those that order the epochs.
  source = np.random.Philox(
    key=np.asarray([seed, stream], np.uint64), counter=1 << 193
  )
  words = source.random_raw(rows * columns).reshape(rows, columns)
  return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def check_seed(seed: int) -> None:
  """Refuses a seed that is no 64-bit word.

  Args:
    seed: to be in [0, 2**64).

  Raises:
    ValueError: it is outside.
  """
  if not 0 <= seed < 2**64:
    raise ValueError(f'seed={seed} is outside [0, 2**64); choose another.')


def check_shares(**shares: float) -> None:
  """Refuses numbers that are no probability.

  Args:
    **shares: by name, each to be in [0, 1].

  Raises:
    ValueError: one of them is outside.
  """
  for name, share in shares.items():
    if not 0 <= share <= 1:
      raise ValueError(
        f'{name}={share} is no probability; choose one in [0, 1].'
      )
