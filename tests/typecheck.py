"""The runtime type checker that the tests put around every function.

`conftest.py` hands it to jaxtyping's import hook, so that the shapes and dtypes
in signatures are checked on each call, and at each trace, of the rooms below
`training`.
"""

from __future__ import annotations

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
  return beartype.beartype(conf=_conf)(function)
