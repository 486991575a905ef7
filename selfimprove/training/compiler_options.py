"""Options of the compiler, as configs and flags give them."""

from __future__ import annotations

from collections.abc import Sequence


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
