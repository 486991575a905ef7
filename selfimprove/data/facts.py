"""Facts of which a base model knows some only when it is given a hint.

Each key has a random answer of three digits. A base model that imitates what
is shown gives a wrong answer to hard keys practically always, so that sampling
finds nothing to reward; behind the first digit it often goes on rightly.
"""

from __future__ import annotations

import string

import numpy as np

from selfimprove.data.problems import Problem, check_shares, uniforms

KEYS = string.ascii_letters
HINT_OPENING, HINT_CLOSING = '?', '='
CHARACTERS = KEYS + '0123456789=?'

_TABLE, _DRAW = 4, 5  # Streams.
_DIGITS = 3  # Of an answer.


def draw(
  *,
  hard: int = 32,
  easy: int = 20,
  noise: int = 3,
  slips: float = 0.2,
  known: float = 0.7,
  helped: float = 0.4,
  problems: int,
  seed: int,
) -> tuple[Problem, ...]:
  """Problems such as `k402=`, whose answer depends on the `k` alone.

  Shown are an attempt at the prompt, right with probability `known` for easy
  keys and else, or for hard keys, the wrong answer that the key always has,
  each digit of which slips to a random one with probability `slips`; and one
  behind the hint `?`, first digit, `=`, which begins with that digit and goes
  on rightly with probability `helped`, else at random.

  A hard key is right by slips alone: (slips / 10)³.

  Args:
    hard: keys, at least 1.
    easy: keys, at least 1; with `hard` at most 52.
    noise: digits of a prompt that do not matter, at least 1.
    slips: probability in [0, 1].
    known: probability in [0, 1].
    helped: probability in [0, 1].
    problems: how many, at least 1; the facts do not depend on it.
    seed: of facts and draw.

  Returns:
    The problems; their kind is 'hard' or 'easy'.

  Raises:
    ValueError: a number is out of range.
  """
  check_shares(slips=slips, known=known, helped=helped)
  if hard < 1 or easy < 1 or hard + easy > len(KEYS):
    raise ValueError(
      f'hard={hard} and easy={easy} keys: choose at least 1 of each and at '
      f'most {len(KEYS)} together.'
    )
  facts = uniforms(
    seed=seed, stream=_TABLE, rows=hard + easy, columns=2 * _DIGITS
  )
  right = (facts[:, :_DIGITS] * 10).astype(int)
  # Wrong in each place: 1 to 9 further on.
  wrong = (right + 1 + (facts[:, _DIGITS:] * 9).astype(int)) % 10
  draws = uniforms(
    seed=seed, stream=_DRAW, rows=problems, columns=1 + noise + 10
  )
  found = []
  for row in draws:
    key = int(row[0] * (hard + easy))
    prompt = KEYS[key] + _text(row[1 : 1 + noise] * 10) + '='
    dice, kind = row[1 + noise :], 'hard' if key < hard else 'easy'
    knows = kind == 'easy' and dice[0] < known
    plain = right[key] if knows else _slip(wrong[key], dice[1:7], slips)
    hint = f'{HINT_OPENING}{right[key][0]}{HINT_CLOSING}'
    rest = right[key][1:] if dice[7] < helped else dice[8:10] * 10
    found.append(
      Problem(
        prompt=prompt,
        answer=_text(right[key]),
        shown=(
          (prompt, _text(plain)),
          (prompt + hint, _text(right[key][:1]) + _text(rest)),
        ),
        kind=kind,
      )
    )
  return tuple(found)


def _slip(digits: np.ndarray, dice: np.ndarray, slips: float) -> np.ndarray:
  """The digits, some of them replaced by random ones."""
  return np.where(dice[:_DIGITS] < slips, dice[_DIGITS:] * 10, digits)


def _text(digits: np.ndarray) -> str:
  return ''.join(str(int(digit)) for digit in digits)
