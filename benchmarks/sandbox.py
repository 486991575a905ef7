"""How many programs a second the sandbox judges.

    python benchmarks/sandbox.py --workers=2 --verdicts=200

Rows are like those of HumanEval: a function to complete, and a `check` of five
assertions. Programs are right, wrong and unfinished by turns. The result is
printed and written as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import time
from typing import Any

from selfimprove.rewards import sandbox
from selfimprove.rewards.code import PassesTests
from selfimprove.rewards.verifiers import HostVerifier

_OUTPUT = pathlib.Path(__file__).parent / 'results' / 'sandbox.json'
_PROMPT = '''from typing import List


def running_maximum(numbers: List[int]) -> List[int]:
    """The largest of the numbers so far, at each place.

    >>> running_maximum([1, 3, 2])
    [1, 3, 3]
    """
'''
_TEST = """
def check(candidate):
    assert candidate([]) == []
    assert candidate([1, 3, 2]) == [1, 3, 3]
    assert candidate([3, 2, 1]) == [3, 3, 3]
    assert candidate([-1, -5, 0]) == [-1, -1, 0]
    assert candidate(list(range(100))) == list(range(100))
"""
_ROW = {'prompt': _PROMPT, 'test': _TEST, 'entry_point': 'running_maximum'}
_WRONG = 'def running_maximum(numbers):\n    return sorted(numbers)'
_ATTEMPTS = {
  '    from itertools import accumulate\n'
  '    return list(accumulate(numbers, max))\n': 1.0,
  f'```python\n{_WRONG}\n```': 0.0,
  '    result = []\n    for number in numbers:\n      result.append(': 0.0,
}


def measure(
  isolation: sandbox.Level, *, workers: int, verdicts: int
) -> dict[str, Any]:
  """Speed at one level.

  Args:
    isolation: level.
    workers: processes of the host that judge side by side, >= 1.
    verdicts: how many are timed, >= 1.

  Returns:
    Verdicts per second of all workers together, and the milliseconds of one
    verdict by itself (median).

  Raises:
    RuntimeError: a verdict is not what it should be.
  """
  alone = PassesTests(isolation=isolation)
  kinds = (list(_ATTEMPTS) * verdicts)[:verdicts]
  expected = [_ATTEMPTS[kind] for kind in kinds]
  # No two are the same: a verdict that is remembered runs nothing. In front of
  # a body a comment is within the function; code in a block stands by itself.
  attempts = [
    kind.replace('def ', f'# {i}\ndef ', 1)
    if kind.startswith('```')
    else f'    # {i}\n{kind}'
    for i, kind in enumerate(kinds)
  ]
  alone(attempts[0], _ROW)  # Starts the launcher.
  laps = []
  for attempt in attempts[:30]:
    began = time.perf_counter()
    alone(attempt, _ROW)
    laps.append(time.perf_counter() - began)
  alone.close()
  host = HostVerifier(fn=PassesTests(isolation=isolation), workers=workers)
  host.judge([[kinds[0]]] * workers, [_ROW] * workers)
  began = time.perf_counter()
  rewards = host.judge([[attempt] for attempt in attempts], [_ROW] * verdicts)
  seconds = time.perf_counter() - began
  if host.timing()['verifier/cached']:
    raise RuntimeError('Attempts were the same: some verdicts ran nothing.')
  host.close()
  if rewards[:, 0].tolist() != expected:
    raise RuntimeError('A verdict is wrong; run the tests of the sandbox.')
  return {
    'verdicts_per_second': round(verdicts / seconds, 1),
    'milliseconds_alone': round(1e3 * statistics.median(laps), 1),
  }


def main() -> None:
  """Measures every level that this machine has."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workers', type=int, default=os.cpu_count() or 1)
  parser.add_argument('--verdicts', type=int, default=200)
  parser.add_argument('--output', type=pathlib.Path, default=_OUTPUT)
  flags = parser.parse_args()
  result: dict[str, Any] = {
    'workers': flags.workers,
    'verdicts': flags.verdicts,
    'cores': os.cpu_count(),
    'load_before': os.getloadavg()[0],
    'kernel': platform.release().split('-')[0],
    'python': platform.python_version(),
    'levels': {},
  }
  for level in ('namespaces', 'bubblewrap', 'limits'):
    why = sandbox.weakness(level)
    result['levels'][level] = (
      measure(level, workers=flags.workers, verdicts=flags.verdicts)
      if why is None
      else f'not here: {why}'
    )
  text = json.dumps(result, indent=2)
  print(text)
  flags.output.write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
  main()
