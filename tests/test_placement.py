"""Of `partitioning`: which rows are whose, and how they come and go."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
import pytest

from selfimprove import partitioning, placement


class _Device(NamedTuple):
  number: int
  process_index: int


class _Spread:
  """Eight rows in slices, each held by some processes."""

  def __init__(self, *holders):
    self.holders = holders

  def devices_indices_map(self, shape):
    (count,) = shape
    width = count // len(self.holders)
    return {
      _Device(start, process): (slice(start * width, (start + 1) * width),)
      for start, held in enumerate(self.holders)
      for process in held
    }


@pytest.mark.parametrize(
  ('holders', 'owned'),
  [
    (([0, 0], [1, 1]), ([0, 1, 2, 3], [4, 5, 6, 7])),
    # Interleaved, as a mesh along a torus may be.
    (([0], [1], [0], [1]), ([0, 1, 4, 5], [2, 3, 6, 7])),
    # `model` spans two hosts: both hold all rows.
    (([0, 1],), ([0, 1, 2, 3], [4, 5, 6, 7])),
    (([0, 1, 2], [3]), ([0, 1], [2], [3], [4, 5, 6, 7])),
    (([1],), ([], [0, 1, 2, 3, 4, 5, 6, 7])),
  ],
)
def test_every_row_is_owned_by_one_of_those_who_hold_it(
  holders, owned, monkeypatch
):
  monkeypatch.setattr(partitioning, 'rows', lambda mesh: _Spread(*holders))
  for process, rows in enumerate(owned):
    monkeypatch.setattr(jax, 'process_index', lambda me=process: me)
    assert placement.own_rows('mesh', 8).tolist() == rows


def test_rows_are_read_from_the_devices_that_hold_them():
  mesh = partitioning.make_mesh(data=2, fsdp=2, model=2)
  values = {'a': np.arange(16.0).reshape(8, 2), 'b': np.arange(8)}
  placed = placement.place_rows(values, mesh)
  assert placed['a'].sharding == partitioning.rows(mesh)
  rows = np.asarray([1, 2, 7])
  found = placement.read_rows(placed, rows)
  jax.tree.map(
    lambda ours, all_rows: np.testing.assert_array_equal(ours, all_rows[rows]),
    found,
    values,
  )
  jax.tree.map(
    np.testing.assert_array_equal, placement.gathered(placed, mesh), values
  )


def test_one_process_owns_all_rows():
  mesh = partitioning.make_mesh(data=4, model=2)
  assert placement.own_rows(mesh, 8).tolist() == list(range(8))
