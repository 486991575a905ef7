"""Problems of a known truth, as files with one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.reward_models.truth import BEST, DIGITS

STEP_END = ';'
WRONG_STEP = 0.3
"""Probability of a step to be wrong."""

Row = dict[str, Any]


def write(folder: str, *, rows: int, seed: int) -> None:
  """Writes the files of a seed, which a run reads and splits by prompt.

  Args:
    folder: where `preferences.jsonl`, `answers.jsonl` and `steps.jsonl` go.
    rows: of each file.
    seed: of the draw.
  """
  os.makedirs(folder, exist_ok=True)
  for index, (name, make) in enumerate(
    (('preferences', _pair), ('answers', _answer), ('steps', _steps))
  ):
    rng = np.random.default_rng([seed, index])
    path = os.path.join(folder, f'{name}.jsonl')
    with open(path, 'w', encoding='utf-8') as file:
      for row in _rows(make, rng, rows):
        file.write(json.dumps(row) + '\n')


def _rows(make: Any, rng: np.random.Generator, rows: int) -> Iterator[Row]:
  for _ in range(rows):
    digits = rng.integers(0, 10, DIGITS)
    # As far apart as the steps of an answer: one layer finds its way.
    prompt = STEP_END.join(map(str, digits)) + '='
    yield {'prompt': prompt, **make(rng, digits)}


def _pair(rng: np.random.Generator, digits: np.ndarray) -> Row:
  """Two answers with 0 to BEST − 1 of the digits, the one with more first."""
  worse, better = np.sort(rng.choice(BEST, 2, replace=False))
  return {
    'answer': _written(rng, digits[0], better),
    'rejected': _written(rng, digits[0], worse),
  }


def _answer(rng: np.random.Generator, digits: np.ndarray) -> Row:
  """What the base policy learns to write: an answer of any of these scores."""
  return {'answer': _written(rng, digits[0], rng.integers(BEST))}


def _written(rng: np.random.Generator, digit: int, count: int) -> str:
  """`count` times the digit among 2 or 3 others, in any order."""
  others = (digit + rng.integers(1, 10, rng.integers(2, 4))) % 10
  both = np.concatenate([np.full(count, digit), others])
  return ''.join(map(str, rng.permutation(both)))


def _steps(rng: np.random.Generator, digits: np.ndarray) -> Row:
  """The digits plus one, some wrong; each step is judged by the truth."""
  right = (digits + 1) % 10
  wrong = rng.random(DIGITS) < WRONG_STEP
  steps = (right + wrong * rng.integers(1, 10, DIGITS)) % 10
  labels = ''.join(map(str, (steps == right).astype(int)))
  answer = ''.join(f'{step}{STEP_END}' for step in steps)
  return {'answer': answer, 'labels': labels}
