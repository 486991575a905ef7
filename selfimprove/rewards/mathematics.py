r"""A verifier of mathematical answers, by layers from cheap to thorough."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from selfimprove.rewards import final_answers, math_text, quantities, symbolic

_CHOICE = re.compile(
  r'(?:option|choice|answer)?\s*\(?(?P<letter>[A-J])\)?(?:[.:)]\s?(?P<rest>.*))?',
  re.IGNORECASE,
)
# `A. or B`, `A. this, C` and `A. this, c` are no choice; `B. A dog` is one, and
# so is `B. x + C`.
_ANOTHER = re.compile(
  r'(?<![a-zA-Z+^_*])(?<![+^_*] )(?:[B-HJ]|A(?! [a-z]{3,}))(?![a-zA-Z])'
  r'|\([A-J]\)|(?<![a-zA-Z])[A-J][.:)]|\b(?:or|and|be)\s+\(?[A-J]\b'
  r'|(?:[,;/]|\b(?:or|and|be))\s*\(?[a-j]\)?\s*$'
)
_ONE_LETTER = re.compile(r'\(?([A-J])\)?')
_NAMED = re.compile(
  r'(?P<name>\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([a-zA-Z, ]+\))?) ?(?:=|\\in) ?'
  r'(?P<value>[^=<>]+)'
)
_LETTER = re.compile(
  r'(?<![\\a-zA-Z])[a-zA-Z]|\\(?:[a-zA-Z]*eta|alpha|gamma|delta|epsilon|'
  r'var[a-z]+|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon|phi|chi|psi|'
  r'omega|angle|overline|Delta|Gamma|Lambda|Omega|Phi|Psi|Sigma)\b'
)
_TRAIL = re.compile(
  r'\.\.|≡|\\[lcvd]?dots|\\(?:equiv|implies|iff|to|mapsto|(?:long)?(?:left)?'
  r'rightarrow|Rightarrow|Leftrightarrow)\b'
)
_MOST_ITEMS = 20
_MARKS = ('####', '\\boxed{}')  # Of answers that are not there.


@dataclasses.dataclass(frozen=True, kw_only=True)
class MathAnswer:
  r"""1.0 where the final answer of an attempt is that of the reference.

  The answer is looked for in the `ways` of `final_answers.READERS`; an attempt
  without one is wrong. Two answers are the same by the first of these layers
  that can tell:

  1. the same text, letter by letter, or in one spelling (`\dfrac12`, `½`);
  2. multiple choice, where the reference is a letter: (B), `\text{B}`, B. 12;
  3. numbers: exact up to the tolerances, with thousands, fractions, mixed
     numbers, powers of ten, units (that of one side may be missing; none are
     converted) and percent (50 % is 50 and 1/2);
  4. lists, value by value: tuples and intervals in order and with the same
     brackets, sets and bare lists in any order;
  5. words, without regard to case;
  6. computer algebra (`symbolic`), if both are within its bounds. Longer or
     larger answers are wrong unless they are the same text.

  `x = 5` is 5, and so is an equation with a letter on its left; `4 = 5`, chains
  (`x = 4 = 5`) and answers that go on (`5...`) are only what a reference of
  that form says, part by part.

  Angles are not converted to radians, a decimal is not a fraction with no end
  (0.33 and 1/3) unless a tolerance says so, and π is not 3.14.

  Attributes:
    field: of the data row, that holds the reference answer.
    ways: how the answer of an attempt is found, in this order.
    reference_ways: how that of the row is found: as it is, if it is not in a
      box or behind `####`.
    relative_tolerance: of numbers, >= 0.
    absolute_tolerance: of numbers, >= 0.
    decimals: to which a decimal must agree with an irrational number.
    max_characters: of an answer, >= 1; a longer one that is not the very text
      of the reference is wrong.
    algebra: whether there is the last layer.
  """

  field: str = 'answer'
  ways: tuple[str, ...] = ('boxed', 'hashes', 'stated', 'whole')
  reference_ways: tuple[str, ...] = ('boxed', 'hashes', 'whole')
  relative_tolerance: float = 0.0
  absolute_tolerance: float = 0.0
  decimals: int = 6
  max_characters: int = 500
  algebra: bool = True

  def __post_init__(self) -> None:
    known = sorted(final_answers.READERS)
    for way in (*self.ways, *self.reference_ways):
      if way not in known:
        raise ValueError(f'ways has {way!r}; use names among {known}.')
    for name in ('relative_tolerance', 'absolute_tolerance', 'decimals'):
      value = getattr(self, name)
      if not 0 <= value < math.inf:
        raise ValueError(f'{name} is {value}; use a finite number >= 0.')
    if self.max_characters < 1:
      raise ValueError(
        f'max_characters is {self.max_characters}; use at least 1.'
      )

  def prepare(self) -> None:
    """Loads computer algebra; a worker does so before its first call."""
    if self.algebra:
      symbolic.prepare()

  def check(self, reference: Mapping[str, Any]) -> None:
    """Looks for the reference answer of a row.

    Args:
      reference: data row.

    Raises:
      ValueError: the row has no reference answer.
    """
    self._target(reference)

  def __call__(self, attempt: str, reference: Mapping[str, Any]) -> float:
    """Returns the verdict.

    Args:
      attempt: what the model wrote.
      reference: data row.

    Returns:
      1.0 or 0.0.

    Raises:
      ValueError: the row has no reference answer.
    """
    target = self._target(reference)
    answer = final_answers.final_answer(attempt, ways=self.ways)
    if answer is None:
      return 0.0
    if answer == target:
      return 1.0
    choice = _ONE_LETTER.fullmatch(math_text.canonical(target))
    if choice:
      return float(self._choice(attempt, answer) == choice[1])
    if len(answer) > self.max_characters:
      return 0.0
    return float(
      self._same(math_text.canonical(answer), math_text.canonical(target))
    )

  def _target(self, reference: Mapping[str, Any]) -> str:
    if self.field not in reference:
      raise ValueError(
        f'The row has the fields {sorted(reference)} and no {self.field!r}; '
        'name the one with the answer as `MathAnswer.field`.'
      )
    text = str(reference[self.field])
    target = final_answers.final_answer(text, ways=self.reference_ways)
    if not target or target in _MARKS:
      raise ValueError(
        f'The field {self.field!r} of the row, {text!r:.80}, holds no answer; '
        'correct the row, or `MathAnswer.reference_ways`.'
      )
    return target

  def _choice(self, attempt: str, answer: str) -> str | None:
    """The letter that was chosen."""
    found = _CHOICE.fullmatch(math_text.canonical(answer[:200]))
    if found and not _ANOTHER.search(found['rest'] or ''):
      return found['letter'].upper()
    # Without any mark of an answer, the last letter that stands alone.
    return final_answers.letter(attempt) if answer == attempt.strip() else None

  def _same(self, answer: str, target: str) -> bool:
    answer, target = math_text.bare(answer), math_text.bare(target)
    if not answer or not target:
      return False
    if math_text.same_text(answer, target):
      return True
    numbers = quantities.quantity(answer), quantities.quantity(target)
    if numbers[0] and numbers[1]:
      return quantities.agree(
        numbers[0],
        numbers[1],
        relative_tolerance=self.relative_tolerance,
        absolute_tolerance=self.absolute_tolerance,
      )
    lists = math_text.parts(answer), math_text.parts(target)
    if (lists[0] and numbers[1]) or (lists[1] and numbers[0]):
      return False
    if lists[0] and lists[1]:
      return self._same_parts(lists[0], lists[1])
    named = _unnamed(answer, target)
    if named:
      return self._same(*named)
    if math_text.is_words(answer) or math_text.is_words(target):
      return answer.casefold() == target.casefold()
    return self._same_value(answer, target)

  def _same_value(self, answer: str, target: str) -> bool:
    if bool(_TRAIL.search(answer)) > bool(_TRAIL.search(target)):
      return False
    chains = _chain(answer), _chain(target)
    if len(chains[0]) > 2:
      return len(chains[0]) == len(chains[1]) and all(map(self._same, *chains))
    if len(chains[0]) == 2 and not _is_equation(answer, target):
      return False
    limit = self.max_characters
    if not self.algebra or not all(
      symbolic.readable(text, max_characters=limit) for text in (answer, target)
    ):
      return False
    return symbolic.same_value(answer, target, decimals=self.decimals)

  def _same_parts(
    self, answer: math_text.Parts, target: math_text.Parts
  ) -> bool:
    if (
      len(answer.items) != len(target.items) or len(answer.items) > _MOST_ITEMS
    ):
      return False
    brackets = (
      (answer.opening, answer.closing),
      (target.opening, target.closing),
    )
    if all(opening for opening, _ in brackets) and brackets[0] != brackets[1]:
      return False
    if answer.ordered or target.ordered:
      return all(map(self._same, answer.items, target.items))
    left = list(target.items)
    for item in answer.items:
      match = next((x for x in left if self._same(item, x)), None)
      if match is None:
        return False
      left.remove(match)
    return True


def _chain(text: str) -> list[str]:
  """What stands between equality signs; systems of equations are whole."""
  return [text] if r'\begin' in text else text.split('=')


def _is_equation(answer: str, target: str) -> bool:
  """Whether an answer with one `=` says something about a letter."""
  left, right = answer.split('=')
  sides = (left, right) if '=' in target else (left,)
  return any(
    _LETTER.search(side) and quantities.quantity(side.strip()) is None
    for side in sides
  )


def _unnamed(answer: str, target: str) -> tuple[str, str] | None:
  """Both values where a name stands before one, or the same before both."""
  a, b = _NAMED.fullmatch(answer), _NAMED.fullmatch(target)
  if a and b:
    if a['name'].replace(' ', '') != b['name'].replace(' ', ''):
      return None
    return a['value'], b['value']
  if a and '=' not in target:
    return a['value'], target
  if b and '=' not in answer:
    return answer, b['value']
  return None
