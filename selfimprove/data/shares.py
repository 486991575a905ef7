"""Which source a training prompt comes from: a function of its position.

The sources of a mixture alternate in a fixed cycle, in which each has as many
slots as its rate says, as evenly spread as they go. Within a source nothing
changes: every problem once in each epoch of its own.
"""

from __future__ import annotations

import fractions
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

_LONGEST_CYCLE = 100_000


class Share(NamedTuple):
  """Neighbouring rows of a table that are trained on at a rate.

  Attributes:
    name: of their source.
    start: first row.
    rows: how many, at least 1.
    slots: of a cycle, at least 1.
  """

  name: str
  start: int
  rows: int
  slots: int


def whole_rates(rates: Mapping[str, float]) -> dict[str, int]:
  """The smallest whole numbers in the proportions of the rates.

  Args:
    rates: by source, at least 0 and not all 0; as they are written, so that
      0.1 is 1/10.

  Returns:
    Slots of a cycle, by source.

  Raises:
    ValueError: a rate is negative or no number, all are 0, or the proportions
      need a cycle of more than 100,000 slots.

  >>> whole_rates({'gsm8k': 0.25, 'math': 0.75})
  {'gsm8k': 1, 'math': 3}
  """
  for name, rate in rates.items():
    if not 0 <= rate < math.inf:
      raise ValueError(
        f'The rate of {name!r} is {rate}; give a number of at least 0.'
      )
  exact = {name: fractions.Fraction(str(rate)) for name, rate in rates.items()}
  if not any(exact.values()):
    raise ValueError(
      f'The rates of {sorted(rates)} are all 0; give one above 0.'
    )
  scale = math.lcm(*(rate.denominator for rate in exact.values()))
  whole = {name: int(rate * scale) for name, rate in exact.items()}
  common = math.gcd(*whole.values())
  whole = {name: slots // common for name, slots in whole.items()}
  if sum(whole.values()) > _LONGEST_CYCLE:
    raise ValueError(
      f'The rates {dict(rates)} repeat only after {sum(whole.values())} '
      f'prompts; round them, so that it is at most {_LONGEST_CYCLE}.'
    )
  return whole


def slots(shares: Sequence[Share]) -> Int[np.ndarray, 'cycle']:
  """The share of each slot of a cycle, evenly spread.

  The j-th of n slots of a share is due at (j + ½) / n of the cycle.

  Args:
    shares: at least one.

  Returns:
    Indices into `shares`.
  """
  due = [
    (fractions.Fraction(2 * j + 1, 2 * share.slots), index)
    for index, share in enumerate(shares)
    for j in range(share.slots)
  ]
  return np.asarray([index for _, index in sorted(due)])


def visits(
  cycle: Int[np.ndarray, 'cycle'], start: int, count: int
) -> tuple[Int[np.ndarray, 'count'], Int[np.ndarray, 'count']]:
  """The share of each position, and how often it was visited before.

  Args:
    cycle: as `slots` returns it.
    start: first position, at least 0.
    count: how many.

  Returns:
    Indices of shares, and their visits from 0.
  """
  turn, slot = np.divmod(np.arange(start, start + count), len(cycle))
  share = cycle[slot]
  # Within a cycle: how many slots before this one are of the same share.
  before = np.zeros(len(cycle), np.int64)
  total = np.bincount(cycle)
  for index in range(len(total)):
    mine = cycle == index
    before[mine] = np.arange(total[index])
  return share, turn * total[share] + before[slot]
