"""Groups of collectives in the compiler's notations, and their time."""

from __future__ import annotations

import numpy as np
import pytest

from selfimprove.scale import collectives, hlo
from selfimprove.scale.chips import CHIPS, chip_of
from selfimprove.scale.collectives import Network


def op(attributes, shape='bf16[1024,1024]{1,0}', opcode='all-gather'):
  module = hlo.parse(
    'ENTRY %main (x: f32[]) -> f32[] {\n'
    '  %x = f32[] parameter(0)\n'
    f'  ROOT %y = {shape} {opcode}(%x), {attributes}\n'
    '}\n'
  )
  return module.computations['main'].ops['y']


def square(side):
  grid = np.stack(np.mgrid[:side, :side], -1).reshape(-1, 2)
  return Network(CHIPS['v5e'], grid)


@pytest.mark.parametrize(
  ('groups', 'expected'),
  [
    ('{{0,2},{1,3}}', (0, 2)),
    ('[2,4]<=[8]', (0, 1, 2, 3)),
    ('[2,4]<=[4,2]T(1,0)', (0, 2, 4, 6)),
    ("mesh['a'=4,'b'=2] {'a'}", (0, 2, 4, 6)),
    ("mesh['a'=4,'b'=2] {'a','b'}", tuple(range(8))),
    ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", (0, 2, 4, 6)),
    ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", (0, 1)),
  ],
)
def test_a_group_is_read_in_every_notation(groups, expected):
  assert collectives.first_group(op(f'replica_groups={groups}'), 8) == expected


def test_an_axis_of_sixteen_is_a_ring_and_one_of_four_a_line():
  along = op('replica_groups=[16,16]<=[256]')
  on_ring = collectives.seconds(along, square(16))
  on_line = collectives.seconds(op('replica_groups=[4,4]<=[16]'), square(4))
  size = 2 * 1024**2
  assert on_ring == pytest.approx(size * 15 / 16 / 90e9 + 8e-6)
  assert on_line == pytest.approx(size * 3 / 4 / 45e9 + 3e-6)


def test_an_all_reduce_sends_twice_what_an_all_gather_sends():
  groups = 'replica_groups=[16,16]<=[256]'
  gather = collectives.seconds(op(groups), square(16)) - 8e-6
  reduce = collectives.seconds(op(groups, opcode='all-reduce'), square(16))
  assert reduce - 8e-6 == pytest.approx(2 * gather)


def test_groups_that_stand_between_each_other_share_their_links():
  # Sixteen chips in a ring are four groups of every fourth one.
  apart = op("replica_groups=mesh['a'=4,'b'=4,'c'=16] {'a'}")
  shared = op("replica_groups=mesh['a'=16,'c'=16] {'a'}")
  network = square(16)
  assert collectives.first_group(apart, 256) == (0, 64, 128, 192)
  size = 2 * 1024**2
  seconds = collectives.seconds(apart, network)
  assert seconds == pytest.approx(size * 3 / 4 / (90e9 / 4) + 8e-6)
  seconds = collectives.seconds(shared, network)
  assert seconds == pytest.approx(size * 15 / 16 / 90e9 + 8e-6)


@pytest.mark.parametrize(
  ('pairs', 'links', 'hops'),
  [
    ('{{0,1},{1,2},{2,3}}', 1, 1),
    # On a line the last sends back past all others, the other way.
    ('{{0,1},{1,2},{2,3},{3,0}}', 1, 3),
    ('{{3,0},{0,1},{1,2},{2,3}}', 1, 3),
    ('{{0,2},{1,3}}', 2, 2),
    ('{{0,5}}', 1, 2),
  ],
)
def test_a_permutation_takes_as_long_as_its_fullest_link(pairs, links, hops):
  sent = op(f'source_target_pairs={pairs}', opcode='collective-permute')
  seconds = collectives.seconds(sent, square(4))
  assert seconds == pytest.approx(2 * 1024**2 * links / 45e9 + hops * 1e-6)


def test_a_permutation_goes_the_short_way_round_a_ring():
  sent = op('source_target_pairs={{0,240}}', opcode='collective-permute')
  seconds = collectives.seconds(sent, square(16))
  assert seconds == pytest.approx(2 * 1024**2 / 45e9 + 1e-6)


def test_a_chip_that_is_not_known_is_refused():
  with pytest.raises(ValueError, match=r'v9:2x2.*v5e'):
    chip_of('v9:2x2')
