from __future__ import annotations

import collections
import contextlib
import enum
import json
import math
import socket

import hypothesis
import pytest
from hypothesis import strategies as st

from selfimprove.rewards import sandbox_wire as wire

_leaves = (
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats(allow_nan=False)
  | st.text()
  | st.binary()
  | st.complex_numbers(allow_nan=False)
)
_keys = st.integers() | st.text() | st.tuples(st.integers(), st.text())
_values = st.recursive(
  _leaves,
  lambda inner: (
    st.lists(inner)
    | st.lists(inner).map(tuple)
    | st.dictionaries(_keys, inner)
    | st.sets(_keys)
    | st.frozensets(_keys)
  ),
  max_leaves=20,
)


def _sent(value):
  return wire.decode(json.loads(json.dumps(wire.encode(value))))


def _types(value):
  if isinstance(value, list | tuple):
    return type(value), [_types(item) for item in value]
  if isinstance(value, dict):
    return dict, [(_types(k), _types(v)) for k, v in value.items()]
  return type(value)


@hypothesis.given(_values)
@hypothesis.settings(max_examples=60, deadline=None)
def test_plain_data_arrive_as_they_were_sent(value):
  assert _sent(value) == value
  assert _types(_sent(value)) == _types(value)


@pytest.mark.parametrize('bits', [1, 52, 53, 64, 20_000])
def test_numbers_of_any_size_keep_value_and_type(bits):
  for value in (1 << bits, -(1 << bits), (1 << bits) - 1):
    assert _sent(value) == value
    assert type(_sent(value)) is int


def test_special_floats_arrive():
  assert math.isnan(_sent(math.nan))
  assert _sent([math.inf, -math.inf]) == [math.inf, -math.inf]
  assert math.copysign(1, _sent(-0.0)) == -1


def test_subclasses_arrive_as_what_they_extend():
  class Sly(int):
    def __eq__(self, other):
      return True

    __hash__ = int.__hash__

  class Color(enum.IntEnum):
    RED = 3

  pair = collections.namedtuple('pair', 'a b')
  values = [Sly(4), Color.RED, pair(1, 2), collections.Counter('aab')]
  arrived = _sent(values)
  assert arrived == [4, 3, (1, 2), {'a': 2, 'b': 1}]
  assert [type(item) for item in arrived] == [int, int, tuple, dict]


def test_iterators_arrive_as_iterators_over_their_items():
  arrived = _sent(x * x for x in range(4))
  assert not isinstance(arrived, list)
  assert list(arrived) == [0, 1, 4, 9]
  assert _sent(range(2, 9, 3)) == range(2, 9, 3)


@pytest.mark.parametrize('value', [object(), len, json, type])
def test_other_objects_are_refused(value):
  with pytest.raises(wire.NotPlainError, match='not plain data'):
    wire.encode([value])


def test_a_value_in_itself_is_refused():
  value = []
  value.append(value)
  with pytest.raises(wire.NotPlainError, match='deep'):
    wire.encode(value)


@pytest.mark.parametrize(
  'data',
  [
    {'t': 'exec', 'v': ['1']},
    {'t': 'tuple'},
    {'t': 'tuple', 'v': 'ab', 'x': 1},
    {'t': ['tuple'], 'v': []},
    {'t': 'tuple', 'v': 3},
    {'t': 'set', 'v': [[1]]},
    {'t': 'dict', 'v': [1]},
    {'t': 'dict', 'v': [[[], 1]]},
    {'t': 'int', 'v': 5},
    {'t': 'int', 'v': 'xyz'},
    {'t': 'bytes', 'v': 'x'},
    {'t': 'range', 'v': [1, 2, 0]},
    {'t': 'range', 'v': ['a']},
    {'t': 'complex', 'v': [1]},
    {'t': 'object', 'v': 1},
    {'a': 1},
  ],
)
def test_what_is_not_of_the_form_is_refused(data):
  with pytest.raises(wire.MessageError):
    wire.decode([data])


@hypothesis.given(st.binary(max_size=200))
@hypothesis.settings(max_examples=60, deadline=None)
def test_bytes_of_a_stranger_are_a_message_or_refused(content):
  ours, theirs = socket.socketpair()
  with ours, theirs:
    theirs.sendall(content)
    theirs.shutdown(socket.SHUT_WR)
    with contextlib.suppress(wire.MessageError, EOFError):
      wire.decode(wire.receive(ours))


def test_a_long_message_is_refused_on_both_sides():
  ours, theirs = socket.socketpair()
  with ours, theirs:
    with pytest.raises(wire.MessageError, match='at most'):
      wire.send(theirs, 'x' * wire.MESSAGE_BYTES)
    theirs.sendall((1 << 31).to_bytes(4, 'big'))
    with pytest.raises(wire.MessageError, match='at most'):
      wire.receive(ours)


def test_deep_json_is_refused():
  ours, theirs = socket.socketpair()
  with ours, theirs:
    body = b'[' * 100_000
    theirs.sendall(len(body).to_bytes(4, 'big') + body)
    with pytest.raises(wire.MessageError):
      wire.receive(ours)
