"""Values against the annotations of what they are given to."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from beartype import BeartypeConf, door, roar

_NO_DEFAULT = object()
# An int is a float to people, and to PEP 484.
_CONF = BeartypeConf(is_pep484_tower=True)


def mismatch(function: Callable[..., Any], name: str, value: Any) -> str:
  """What is expected of a parameter, if a value is something else.

  Args:
    function: or class.
    name: of its parameter.
    value: that it would be given.

  Returns:
    The annotation, for people; empty where the value fits, or where there is no
    annotation that a value can be compared with.
  """
  hint = _hints(function).get(name, Any)
  # A saved config has the defaults too, and some stand for what is made later.
  if value is _defaults(function).get(name, _NO_DEFAULT):
    return ''
  try:
    fits = door.is_bearable(value, hint, conf=_CONF)
  except roar.BeartypeException:  # Not one that can be checked.
    return ''
  is_number = isinstance(value, bool) and _takes_numbers(hint)
  return '' if fits and not is_number else _shown(hint)


def _takes_numbers(hint: Any) -> bool:
  """Whether True would be taken for the number 1, as Python does."""
  parts = {hint, *typing.get_args(hint)}
  return bool not in parts and bool(parts & {int, float})


@functools.cache
def _defaults(function: Callable[..., Any]) -> Mapping[str, Any]:
  try:
    parameters = inspect.signature(function).parameters
  except ValueError:  # Not written in Python.
    return {}
  return {name: found.default for name, found in parameters.items()}


@functools.cache
def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
  try:
    made = function.__init__ if isinstance(function, type) else function
    own = typing.get_type_hints(function)
    return own | typing.get_type_hints(made)
  except (NameError, TypeError, AttributeError):  # Not written for machines.
    return {}


def _shown(hint: Any) -> str:
  """The annotation in words that fit into a sentence."""
  parts = typing.get_args(hint)
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return ' | '.join(dict.fromkeys(map(_shown, parts)))
  if typing.get_origin(hint) is collections.abc.Callable:
    return 'function'
  if hint is type(None):
    return 'None'
  if isinstance(hint, type) and not parts:
    return 'Array' if 'jaxtyping' in type(hint).__module__ else hint.__name__
  return str(hint).replace('typing.', '').replace('collections.abc.', '')
