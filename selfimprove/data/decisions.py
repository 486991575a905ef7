"""Problems decided by their first tokens: decisions, then noise.

A hidden table gives each class of prompt its decisions. What an attempt writes
behind them is of no consequence, but it is as much of the loss: credit that
knows where attempts branch has something to win.
"""

from __future__ import annotations

import numpy as np

from selfimprove.data.problems import Problem, check_shares, uniforms

CLASSES = 'ABCDEFGH'
LETTERS = 'abcdef'
DIGITS = '0123456789'
CHARACTERS = CLASSES + LETTERS + DIGITS + '='

_TABLE, _DRAW = 2, 3  # Streams.


def draw(
  *,
  classes: int = 4,
  decisions: int = 3,
  noise: int = 4,
  filler: int = 24,
  right: float = 0.37,
  problems: int,
  seed: int,
) -> tuple[Problem, ...]:
  """Problems such as `B4071=`, whose answer depends on the `B` alone.

  Shown are attempts in which each decision is right with probability `right`
  and else another letter, with random digits behind them.

  Args:
    classes: kinds of prompt, in [1, 8].
    decisions: letters of an answer, at least 1.
    noise: digits of a prompt that do not matter, at least 1.
    filler: digits that are shown behind the answer, at least 0.
    right: probability in [0, 1].
    problems: how many, at least 1; the hidden table does not depend on it.
    seed: of table and draw.

  Returns:
    The problems; their kind is the class.

  Raises:
    ValueError: a number is out of range.

  >>> draw(problems=1, seed=0, filler=0)[0].answer
  'ecb'
  """
  check_shares(right=right)
  if not 1 <= classes <= len(CLASSES):
    raise ValueError(
      f'classes={classes} is outside [1, {len(CLASSES)}]; choose another.'
    )
  hidden = _places(
    uniforms(seed=seed, stream=_TABLE, rows=classes, columns=decisions), LETTERS
  )
  draws = uniforms(
    seed=seed,
    stream=_DRAW,
    rows=problems,
    columns=1 + noise + 2 * decisions + filler,
  )
  found = []
  for row in draws:
    kind = int(row[0] * classes)
    prompt = CLASSES[kind] + _text(row[1 : 1 + noise], DIGITS) + '='
    rest = row[1 + noise :]
    hit, jump = rest[:decisions], rest[decisions : 2 * decisions]
    # Another letter is 1 to 5 places further on.
    steps = 1 + (jump * (len(LETTERS) - 1)).astype(int)
    places = (hidden[kind] + np.where(hit < right, 0, steps)) % len(LETTERS)
    shown = _letters(places) + _text(rest[2 * decisions :], DIGITS)
    found.append(
      Problem(
        prompt=prompt,
        answer=_letters(hidden[kind]),
        shown=((prompt, shown),),
        kind=CLASSES[kind],
      )
    )
  return tuple(found)


def _places(share: np.ndarray, characters: str) -> np.ndarray:
  return (share * len(characters)).astype(int)


def _text(share: np.ndarray, characters: str) -> str:
  return ''.join(characters[i] for i in _places(share, characters))


def _letters(places: np.ndarray) -> str:
  return ''.join(LETTERS[i] for i in places)
