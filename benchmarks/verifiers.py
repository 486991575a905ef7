"""Verdicts a second of the mathematics verifier, on ordinary answers.

    PYTHONPATH=. python benchmarks/verifiers.py

Attempts are made up from a seed, a third of them wrong, each another one, so
that none is remembered: whole numbers as GSM8K has them, numbers in several
spellings, lists, choices, and expressions that only computer algebra can
compare. `ordinary` mixes them as `SHARES` says. The target is 500 verdicts a
second with two workers on two cores. Where other processes have some of the
cores, look at verdicts per CPU second: two idle cores give about twice that.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import random
import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

from selfimprove.rewards.mathematics import MathAnswer
from selfimprove.rewards.pool import VerifierPool
from selfimprove.rewards.verdict_cache import CachedPool

TARGET = 500

SHARES: Mapping[str, float] = {
  'whole': 0.4,
  'spelled': 0.25,
  'list': 0.1,
  'choice': 0.1,
  'algebra': 0.15,
}
"""How ordinary answers are made up, by kind."""

HERE = pathlib.Path(__file__).resolve().parent

_OWN_AND_CHILDREN = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)

Call = tuple[str, Mapping[str, Any]]

_STEPS = 'We compute step by step, and find that this leads to the result. ' * 8


def ordinary(count: int, *, seed: int) -> list[Call]:
  """Calls of all kinds in a random order.

  Args:
    count: how many.
    seed: of everything.

  Returns:
    Attempts with their rows.
  """
  draw = random.Random(seed)
  kinds = draw.choices(list(SHARES), weights=list(SHARES.values()), k=count)
  return [_call(kind, draw) for kind in kinds]


def of_kind(kind: str, count: int, *, seed: int) -> list[Call]:
  """Calls of one kind.

  Args:
    kind: a name of `SHARES`.
    count: how many.
    seed: of everything.

  Returns:
    Attempts with their rows.
  """
  draw = random.Random(seed)
  return [_call(kind, draw) for _ in range(count)]


def _call(kind: str, draw: random.Random) -> Call:
  answer, reference = _PAIRS[kind](draw)
  noise = draw.randrange(10**9)  # No two attempts are the same.
  return (
    f'{noise}: {_STEPS}\\boxed{{{answer}}}',
    {'prompt': _STEPS, 'answer': reference},
  )


def _off(draw: random.Random) -> int:
  """What makes every third answer wrong."""
  return int(draw.random() < 1 / 3)


def _whole(draw: random.Random) -> tuple[str, str]:
  value = draw.randrange(10**5)
  return f'{value + _off(draw):,}', f'so it is\n#### {value}'


def _spelled(draw: random.Random) -> tuple[str, str]:
  top, bottom = draw.randrange(1, 99), draw.choice([2, 4, 5, 8])
  given = top + _off(draw)
  answers = (
    rf'\dfrac{{{given}}}{{{bottom}}}',
    f'{given / bottom}',
    rf'{100 * given / bottom}\%',
    rf'{given / bottom}\text{{ cm}}',
    rf'x = {given}/{bottom}',
  )
  return draw.choice(answers), rf'\frac{{{top}}}{{{bottom}}}'


def _list(draw: random.Random) -> tuple[str, str]:
  a, b = draw.randrange(99), draw.randrange(1, 99)
  right = rf'\left(\frac{{{2 * a}}}{{2}}, {b + _off(draw)}.0\right)'
  return right, f'({a}, {b})'


def _choice(draw: random.Random) -> tuple[str, str]:
  letter = draw.choice('ABCDE')
  return rf'\text{{({draw.choice([letter, letter, "A"])})}}', letter


def _algebra(draw: random.Random) -> tuple[str, str]:
  a, b, off = draw.randrange(2, 30), draw.randrange(2, 30), _off(draw)
  pairs = (
    (rf'{a}\sqrt{{{b + off}}}', rf'\sqrt{{{a * a * b}}}'),
    (rf'\frac{{{a}\pi}}{{{b + off}}}', rf'{a}\pi/{b}'),
    (f'(x+{a})(x-{b + off})', f'x^2+{a - b}x-{a * b}'.replace('+-', '-')),
    (f'{a}x+{b + off}', f'{b}+{a}x'),
    (rf'\frac{{1}}{{\sqrt{{{b + off}}}}}', rf'\frac{{\sqrt{{{b}}}}}{{{b}}}'),
    (rf'x \ge {a + off}', rf'[{a}, \infty)'),
  )
  return draw.choice(pairs)


_PAIRS = {
  'whole': _whole,
  'spelled': _spelled,
  'list': _list,
  'choice': _choice,
  'algebra': _algebra,
}


def rate(pool: CachedPool, calls: Sequence[Call]) -> float:
  """Verdicts a second of calls that all get one.

  Args:
    pool: whose processes have started.
    calls: what is judged.

  Returns:
    Calls a second, wall clock.

  Raises:
    RuntimeError: a call got no verdict.
  """
  began = time.perf_counter()
  outcomes = pool.run(calls, stop_at_failure=False)
  seconds = time.perf_counter() - began
  missing = [o.verdict for o in outcomes if not isinstance(o.verdict, float)]
  if missing:
    raise RuntimeError(f'{len(missing)} calls got no verdict: {missing[0]}.')
  return len(calls) / seconds


def per_cpu_second(*, workers: int, calls: int) -> float:
  """Ordinary verdicts per second of one core, whoever else has the cores.

  Args:
    workers: processes.
    calls: how many.

  Returns:
    Calls by the CPU seconds of parent and workers, their start left out.
  """
  spent = []
  for count in (workers, calls + workers):
    pool = VerifierPool(
      MathAnswer(), timeout_seconds=60.0, workers=workers, memory_bytes=None
    )
    before = _cpu_seconds()
    rate(CachedPool(pool, size=0), ordinary(count, seed=4))
    pool.close()  # What ended processes have used is known.
    spent.append(_cpu_seconds() - before)
  return calls / (spent[1] - spent[0])


def _cpu_seconds() -> float:
  used = [resource.getrusage(who) for who in _OWN_AND_CHILDREN]
  return sum(one.ru_utime + one.ru_stime for one in used)


def measure(*, workers: int, calls: int) -> dict[str, Any]:
  """Start, rates by kind, and the rate of what is remembered.

  Args:
    workers: processes.
    calls: of each kind; of the mixture five times as many.

  Returns:
    What is written.
  """
  pool = VerifierPool(
    MathAnswer(), timeout_seconds=10.0, workers=workers, memory_bytes=None
  )
  cached = CachedPool(pool, size=10**6)
  began = time.perf_counter()
  rate(cached, of_kind('choice', workers, seed=1))
  start = time.perf_counter() - began
  mixed = ordinary(5 * calls, seed=2)
  rates = {'ordinary': rate(cached, mixed)}
  rates['ordinary, again from the cache'] = rate(cached, mixed)
  for kind in SHARES:
    rates[kind] = rate(cached, of_kind(kind, calls, seed=3))
  pool.close()
  return {
    'workers': workers,
    'calls_of_each_kind': calls,
    'start_seconds': round(start, 2),
    'verdicts_per_second': {name: round(r) for name, r in rates.items()},
    'ordinary_verdicts_per_cpu_second': round(
      per_cpu_second(workers=workers, calls=5 * calls)
    ),
    'load_average': os.getloadavg()[0],
    'target': TARGET,
    'versions': {
      name: importlib.metadata.version(name)
      for name in ('math-verify', 'sympy', 'latex2sympy2_extended')
    },
  }


def main() -> None:
  """Measures, prints and writes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--workers', type=int, default=2)
  parser.add_argument('--calls', type=int, default=1000)
  parser.add_argument('--output', default=str(HERE / 'results/verifiers.json'))
  flags = parser.parse_args()
  found = measure(workers=flags.workers, calls=flags.calls)
  text = json.dumps(found, indent=2) + '\n'
  pathlib.Path(flags.output).write_text(text, encoding='utf-8')
  print(text, end='')


if __name__ == '__main__':
  main()
