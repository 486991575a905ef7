"""What annotations say about values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import pytest
from jaxtyping import Array, Float, Int

from selfimprove import annotated, types


def function(
  *,
  number: float,
  whole: int,
  text: str | None = None,
  pair: tuple[int, int] = (1, 2),
  named: Mapping[str, int] | None = None,
  many: Sequence[float] = (),
  ids: Int[Array, 'e'] | tuple[int, ...] = (),
  weight: float | Float[Array, ''] = 1.0,
  switch: bool = False,
  call: Callable[..., int] | None = None,
  bare=None,
):
  """Nothing."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """A number."""

  number: float


@types.record
class Slot:
  """Numbers and structure."""

  number: float
  whole: int = types.static()


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('number', 1),
    ('number', 1e9),
    ('whole', 10**30),
    ('text', None),
    ('text', ''),
    ('pair', (3, 4)),
    ('named', {'a': 1}),
    ('many', [1.0, 2]),
    ('ids', (1, 2)),
    ('weight', 0),
    ('switch', True),
    ('bare', object()),
    ('unknown', 1),
  ],
)
def test_a_value_of_its_type_fits(name, value):
  assert annotated.mismatch(function, name, value) == ''


@pytest.mark.parametrize(
  ('name', 'value', 'expected'),
  [
    ('number', '1', 'float'),
    ('number', True, 'float'),
    ('number', None, 'float'),
    ('whole', 1.0, 'int'),
    ('whole', False, 'int'),
    ('text', 3, 'str | None'),
    ('pair', (1, 2, 3), 'tuple[int, int]'),
    ('named', {1: 1}, 'Mapping[str, int] | None'),
    ('many', 'text', 'Sequence[float]'),
    ('switch', 1, 'bool'),
    ('call', 'name', 'function | None'),
    ('weight', 'much', 'float | Array'),
  ],
)
def test_another_value_does_not(name, value, expected):
  assert expected in annotated.mismatch(function, name, value)


@pytest.mark.parametrize('kind', [Settings, Slot])
def test_fields_are_parameters_as_well(kind):
  assert annotated.mismatch(kind, 'number', 2) == ''
  assert annotated.mismatch(kind, 'number', 'two') == 'float'


@dataclasses.dataclass(frozen=True)
class MadeLater:
  """What is None until it is needed."""

  pool: Settings = None


def test_a_default_fits_whatever_it_is():
  assert annotated.mismatch(MadeLater, 'pool', None) == ''
  assert annotated.mismatch(MadeLater, 'pool', 3) == 'Settings'
