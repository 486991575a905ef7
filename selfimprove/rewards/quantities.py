r"""Numbers with their units, as answers state them.

Read from the spelling of `math_text.canonical`: decimals with separators
between thousands, fractions, mixed numbers, powers of ten, percent, money and
units. Only the standard library is imported.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

_SIZE = (
  r'(?:(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?!\d)(?:\.\d*)?|\.\d+)'
)
_UP = r'\^ ?(?:\{ ?(?P<up>[-+]?\d+) ?\}|(?P<up1>-?\d+))'
_NUMBERS = tuple(
  re.compile(pattern)
  for pattern in (
    r'(?P<whole>\d+) ?\\frac ?\{ ?(?P<top>\d+) ?\} ?\{ ?(?P<bottom>\d+) ?\}',
    r'(?P<whole>\d+) (?P<top>\d+) ?/ ?(?P<bottom>\d+)',
    rf'\\frac ?\{{ ?(?P<top>-?{_SIZE}) ?\}} ?'
    rf'\{{ ?(?P<bottom>-?{_SIZE}) ?\}}',
    rf'(?P<top>{_SIZE}) ?/ ?(?P<bottom>{_SIZE})',
    rf'(?P<top>{_SIZE}) ?(?:\\times|\\cdot|x) ?10 ?{_UP}',
    rf'(?P<top>{_SIZE})[eE](?P<up>[-+]?\d+)',
    rf'(?P<ten>10) ?{_UP}',
    rf'(?P<top>{_SIZE})',
  )
)
_MONEY = re.compile(r'\\(dollar|euro|pound) ?')
_PERCENT = re.compile(r' ?(?:%|percent\b)')
_UNIT_WORD = re.compile(r'([a-zA-Z]+)(?:\^ ?\{?(-?[1-3])\}?)?')
_LARGEST_EXPONENT = 999
_MOST_DIGITS = 200

_ALIASES = {
  alias: unit
  for unit, aliases in {
    '': 'unit',
    'mm': 'millimeter millimetre',
    'cm': 'centimeter centimetre',
    'm': 'meter metre',
    'km': 'kilometer kilometre',
    'in': 'inch inches',
    'ft': 'foot feet',
    'yd': 'yard',
    'mi': 'mile',
    'mg': 'milligram',
    'g': 'gram',
    'kg': 'kilogram',
    'lb': 'pound lbs',
    'oz': 'ounce',
    's': 'second sec secs',
    'min': 'minute mins',
    'h': 'hour hr hrs',
    'd': 'day',
    'ml': 'milliliter millilitre',
    'l': 'liter litre',
    'dollar': 'usd buck',
    'cent': '',
    'euro': 'eur',
    'degree': 'deg',
    'mph': '',
    'hz': 'hertz',
    'n': 'newton',
    'j': 'joule',
    'w': 'watt',
    'v': 'volt',
    'pa': 'pascal',
    'mol': 'mole',
    'k': 'kelvin',
    'c': 'celsius',
    'f': 'fahrenheit',
  }.items()
  for alias in (unit, *aliases.split())
  if alias
}
# A letter is a unit in one case only: 5 n is a product, 5 M may be millions.
_LETTERS = frozenset('mgshdlLNJWVKCF')
# Words that change a number, or make an expression of it.
_NUMBER_WORD = re.compile(
  '(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|'
  'thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|hundred|'
  'thousand|mil|mill|million|mln|bil|bln|billion|trillion|quadrillion|'
  'quintillion|thou|grand|lakh|lac|crore|myriad|dozen|score|gross|half|halve|'
  'third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|'
  'twelfth|hundredth|thousandth|millionth|billionth|trillionth|kilo|mega|giga|'
  'tera|milli|micro|nano|centi|deci|deca|hecto|root|power|exponent|factorial|'
  'negative|positive|reciprocal|inverse|remainder|double|triple|quadruple)'
  '(?:s|es)?|(?:twent|thirt|fort|fift|sixt|sevent|eight|ninet|infinit)'
  '(?:y|ies)'
)
_OPERATION_WORD = re.compile(
  'or|and|not|nor|but|no|to|from|than|then|if|of|between|minus|plus|times|over|'
  'by|less|more|fewer|greater|smaller|below|above|under|beyond|beneath|before|'
  'after|short|squared|cubed|raised|twice|thrice|once|doubled|tripled|'
  'quadrupled|halved|multiplied|divided|added|subtracted|increased|decreased|'
  'choose|mod|modulo|base|radix|binary|octal|hexadecimal|infinite|only|except|'
  'without|about|approximately|roughly|nearly|almost|maybe|perhaps|possibly|'
  'wrong|incorrect|true|false|none|sin|cos|tan|cot|csc|sine|cosine|tangent|log|'
  'exp|sqrt|gcd|lcm|max|lim|det'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity:
  """A number with what stands behind it.

  Attributes:
    value: as it is written: 50 for 50 %.
    percent: whether it is a percentage.
    unit: in one spelling; empty where there is none.
    plain: whether at most one word of the unit is not known, as in `5 apples`
      or `5 m/s`; words that are not known may say anything.
  """

  value: Fraction
  percent: bool
  unit: str
  plain: bool = True


def quantity(text: str) -> Quantity | None:
  r"""The quantity that a text is.

  Args:
    text: a canonical answer.

  Returns:
    The quantity; None where the text is anything else, divides by zero, or is
    larger than 10^999 or 200 characters. Words for numbers and operations are
    no units: neither `5 millions` nor `7 squared` is a quantity.

  >>> quantity(r'-1\frac{1}{2} cm').value
  Fraction(-3, 2)
  """
  if len(text) > _MOST_DIGITS:
    return None
  # - 5, -\dollar 5 and \dollar -5.
  sign, rest = _sign(text)
  money = _MONEY.match(rest)
  if money:
    inner, rest = _sign(rest[money.end() :])
    sign *= inner
  for pattern in _NUMBERS:
    found = pattern.match(rest)
    behind = found and _behind(rest[found.end() :])
    value = _value(found) if found and behind else None
    if behind and value is not None:
      percent, unit, plain = behind
      if money and (percent or unit not in ('', money.group(1))):
        return None
      unit = money.group(1) if money else unit
      return Quantity(
        value=sign * value, percent=percent, unit=unit, plain=plain
      )
  return None


def agree(
  a: Quantity,
  b: Quantity,
  *,
  relative_tolerance: float = 0.0,
  absolute_tolerance: float = 0.0,
) -> bool:
  """Whether a quantity is that of the reference.

  Numbers are compared exactly, but for the tolerances; units are not
  converted. A unit that only one side states is not compared, unless it is the
  attempt and its unit is not `plain`. If one side is a percentage, 50 % is both
  50 and 1/2.

  Args:
    a: of the attempt.
    b: of the reference.
    relative_tolerance: share of |b|, >= 0.
    absolute_tolerance: >= 0.

  Returns:
    Whether they agree.
  """
  if a.unit and b.unit and a.unit != b.unit:
    return False
  if not b.unit and not a.plain:
    return False
  # Through text: 0.003 is 3/1000, as it was written.
  relative = Fraction(str(relative_tolerance))
  absolute = Fraction(str(absolute_tolerance))

  def near(x: Fraction, y: Fraction) -> bool:
    return abs(x - y) <= max(absolute, relative * abs(y))

  if a.percent == b.percent:
    return near(a.value, b.value)
  hundredth = Fraction(1, 100)
  if a.percent:
    return near(a.value, b.value) or near(a.value * hundredth, b.value)
  return near(a.value, b.value) or near(a.value, b.value * hundredth)


def _sign(text: str) -> tuple[int, str]:
  text = text.strip()
  if text[:1] in ('-', '+'):
    return (-1 if text[0] == '-' else 1), text[1:].lstrip()
  return 1, text


def _behind(text: str) -> tuple[bool, str, bool] | None:
  """Percentage, unit and `plain` of it behind a number; None if it is more."""
  percent = _PERCENT.match(text)
  unit = _unit(text[percent.end() :] if percent else text)
  return None if unit is None else (percent is not None, *unit)


def _unit(text: str) -> tuple[str, bool] | None:
  if not text.strip():
    return '', True
  spaced = text.startswith(' ')
  text = text.replace(r'^{\circ}', ' degree ').replace(' ^', '^').strip()
  if re.search(r'[^a-zA-Z0-9^{}/ -]', text):
    return None
  words = re.split(r' ?/ ?| +', re.sub(r'\bper\b', '/', text))
  if len(words) > 4:
    return None
  names, power, unknown = [], '', 0
  for word in words:
    lower = word.lower()
    if lower in ('square', 'sq', 'cubic'):
      power = '3' if lower == 'cubic' else '2'
    elif lower in ('squared', 'cubed') and names:
      names[-1] += '^3' if lower == 'cubed' else '^2'
    else:
      name = _unit_word(word, spaced)
      if name is None:
        return None
      unknown += bool(name) and name.split('^')[0] not in _ALIASES
      names.append(name + (f'^{power}' if power and name else ''))
      power = ''
  return ' '.join(name for name in names if name), unknown <= 1


def _unit_word(word: str, spaced: bool) -> str | None:
  found = _UNIT_WORD.fullmatch(word)
  if found is None:
    return None
  lower, power = found[1].lower(), f'^{found[2]}' if found[2] else ''
  singular = lower[:-1] if lower.endswith('s') and len(lower) > 3 else lower
  for name in (lower, singular):
    if name in _ALIASES:
      # 5m is a product, 5 m a length.
      known = _ALIASES[name]
      unit = len(lower) > 1 or (spaced and found[1] in _LETTERS)
      return (known and known + power) if unit else None
  words = _NUMBER_WORD, _OPERATION_WORD
  if len(lower) < 3 or power or any(word.fullmatch(lower) for word in words):
    return None
  return singular


def _value(found: re.Match[str]) -> Fraction | None:
  groups = found.groupdict()
  up = groups.get('up') or groups.get('up1') or '0'
  if len(up) > 5 or abs(int(up)) > _LARGEST_EXPONENT:
    return None
  if groups.get('ten'):
    return Fraction(10) ** int(up)
  top, bottom = _decimal(groups['top']), _decimal(groups.get('bottom') or '1')
  if not bottom:
    return None
  whole = _decimal(groups.get('whole') or '0')
  return (whole + top / bottom) * Fraction(10) ** int(up)


def _decimal(digits: str) -> Fraction:
  plain = digits.replace(',', '').replace(' ', '')
  return Fraction(plain.rstrip('.') if plain.endswith('.') else plain)
