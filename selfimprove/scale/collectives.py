"""What chips send to each other, and how long that takes at best."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from selfimprove.scale.chips import Chip
from selfimprove.scale.hlo import Op

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)
HOP_SECONDS = 1e-6
"""Latency of one link, as in the "Sharded matrices" chapter of the book that is
named in `chips`."""


@dataclasses.dataclass(frozen=True)
class Network:
  """Where the partitions of a program stand in the torus.

  Attributes:
    chip: with its links.
    places: coordinates of each partition, [n, axes].
  """

  chip: Chip
  places: np.ndarray

  def links(self, group: Sequence[int]) -> tuple[float, int]:
    """Returns bytes a second out of a chip of a group, and its farthest hop.

    Args:
      group: partitions that talk to each other; groups like it do so too.
    """
    inside = self.places[list(group)]
    sizes = np.ptp(self.places, axis=0) + 1
    rate, hops = 0.0, 0
    for along, size in zip(inside.T, sizes, strict=True):
      there = np.unique(along)
      if len(there) > 1:
        span = int(np.ptp(there))
        gap = span / (len(there) - 1)
        # A ring has two ways round, a line has one. Groups that stand between
        # each other's chips share them.
        ring = span + gap >= size and self.chip.wraps(int(size))
        rate += self.chip.link_rate * (2 if ring else 1) / gap
        hops += int(size) // 2 if ring else span
    return rate or self.chip.link_rate, hops

  def route(self, pairs: Sequence[tuple[int, int]]) -> tuple[float, int]:
    """Returns bytes a second from chips to others, and the farthest hop.

    Args:
      pairs: of a sender and who it sends to, each.
    """
    paths = [self._path(*pair) for pair in pairs]
    loads = collections.Counter(link for path in paths for link in path)
    hops = max(map(len, paths))
    return self.chip.link_rate / max(loads.values(), default=1), hops

  def _path(self, start: int, end: int) -> list[tuple[int, ...]]:
    """The links that a message takes: one axis after the other."""
    sizes = np.ptp(self.places, axis=0) + 1
    at, links = self.places[start].copy(), list[tuple[int, ...]]()
    for axis, size in enumerate(sizes):
      away = int(self.places[end][axis] - at[axis])
      if self.chip.wraps(int(size)) and abs(away) > size / 2:
        away -= int(np.sign(away) * size)
      for _ in range(abs(away)):
        direction = int(np.sign(away))
        links.append((*map(int, at), axis, direction))
        at[axis] = (at[axis] + direction) % size
    return links


def kind_of(op: Op) -> str:
  """The kind of a collective; empty for other instructions.

  Args:
    op: any instruction; the second half of an asynchronous one is none.

  Returns:
    One of `KINDS`, or ''.
  """
  name = op.opcode.removesuffix('-start')
  return name if name in KINDS else ''


def payload(op: Op) -> float:
  """Bytes of the whole array that a collective makes or takes apart.

  Args:
    op: a collective.

  Returns:
    Bytes of the largest array of its result; of a reduce-scatter, of what goes
    in.
  """
  shapes = [s for s in op.shapes if s.dtype not in ('u32', 's32') or s.size > 1]
  if op.opcode.endswith('-start'):
    largest = max((s.bytes for s in shapes), default=0.0)
  else:
    largest = sum(s.bytes for s in shapes)
  if kind_of(op) == 'reduce-scatter' and not op.opcode.endswith('-start'):
    return largest * len(first_group(op, 1))
  return largest


def seconds(op: Op, network: Network) -> float:
  """The time of a collective at the full rate of its links.

  Args:
    op: a collective.
    network: that it crosses.

  Returns:
    Seconds: bytes over the rate, and the latency of its hops.

  Source: ring algorithms, (n - 1) / n of the array over the links of a chip,
  twice that for an all-reduce.
  """
  group = first_group(op, len(network.places))
  if len(group) < 2:
    return 0.0
  kind = kind_of(op)
  share = (len(group) - 1) / len(group)
  rate, hops = network.links(group)
  if kind == 'collective-permute':
    share = 1.0
    rate, hops = network.route(_pairs(op))
  if kind == 'all-to-all':
    share = share / 4  # Each part goes a quarter of the way round on average.
  if kind == 'all-reduce':
    share = 2 * share
  return payload(op) * share / rate + hops * HOP_SECONDS


def _pairs(op: Op) -> list[tuple[int, int]]:
  """Who sends to whom."""
  listed = re.search(r'source_target_pairs=\{([\d,{} ]*)\}', op.rest)
  found = re.findall(r'\{(\d+),(\d+)\}', listed[0]) if listed else []
  return [(int(a), int(b)) for a, b in found]


def first_group(op: Op, partitions: int) -> tuple[int, ...]:
  """Partitions of the first group of a collective.

  Args:
    op: with its `replica_groups` in any of the compiler's notations.
    partitions: of the program, taken where the text says nothing.

  Returns:
    Their numbers.
  """
  pairs = _pairs(op)
  if pairs:
    return pairs[0]
  listed = re.search(r'replica_groups=\{\{([\d,]+)\}', op.rest)
  if listed:
    return tuple(int(n) for n in listed[1].split(','))
  dense = re.search(
    r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', op.rest
  )
  if dense:
    shape, order, turned = (_ints(text) for text in dense.groups())
    ids = _turned(order, turned)
    return tuple(int(n) for n in ids.reshape(shape)[0].reshape(-1))
  mesh = re.search(
    r'replica_groups=mesh\[([^\]]*)\]'
    r'(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}',
    op.rest,
  )
  if mesh:
    axes, order, turned, used = mesh.groups()
    return _of_mesh(axes, used, _ints(order), _ints(turned))
  if 'replica_groups=' in op.rest and 'replica_groups={}' not in op.rest:
    raise ValueError(
      f'The groups of {op.name} are in a notation that is not known: '
      f'{op.rest[op.rest.index("replica_groups=") :]:.120}'
    )
  return tuple(range(partitions))


def _turned(sizes: tuple[int, ...], turned: tuple[int, ...]) -> np.ndarray:
  """Numbers from 0 on in an array of these sizes, its axes turned."""
  ids = np.arange(int(np.prod(sizes, dtype=np.int64))).reshape(sizes)
  return ids.transpose(turned) if turned else ids


def _of_mesh(
  axes: str, used: str, order: tuple[int, ...], turned: tuple[int, ...]
) -> tuple[int, ...]:
  """The group of the first partition along some axes of a mesh."""
  sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes)}
  shape = tuple(sizes.values())
  ids = _turned(order or shape, turned).reshape(shape)
  index: list[int | slice] = [0] * len(sizes)
  for name, start, width in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", used):
    axis = list(sizes).index(name)
    whole = slice(None)
    if width:
      # A part of an axis: `(before)size` of what it is split into.
      step = sizes[name] // (int(start) * int(width))
      whole = slice(0, step * int(width), step)
    index[axis] = whole
  return tuple(int(n) for n in np.ravel(ids[tuple(index)]))


def _ints(text: str | None) -> tuple[int, ...]:
  return tuple(int(n) for n in text.split(',')) if text else ()
