"""What the processes of a run tell each other on the host.

All processes call each of these functions together, and get the same answer.
In a run of one process nothing is sent.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

import selfimprove
from selfimprove.line_difference import first_difference
from selfimprove.training.signals import StopRequest

_Result = TypeVar('_Result')


class DisagreementError(ValueError):
  """The processes of a run were not started alike."""


class OtherProcessError(RuntimeError):
  """Another process of the run has failed."""


def numbers(values: np.ndarray) -> np.ndarray:
  """The numbers of all processes.

  Args:
    values: of 32 bits or fewer each, of one shape on all processes.

  Returns:
    `values` of each process along a new first axis.
  """
  if jax.process_count() == 1:
    return values[None]
  return np.asarray(multihost_utils.process_allgather(values))


def joined_rows(
  values: np.ndarray, rows: np.ndarray, *, count: int
) -> np.ndarray:
  """An array of which each process has made some rows.

  Args:
    values: this process's rows, of 32 bits or fewer an element.
    rows: their numbers; each row is that of one process.
    count: rows in all.

  Returns:
    The whole array.
  """
  whole = np.zeros((count, *values.shape[1:]), values.dtype)
  owned = np.zeros(count, bool)
  whole[rows], owned[rows] = values, True
  owner = numbers(owned).argmax(axis=0)
  return numbers(whole)[owner, np.arange(count)]


def totals(counts: Mapping[str, Any]) -> dict[str, float]:
  """The counts of all processes together.

  Args:
    counts: of this process, by names that are the same on all.

  Returns:
    Sums, and of names with `_max` in them the largest.
  """
  names = sorted(counts)
  if jax.process_count() == 1 or not names:
    return {name: counts[name] for name in counts}
  found = numbers(
    np.asarray([float(counts[name]) for name in names], np.float32)
  )
  return {
    name: float(
      column.max() if '_max' in name else column.sum(dtype=np.float64)
    )
    for name, column in zip(names, found.T)
  }


def texts(text: str) -> list[str]:
  """The texts of all processes.

  Args:
    text: of this one.

  Returns:
    One for each process.
  """
  if jax.process_count() == 1:
    return [text]
  data = np.frombuffer(text.encode(), np.uint8)
  lengths = numbers(np.asarray([data.size], np.int32))[:, 0]
  padded = numbers(np.pad(data, (0, int(lengths.max()) + 1 - data.size)))
  return [
    row[:length].astype(np.uint8).tobytes().decode()
    for row, length in zip(padded, lengths.tolist())
  ]


def versions() -> dict[str, str]:
  """What all processes of a run must have in common before any config.

  Returns:
    By name, for `check_same`.
  """
  count = jax.local_device_count()
  return {
    'the version of selfimprove': selfimprove.__version__,
    'the version of jax': jax.__version__,
    'their devices': f'{count} of {jax.local_devices()[0].device_kind}',
  }


def check_same(facts: Mapping[str, str]) -> None:
  """Refuses a run whose processes differ in something.

  Args:
    facts: texts by name, the same names on all processes; of a text of several
      lines the first that differs is shown.

  Raises:
    DisagreementError: on all processes, with what differs.
  """
  for name, text in facts.items():
    first, *others = texts(text)
    for number, other in enumerate(others, start=1):
      if other != first:
        here, there = first_difference(first, other)
        raise DisagreementError(
          f'The processes of this run differ in {name}: process 0 has '
          f'`{here}`, process {number} has `{there}`; start them alike.'
        )


def together(call: Callable[[], _Result]) -> _Result:
  """What a call returns, if it fails on no process.

  A process that failed alone would leave the others waiting for it.

  Args:
    call: something that this process does by itself.

  Returns:
    Its result.

  Raises:
    Exception: what it raised.
    OtherProcessError: it failed on another process; says what was raised there.
  """
  if jax.process_count() == 1:
    return call()
  own: Exception | None = None
  result: list[_Result] = []
  try:
    result.append(call())
  except Exception as error:
    own = error
  failed = numbers(np.asarray([own is not None], np.int32))[:, 0]
  if failed.any():
    said = texts('' if own is None else f'{type(own).__name__}: {own}')
    if own is not None:
      raise own
    first = int(np.flatnonzero(failed)[0])
    raise OtherProcessError(f'Process {first} failed: {said[first]}')
  return result[0]


def stop_request(request: StopRequest) -> StopRequest:
  """Whether any process was asked to stop.

  Args:
    request: what this process was asked.

  Returns:
    That of the first process which was asked, the same on all.
  """
  if jax.process_count() == 1:
    return request
  # A signal may come between the two reads: the reason is set with the flag.
  number = signal.Signals[request.reason].value if request.requested else 0
  asked = numbers(np.asarray([number], np.int32))[:, 0]
  if not asked.any():
    return StopRequest()
  first = int(np.flatnonzero(asked)[0])
  name = signal.Signals(int(asked[first])).name
  return StopRequest(requested=True, reason=f'{name} (process {first})')
