"""Messages between processes that do not trust each other: plain data only.

A message is its length in four bytes and then JSON. What JSON has no form for
is an object with the keys `t` (type) and `v` (value): integers of any size,
complex numbers, bytes, tuples, dictionaries, sets, ranges, iterators (sent as
their items), and numbered objects of the other side. Reading a message makes
objects of exactly these types and calls nothing else.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Callable
from typing import Any

MESSAGE_BYTES = 8 << 20
"""Longest message."""

_LARGEST_INTEGER = 1 << 53
_LONGEST_ITERATOR = 100_000


class NotPlainError(TypeError):
  """A value that is not plain data."""


class MessageError(ValueError):
  """Bytes that are no message, or a message that is too long."""


def encode(value: Any, number: Callable[[Any], int] | None = None) -> Any:
  """What stands for a value in JSON.

  Subclasses are sent as the type that they extend (a `Counter` is a
  dictionary, a named tuple a tuple).

  Args:
    value: plain data, nested at will.
    number: gives the number of an object that is not; None refuses those.

  Returns:
    Numbers, texts, lists and dictionaries with the keys `t` and `v`.

  Raises:
    NotPlainError: a part is not plain data, or it is nested too deeply.

  >>> encode((1, [2.5]))
  {'t': 'tuple', 'v': [1, [2.5]]}
  """
  try:
    return _encode(value, number)
  except RecursionError:
    raise NotPlainError('it is nested too deeply') from None


def decode(data: Any, handle: Callable[[int], Any] | None = None) -> Any:
  """The value that `encode` described.

  Args:
    data: what a stranger may have written, as JSON gave it.
    handle: makes an object of the number of one; None refuses those.

  Returns:
    The value.

  Raises:
    MessageError: the data are not of this form.

  >>> decode({'t': 'tuple', 'v': [1, [2.5]]})
  (1, [2.5])
  """
  try:
    return _decode(data, handle)
  except MessageError:
    raise
  except (TypeError, ValueError, KeyError, RecursionError) as error:
    raise MessageError(f'not plain data: {error}'[:200]) from None


def send(channel: socket.socket, message: Any) -> None:
  """Sends a message of numbers, texts, lists and dictionaries.

  Args:
    channel: a stream.
    message: what `json` can write.

  Raises:
    MessageError: it is longer than `MESSAGE_BYTES`.
    OSError: nobody reads any more.
  """
  try:
    body = json.dumps(message, separators=(',', ':')).encode('ascii')
  except RecursionError:
    raise MessageError('nested too deeply') from None
  if len(body) > MESSAGE_BYTES:
    raise MessageError(
      f'a message of {len(body)} bytes; at most {MESSAGE_BYTES} are sent'
    )
  channel.sendall(len(body).to_bytes(4, 'big') + body)


def receive(channel: socket.socket) -> Any:
  """Reads one message.

  Args:
    channel: a stream.

  Returns:
    What `json` read.

  Raises:
    EOFError: the other side is gone.
    MessageError: it is no message, or too long.
    TimeoutError: the channel has a timeout and it has passed.
  """
  length = int.from_bytes(_exactly(channel, 4), 'big')
  if length > MESSAGE_BYTES:
    raise MessageError(
      f'a message of {length} bytes; at most {MESSAGE_BYTES} are read'
    )
  try:
    return json.loads(_exactly(channel, length))
  except (ValueError, RecursionError) as error:
    raise MessageError(f'not a message: {error}'[:200]) from None


def _exactly(channel: socket.socket, length: int) -> bytes:
  parts = []
  while length:
    part = channel.recv(min(length, 1 << 20))
    if not part:
      raise EOFError('the other side is gone')
    parts.append(part)
    length -= len(part)
  return b''.join(parts)


def _encode(value: Any, number: Callable[[Any], int] | None) -> Any:
  if value is None or value is True or value is False:
    return value
  for kind, tag, form in _FORMS:
    if isinstance(value, kind):
      content = form(value, number)
      return content if tag is None else {'t': tag, 'v': content}
  if isinstance(value, _ITERATORS) or _is_generator(value):
    items = list(itertools.islice(value, _LONGEST_ITERATOR + 1))
    if len(items) > _LONGEST_ITERATOR:
      raise NotPlainError(f'it has over {_LONGEST_ITERATOR} items')
    return {'t': 'iterator', 'v': _items(items, number)}
  if number is not None:
    return {'t': 'object', 'v': number(value)}
  raise NotPlainError(f'{type(value).__name__!r:.100} is not plain data')


def _is_generator(value: Any) -> bool:
  return type(value).__name__ == 'generator' and hasattr(value, 'gi_frame')


def _integer(value: Any, _: Any) -> Any:
  plain = int(value)
  # Hexadecimal: decimal digits are limited, and slow for long numbers.
  if abs(plain) < _LARGEST_INTEGER:
    return plain
  return {'t': 'int', 'v': hex(plain)}


def _items(values: Any, number: Callable[[Any], int] | None) -> list[Any]:
  return [_encode(value, number) for value in values]


def _pairs(value: Any, number: Callable[[Any], int] | None) -> list[Any]:
  return [_items(pair, number) for pair in dict.items(value)]


def _complex(value: complex, _: Any) -> list[float]:
  return [float(value.real), float(value.imag)]


def _range(value: range, number: Callable[[Any], int] | None) -> list[Any]:
  return _items((value.start, value.stop, value.step), number)


_ITERATORS = (
  enumerate, filter, map, reversed, zip, itertools.chain, itertools.islice,
  type({}.keys()), type({}.values()), type({}.items()), type(iter([])),
  type(iter(())), type(iter('')), type(iter({})), type(iter(set())),
)  # fmt: skip

# bool is an int, but was handled before.
_FORMS: tuple[tuple[type | tuple[type, ...], str | None, Any], ...] = (
  (int, None, _integer),
  (str, None, lambda value, _: str.__str__(value)),
  (float, None, lambda value, _: float.__float__(value)),
  (list, None, _items),
  (tuple, 'tuple', _items),
  (dict, 'dict', _pairs),
  (set, 'set', _items),
  (frozenset, 'frozenset', _items),
  ((bytes, bytearray), 'bytes', lambda value, _: value.hex()),
  (complex, 'complex', _complex),
  (range, 'range', _range),
)

_MAKERS: dict[str, Callable[[list[Any]], Any]] = {
  'tuple': tuple,
  'set': set,
  'frozenset': frozenset,
  'iterator': iter,
  'range': lambda items: range(*items),
}


def _decode(data: Any, handle: Callable[[int], Any] | None) -> Any:
  if isinstance(data, list):
    return [_decode(item, handle) for item in data]
  if not isinstance(data, dict):
    return data
  if data.keys() != {'t', 'v'}:
    raise MessageError(f'an object with the keys {sorted(data)!r:.100}')
  tag, content = data['t'], data['v']
  if tag in ('int', 'bytes'):
    if not isinstance(content, str):
      raise MessageError(f'{tag} of {type(content).__name__}')
    return int(content, 16) if tag == 'int' else bytes.fromhex(content)
  if tag == 'object':
    if handle is None or type(content) is not int:
      raise MessageError('an object where plain data are expected')
    return handle(content)
  if not isinstance(content, list):
    raise MessageError(f'{tag!r:.100} of {type(content).__name__}')
  items = [_decode(item, handle) for item in content]
  if tag == 'dict':
    return {key: value for key, value in items}  # noqa: C416, checks the pairs.
  if tag == 'complex':
    real, imaginary = items
    return complex(float(real), float(imaginary))
  if tag not in _MAKERS:
    raise MessageError(f'the type {tag!r:.100}')
  return _MAKERS[tag](items)
