"""The runtime type checker that the tests put around every function.

`conftest.py` hands it to jaxtyping's import hook, so that the shapes and dtypes
in signatures are checked on each call, and at each trace, of the rooms below
`training`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import beartype
from beartype import FrozenDict
from jaxtyping import Array, Float

# A number of a record is a leaf, hence a scalar array inside jit; and an int is
# welcome where a float is declared.
_conf = beartype.BeartypeConf(
  hint_overrides=FrozenDict({float: float | int | Float[Array, '']})
)

# A checker that looks at one item of a list draws which one. It must not draw
# from the global generator: a check in another thread then changes the state
# under a Hypothesis test, which refuses to go on; and what is checked would
# differ from run to run.
_draw_bits = random.Random(0).getrandbits


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
  """A function that checks its arguments and its result.

  Constructors are left alone: JAX rebuilds a record through its constructor
  with whatever `tree_map` returned (None, shapes, shardings, sentinels), which
  is legitimate and is not what the fields declare. Fields are checked where
  they matter, in the functions that receive the record's arrays.

  Args:
    function: any function with annotations.

  Returns:
    The checking function; `function` itself for a constructor.
  """
  if function.__name__ == '__init__':
    return function
  checking = beartype.beartype(conf=_conf)(function)
  hidden = getattr(checking, '__kwdefaults__', None) or {}
  for name, value in hidden.items():
    if value == random.getrandbits:
      hidden[name] = _draw_bits
  return checking
