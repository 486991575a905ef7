"""Verdicts that are remembered, and a tally of the calls that were made.

Samples of one prompt repeat each other, and a curriculum or an evaluation meets
the same answers again; what is asked twice is judged once.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import pickle
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from selfimprove.rewards.pool import Failure, VerifierPool

Call = tuple[str, Mapping[str, Any]]
"""An attempt and its data row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What became of one call.

  Attributes:
    verdict: a number; a `Failure` where there is none; None where the call was
      not made.
    cached: whether the verdict is that of an equal call.
    seconds: that the call took; 0 where it was not made.
  """

  verdict: float | Failure | None
  cached: bool
  seconds: float


class CachedPool:
  """A pool that makes equal calls once.

  The verdict is a function of attempt and row, so a remembered one equals a
  fresh one. Calls without a verdict are not remembered: time and memory that
  they lacked may be there the next time. Equal calls of one run share one.

  Attributes:
    pool: makes the calls.
    size: verdicts that are kept, those longest unused going first, >= 0; 0
      keeps none and makes every call.
  """

  def __init__(self, pool: VerifierPool, *, size: int) -> None:
    if size < 0:
      raise ValueError(f'cache_size is {size}; use 0 for none, or more.')
    self.pool = pool
    self.size = size
    self._kept: collections.OrderedDict[bytes, float] = (
      collections.OrderedDict()
    )

  def run(
    self,
    calls: Sequence[Call],
    *,
    stop_at_failure: bool,
    stop_at_timeout: bool = True,
  ) -> list[Outcome]:
    """Outcomes in the order of the calls; arguments as of `VerifierPool.run`.

    Args:
      calls: pairs of attempt and reference.
      stop_at_failure: start no further call once one has failed.
      stop_at_timeout: whether a call that ran out of time is such a failure.

    Returns:
      One outcome per call.
    """
    keys = [self._key(index, call) for index, call in enumerate(calls)]
    first: dict[bytes, int] = {}
    for index, key in enumerate(keys):
      if key not in self._kept:
        first.setdefault(key, index)
    made: dict[bytes, Outcome] = {}
    if first:
      verdicts = self.pool.run(
        [calls[index] for index in first.values()],
        stop_at_failure=stop_at_failure,
        stop_at_timeout=stop_at_timeout,
      )
      made = {
        key: Outcome(verdict=verdict, cached=False, seconds=seconds)
        for key, verdict, seconds in zip(first, verdicts, self.pool.seconds)
      }
    outcomes = [
      made[key] if first.get(key) == index else self._known(key, made)
      for index, key in enumerate(keys)
    ]
    self._keep(made)
    return outcomes

  def _known(self, key: bytes, made: Mapping[bytes, Outcome]) -> Outcome:
    if key in made:
      verdict = made[key].verdict
    else:
      self._kept.move_to_end(key)
      verdict = self._kept[key]
    return Outcome(verdict=verdict, cached=True, seconds=0.0)

  def _keep(self, made: Mapping[bytes, Outcome]) -> None:
    if not self.size:
      return
    for key, outcome in made.items():
      if isinstance(outcome.verdict, float):
        self._kept[key] = outcome.verdict
    while len(self._kept) > self.size:
      self._kept.popitem(last=False)

  def _key(self, index: int, call: Call) -> bytes:
    if not self.size:
      return str(index).encode()
    attempt, reference = call
    # A pickle tells where it ends, and differs wherever the row does.
    digest = hashlib.sha256(pickle.dumps(sorted(reference.items())))
    digest.update(attempt.encode('utf-8', 'surrogatepass'))
    return digest.digest()


def counted(outcomes: Iterable[Outcome]) -> dict[str, float]:
  """How many calls, and among them failures and timeouts.

  Args:
    outcomes: of calls; those that were not made do not count.

  Returns:
    `calls`, `failures`, `timeouts`. Repeated runs have the same.
  """
  verdicts = [o.verdict for o in outcomes if o.verdict is not None]
  failures = [one for one in verdicts if isinstance(one, Failure)]
  return {
    'calls': float(len(verdicts)),
    'failures': float(len(failures)),
    'timeouts': float(sum(failure.timed_out for failure in failures)),
  }


def timed(outcomes: Iterable[Outcome]) -> dict[str, float]:
  """What of calls depends on the clock, and on what was judged before.

  Args:
    outcomes: of calls.

  Returns:
    `cached`, how many were not made since an equal one was; `seconds` of all
    together, over all workers, and `seconds_max` of the longest one.
  """
  outcomes = list(outcomes)
  seconds = [outcome.seconds for outcome in outcomes]
  return {
    'cached': float(sum(outcome.cached for outcome in outcomes)),
    'seconds': sum(seconds),
    'seconds_max': max(seconds, default=0.0),
  }
