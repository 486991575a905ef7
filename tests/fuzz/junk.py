"""What strangers write: values, texts and bytes, drawn with a seed."""

from __future__ import annotations

import json
import random

TEXTS = (
  '',
  ' ',
  '\n',
  '\x00',
  'null',
  'NaN',
  '-1',
  '1e999',
  '½',
  '٣',
  '−7',
  '\u202e',
  '\ud7ff',
  '👩‍👩‍👧',
  'a' * 5000,
  '{{' * 50,
  '\\boxed{' * 40,
  '../../etc/passwd',
  '%s%n',
  "'; DROP TABLE",
)
NUMBERS = (
  0,
  -1,
  1,
  2**31,
  2**63,
  10**40,
  0.0,
  -0.0,
  0.5,
  -3.7,
  1e-320,
  1e308,
  float('inf'),
  float('-inf'),
  float('nan'),
)


def value(rng: random.Random, depth: int = 0) -> object:
  """Any JSON value."""
  kind = rng.randrange(5 if depth < 3 else 3)
  if kind == 0:
    return rng.choice((None, True, False))
  if kind == 1:
    return rng.choice(NUMBERS)
  if kind == 2:
    return text(rng)
  if kind == 3:
    return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
  return {
    text(rng)[:20]: value(rng, depth + 1) for _ in range(rng.randrange(4))
  }


def text(rng: random.Random) -> str:
  """A text of any sort; JSON and UTF-8 can hold it."""
  if rng.random() < 0.5:
    return rng.choice(TEXTS)
  points = [rng.randrange(0x20, 0x2FFF) for _ in range(rng.randrange(30))]
  return ''.join(map(chr, points))


def changed(rng: random.Random, fields: dict) -> dict:
  """Fields of which one to three are gone, replaced, or added."""
  made = json.loads(json.dumps(fields))
  for _ in range(rng.randint(1, 3)):
    name = rng.choice([*made, text(rng)[:10]])
    if rng.random() < 0.25:
      made.pop(name, None)
    else:
      made[name] = value(rng)
  return made


def damaged(rng: random.Random, content: bytes) -> bytes:
  """Bytes of which some are changed, cut out or doubled."""
  made = bytearray(content)
  for _ in range(rng.randint(1, 4)):
    if not made:
      break
    at = rng.randrange(len(made))
    kind = rng.randrange(3)
    if kind == 0:
      made[at] = rng.randrange(256)
    elif kind == 1:
      del made[at : at + rng.randint(1, 20)]
    else:
      made[at:at] = made[at : at + rng.randint(1, 20)]
  return bytes(made)


def is_a_sentence(message: str) -> bool:
  """Whether a message can be shown to a person as it is."""
  said = ' '.join(message.split())
  return 20 <= len(said) <= 2000 and said[-1] in '.)'
