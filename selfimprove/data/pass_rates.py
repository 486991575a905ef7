"""How often a model was right about each problem, as a file."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from selfimprove.data import sources
from selfimprove.data.rows import BadRowError


def problem_key(fields: Mapping[str, Any]) -> str:
  """What a problem is known by in files of measurements.

  Args:
    fields: of its row.

  Returns:
    Hexadecimal digits, of its `problem` or else its `prompt`.
  """
  text = str(fields.get('problem', fields.get('prompt', '')))
  data = text.encode('utf-8', 'surrogatepass')
  return hashlib.sha256(data).hexdigest()


def read(path: str) -> dict[str, float]:
  """Measured pass rates by problem.

  Args:
    path: JSON lines with `problem_sha256` and `pass_rate`.

  Returns:
    Key -> rate; the mean where a problem was measured several times.

  Raises:
    FileNotFoundError: there is no such file; says how to make it.
    ValueError: a line is not a measurement.
  """
  files = sources.matching('', path)
  if not files:
    raise FileNotFoundError(
      f'There are no pass rates in {path!r}; measure them with `python -m '
      'selfimprove.evaluate --workdir=... --split=train '
      f'--pass_rates={path}`.'
    )
  rates: dict[str, list[float]] = collections.defaultdict(list)
  for file in files:
    for where, fields in sources.read(file):
      if isinstance(fields, BadRowError):
        raise fields
      key, rate = fields.get('problem_sha256'), fields.get('pass_rate')
      number = isinstance(rate, int | float) and not isinstance(rate, bool)
      if not isinstance(key, str) or not number or not 0 <= rate <= 1:
        raise ValueError(
          f'{where}: problem_sha256={key!r} and pass_rate={rate!r} are no '
          'measurement; expected are a text and a number in [0, 1].'
        )
      rates[key].append(rate)
  return {key: statistics.fmean(found) for key, found in rates.items()}


def write(
  path: str | os.PathLike[str],
  *,
  rows: Sequence[Mapping[str, Any]],
  rates: Iterable[float],
  samples: int,
) -> None:
  """Writes a line per problem, so that the file is never seen half-written.

  Args:
    path: of the file; its folder is made where it is missing.
    rows: fields of the problems.
    rates: share of right samples of each, in [0, 1].
    samples: of each problem.
  """
  path = os.fspath(path)
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  temporary = f'{path}.{os.getpid()}.partial'
  with open(temporary, 'w', encoding='utf-8') as file:
    for fields, rate in zip(rows, rates, strict=True):
      line = {
        'problem_sha256': problem_key(fields),
        'pass_rate': float(rate),
        'samples': samples,
        'problem': str(fields.get('problem', fields.get('prompt', ''))),
      }
      file.write(json.dumps(line) + '\n')
  os.replace(temporary, path)
