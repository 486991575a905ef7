"""Problems with ten right answers each: pairs with a given sum.

With one right string nothing is lost by forgetting the others. Here what else
was right is worth knowing, because several attempts may be made.
"""

from __future__ import annotations

from selfimprove.data.problems import Problem, check_shares, uniforms

CHARACTERS = '0123456789='

_DRAW = 6  # Stream.


def draw(
  *,
  operands: int = 2,
  noise: int = 2,
  right: float = 0.15,
  problems: int,
  seed: int,
) -> tuple[Problem, ...]:
  """Problems such as `4702=`: two digits with the sum of the operands mod 10.

  Shown are right pairs, each as likely as the others, with probability
  `right`, and else any pair.

  Args:
    operands: digits that count, at least 1; they come first.
    noise: digits that do not matter, at least 0.
    right: probability in [0, 1].
    problems: how many, at least 1.
    seed: of the draw.

  Returns:
    The problems; their kind is the sum, and the answer one of the right ones.

  Raises:
    ValueError: a number is out of range.
  """
  check_shares(right=right)
  if operands < 1:
    raise ValueError(f'operands={operands} have no sum; choose at least 1.')
  size = operands + noise
  draws = uniforms(seed=seed, stream=_DRAW, rows=problems, columns=size + 3)
  found = []
  for row in draws:
    digits = [int(10 * share) for share in row[:size]]
    total = sum(digits[:operands]) % 10
    first, other = int(10 * row[size + 1]), int(10 * row[size + 2])
    second = (total - first) % 10 if row[size] < right else other
    prompt = ''.join(map(str, digits)) + '='
    found.append(
      Problem(
        prompt=prompt,
        answer=f'0{total}',
        shown=((prompt, f'{first}{second}'),),
        kind=str(total),
      )
    )
  return tuple(found)
