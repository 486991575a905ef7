"""Options of the compiler, as configs and flags give them."""

from __future__ import annotations

import re
from collections.abc import Sequence

_REFUSED = re.compile(
  r"No such compile option: '\S+'|While setting option .* is not a valid .*?\."
)


def parsed(pairs: Sequence[str]) -> dict[str, str]:
  """What a compiler is given.

  Args:
    pairs: name=value, each.

  Returns:
    Name -> value.

  Raises:
    ValueError: one of them has no name or no value.

  >>> parsed(['xla_enable_async_all_gather=true'])
  {'xla_enable_async_all_gather': 'true'}
  """
  found = {}
  for pair in pairs:
    name, is_there, value = pair.strip().lstrip('-').partition('=')
    if not (name and is_there and value):
      raise ValueError(
        f'compiler_options={pair!r} is not a name and a value; give some such '
        'as xla_enable_async_all_gather=true.'
      )
    found[name] = value
  return found


def refusal(error: Exception) -> str:
  """What the compiler says of an option that it does not take.

  Args:
    error: of a compilation.

  Returns:
    One sentence; empty if it is about something else.

  >>> refusal(RuntimeError("INVALID_ARGUMENT: No such compile option: 'a'"))
  "No such compile option: 'a'; correct compiler_options."
  """
  said = _REFUSED.search(str(error))
  return f'{said[0].rstrip(".")}; correct compiler_options.' if said else ''
