"""The problems of the default task: the answer first, then its working."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

# Draws come in blocks; when this many blocks per wanted problem brought too
# little that is new, the space is nearly used up.
_BLOCK = 4096
_PATIENCE = 64


def answer_to(prompt: str) -> str:
  """The answer `s u v` (three digits, no spaces) to a prompt.

    u = Σ first half of the operands mod 10
    v = Σ second half mod 10
    s = (u + v) mod 10

  `s` is the answer and stands before its working `u v`: it is hard to write at
  the first attempt and easy to read off at the second.

  Args:
    prompt: an even number of digits, then `=`.

  Returns:
    Three digits.

  >>> answer_to('1203=')
  '633'
  """
  digits = [int(c) for c in prompt.removesuffix('=')]
  half = len(digits) // 2
  u, v = sum(digits[:half]) % 10, sum(digits[half:]) % 10
  return f'{(u + v) % 10}{u}{v}'


def draw(*, operands: int, problems: int, seed: int) -> tuple[str, ...]:
  """Distinct prompts, in the order in which they were drawn.

  Each operand is 0 with probability 1/2 and otherwise uniform in 1..9; a
  problem that was drawn before is drawn again. The numbers are raw Philox
  words, which are the same on every platform and in every NumPy.

  Args:
    operands: digits of a prompt; even, at least 2.
    problems: how many prompts.
    seed: of the draw; in [0, 2⁶⁴).

  Returns:
    `problems` prompts, for example `'120340='`.

  Raises:
    ValueError: `operands` is odd or below 2, the seed is out of range, or the
      space of problems is too small for so many.
  """
  if operands < 2 or operands % 2:
    raise ValueError(
      f'operands={operands} has no two equal halves to add up; choose an even '
      'number of at least 2.'
    )
  if not 0 <= seed < 2**64:
    raise ValueError(f'seed={seed} is outside [0, 2**64); choose another.')
  if problems < 1:
    raise ValueError(f'problems={problems} is no problem; choose at least 1.')
  drawn: dict[str, None] = {}
  blocks = _blocks(operands=operands, seed=seed)
  limit = 1 + _PATIENCE * problems // _BLOCK
  for block in itertools.islice(blocks, limit):
    drawn.update(dict.fromkeys(block))
    if len(drawn) >= problems:
      return tuple(itertools.islice(drawn, problems))
  raise ValueError(
    f'problems={problems} are too many for operands={operands}: '
    f'{limit * _BLOCK} draws gave {len(drawn)} different ones; ask for fewer '
    'problems or use more operands.'
  )


def _blocks(*, operands: int, seed: int) -> Iterator[list[str]]:
  # The counter keeps these words apart from those that order the epochs.
  source = np.random.Philox(
    key=np.asarray([seed, operands], np.uint64), counter=1 << 192
  )
  while True:
    words = source.random_raw(_BLOCK * operands).reshape(_BLOCK, operands)
    zero = words % np.uint64(2) == 0
    digits = np.where(zero, 0, 1 + (words >> np.uint64(1)) % np.uint64(9))
    yield [''.join(map(str, row)) + '=' for row in digits.tolist()]
