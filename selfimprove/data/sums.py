"""The problems of the default task: the answer first, then its working."""

from __future__ import annotations

import itertools

import numpy as np

from selfimprove.data.problems import check_seed, check_shares


def answer_to(prompt: str) -> str:
  """The answer to a prompt, then its working: digits without spaces.

    s c₂ c₃ … cₙ  with  cᵢ = (x₁ + … + xᵢ) mod 10  and  s = cₙ

  `s` has to be written before the running sums that lead to it: it is hard to
  get right at the first attempt, and a second one can read it off the working.

  Args:
    prompt: the operands x₁ … xₙ, then `=`.

  Returns:
    As many digits as there are operands.

  >>> answer_to('1203=')
  '6336'
  """
  digits = [int(c) for c in prompt.removesuffix('=')]
  running = [total % 10 for total in itertools.accumulate(digits)]
  return ''.join(map(str, [running[-1], *running[1:]]))


def draw(
  *, operands: int, problems: int, zeros: float, seed: int
) -> tuple[str, ...]:
  """Prompts drawn independently of each other, so that some come repeatedly.

  Each operand is 0 with probability `zeros` and otherwise uniform in 1..9. The
  numbers are raw Philox words, which are the same on every platform and in
  every NumPy.

  Args:
    operands: digits of a prompt, at least 2.
    problems: how many prompts, at least 1.
    zeros: probability of an operand to be 0, in [0, 1], to three digits.
    seed: of the draw; at least 0.

  Returns:
    `problems` prompts, for example `'120340='`.

  Raises:
    ValueError: a number is out of range.
  """
  if operands < 2:
    raise ValueError(f'operands={operands} add up nothing; choose at least 2.')
  check_seed(seed)
  if problems < 1:
    raise ValueError(f'problems={problems} is no problem; choose at least 1.')
  check_shares(zeros=zeros)
  # The counter keeps these words apart from those that order the epochs.
  source = np.random.Philox(
    key=np.asarray([seed, operands], np.uint64), counter=1 << 192
  )
  words = source.random_raw(problems * operands).reshape(problems, operands)
  zero = words % np.uint64(1000) < np.uint64(round(1000 * zeros))
  digits = np.where(zero, 0, 1 + (words // np.uint64(1000)) % np.uint64(9))
  return tuple(''.join(map(str, row)) + '=' for row in digits.tolist())
