"""What a compiled program costs, part by part, with loops counted in full."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from selfimprove.scale import arithmetic, collectives, hlo
from selfimprove.scale.collectives import Network
from selfimprove.scale.hlo import Computation, Module, Op

_CHANNEL = re.compile(r'channel_id=(\d+)')
_SCATTERED = 'AllReduceScatterFusion'
_PHASE = re.compile(r'phase\.(\w+)')
KERNELS = 0.5
"""The share of the peak that kernels of attention are taken to reach: neither
the compiler nor a clock says how fast they are."""
OTHER = 'other'
"""The part of a program that no scope `phase.<name>` names."""


@dataclasses.dataclass
class Traffic:
  """Collectives of one kind and shape.

  Attributes:
    count: how often they run.
    bytes: of whole arrays, all runs together.
    seconds: at the rate of the links.
  """

  count: float = 0.0
  bytes: float = 0.0
  seconds: float = 0.0


@dataclasses.dataclass
class Cost:
  """What a part of a program takes on each chip.

  Attributes:
    flops: of matrix products.
    bytes: read from HBM and written to it.
    carried_bytes: what an iteration of a loop over tokens carries, weights and
      cache; 0 elsewhere.
    busy_seconds: of the compiler's estimated cycles; of instructions for which
      it gives none, bytes over the rate of the memory.
    exposed_seconds: of collectives that nothing hides.
    collectives: kind and shape -> what they take.
  """

  flops: float = 0.0
  bytes: float = 0.0
  carried_bytes: float = 0.0
  busy_seconds: float = 0.0
  exposed_seconds: float = 0.0
  collectives: dict[str, Traffic] = dataclasses.field(default_factory=dict)

  @property
  def seconds(self) -> float:
    """Estimate of the time."""
    return self.busy_seconds + self.exposed_seconds

  @property
  def link_seconds(self) -> float:
    """Time of all collectives, hidden ones included."""
    return sum(one.seconds for one in self.collectives.values())


def of_program(module: Module, network: Network) -> dict[str, Cost]:
  """Costs of the parts of a program.

  Args:
    module: the program, as it was compiled.
    network: of the chips that it runs on.

  Returns:
    Name of a scope `phase.<name>` -> its cost; `OTHER` has the rest.
  """
  costs: dict[str, Cost] = {}
  _walk(module, module.entry, 1.0, OTHER, network, costs, set())
  return costs


def _walk(
  module: Module,
  name: str,
  times: float,
  phase: str,
  network: Network,
  costs: dict[str, Cost],
  begun: set[str],
) -> None:
  """Adds a computation that runs so often.

  What has `begun`, by channel, goes on in it and is not counted again.
  """
  computation = module.computations[name]
  hidden, busy, moving = dict[str, float](), 0.0, 0.0
  for op in computation.ops.values():
    inside = phase_of(op, phase)
    cost = costs.setdefault(inside, Cost())
    if op.opcode == 'while':
      count = times * hlo.trips(op, module)
      if inside.startswith('decode_') and not phase.startswith('decode_'):
        cost.carried_bytes = max(cost.carried_bytes, op.bytes)
      for part in ('condition', 'body'):
        called = op.called[part][0]
        _walk(module, called, count, inside, network, costs, begun)
    elif op.opcode in ('call', 'async-start') and op.called:
      for called in next(iter(op.called.values())):
        _walk(module, called, times, inside, network, costs, begun)
    elif op.opcode == 'conditional':
      called = _longest(op, module, network, begun)
      _walk(module, called, times, inside, network, costs, begun)
    else:
      seconds, fetching = _add(
        cost, op, computation, module, times, network, hidden, begun
      )
      busy, moving = busy + seconds, moving + fetching
  # What is fetched ahead of its use shares the memory's rate with the rest.
  if moving > busy:
    cost = costs[phase if phase in costs else OTHER]
    cost.busy_seconds += times * (moving - busy)
    busy = moving
  _expose(costs, hidden, busy, times, phase)


def _add(
  cost: Cost,
  op: Op,
  computation: Computation,
  module: Module,
  times: float,
  network: Network,
  hidden: dict[str, float],
  begun: set[str],
) -> tuple[float, float]:
  """Adds one instruction; returns its seconds on the chip and of the memory."""
  for source, owner in _fused(op, computation, module):
    cost.flops += times * arithmetic.flops(source, owner)
    kind = collectives.kind_of(source)
    channel = _CHANNEL.search(source.rest)
    if kind and (not channel or channel[1] not in begun):
      # Fused into what it runs beside, one collective stands in several steps.
      begun.update(channel.groups() if channel else ())
      taken = collectives.seconds(source, network)
      if _SCATTERED in op.rest:
        kind, taken = 'reduce-scatter', taken / 2
      shape = ', '.join(f'{s.dtype}{list(s.dims)}' for s in source.shapes[-1:])
      key = f'{kind} {shape}'
      found = cost.collectives.setdefault(key, Traffic())
      found.count += times
      found.bytes += times * collectives.payload(source)
      found.seconds += times * taken
      if _is_asynchronous(op):
        hidden['all'] = hidden.get('all', 0.0) + taken
      else:
        cost.exposed_seconds += times * taken
  if collectives.kind_of(op):
    return 0.0, 0.0
  moved = _moved(op, computation, module)
  cost.bytes += times * moved
  chip = network.chip
  seconds = moving = moved / chip.hbm_rate
  if op.opcode in arithmetic.FREE or op.opcode.startswith(('copy-', 'slice-')):
    return 0.0, moving  # Copies between memories run beside everything else.
  if op.cycles:
    seconds = op.cycles / chip.clock
  elif op.opcode in ('dot', 'convolution', 'custom-call', 'fusion'):
    done = sum(
      arithmetic.flops(*pair) for pair in _fused(op, computation, module)
    )
    share = KERNELS if op.opcode == 'custom-call' else 1.0
    seconds = max(seconds, done / (share * chip.flops))
  cost.busy_seconds += times * seconds
  return seconds, moving


def _is_asynchronous(op: Op) -> bool:
  """Whether others run while a collective does."""
  if op.opcode != 'fusion':
    return op.opcode.endswith('-start')
  # Steps of a collective that are fused into what they run beside.
  return 'async' in op.name or 'async' in op.called['calls'][0]


def _moved(op: Op, computation: Computation, module: Module) -> float:
  """Bytes of HBM that an instruction moves, without collectives fused in."""
  if op.name.startswith('async-collective'):
    return 0.0  # Its first and last step.
  moved = arithmetic.traffic(op, computation, module)
  if op.opcode == 'fusion':
    for source, owner in _fused(op, computation, module):
      if collectives.kind_of(source):
        given = [owner.ops[name] for name in source.operands]
        moved -= sum(one.bytes for one in (source, *given))
  return max(0.0, moved)


def _fused(
  op: Op, computation: Computation, module: Module
) -> list[tuple[Op, Computation]]:
  """An instruction and those that are fused into it, with their homes."""
  found = [(op, computation)]
  if op.opcode == 'fusion':
    inner = module.computations[op.called['calls'][0]]
    for nested in inner.ops.values():
      found += _fused(nested, inner, module)
  return found


def _expose(
  costs: Mapping[str, Cost],
  hidden: Mapping[str, float],
  busy: float,
  times: float,
  phase: str,
) -> None:
  """Adds the time of asynchronous collectives beyond what runs beside them."""
  left = hidden.get('all', 0.0) - busy
  if left > 0:
    costs[phase if phase in costs else OTHER].exposed_seconds += times * left


def _longest(op: Op, module: Module, network: Network, begun: set[str]) -> str:
  """The branch that takes longest."""
  names = [name for called in op.called.values() for name in called]

  def seconds(name: str) -> float:
    costs: dict[str, Cost] = {OTHER: Cost()}
    _walk(module, name, 1.0, OTHER, network, costs, set(begun))
    return sum(cost.seconds for cost in costs.values())

  return max(names, key=seconds)


def phase_of(op: Op, otherwise: str = OTHER) -> str:
  """The innermost scope `phase.<name>` that an instruction comes from.

  Args:
    op: any instruction.
    otherwise: where the compiler has lost its origin.

  Returns:
    The name.
  """
  found = _PHASE.findall(op.op_name)
  return found[-1] if found else otherwise


def combine(
  first: Mapping[str, Cost], second: Mapping[str, Cost], *, share: float
) -> dict[str, Cost]:
  """Costs on the straight line through two measured ones.

  Args:
    first: at 0.
    second: at 1.
    share: where on the line; above 1 behind the second.

  Returns:
    The costs there, none below 0.
  """

  def between(a: float, b: float) -> float:
    return max(0.0, a + share * (b - a))

  made = {}
  for phase in [*first, *(name for name in second if name not in first)]:
    a, b = first.get(phase, Cost()), second.get(phase, Cost())
    numbers = {
      field.name: between(getattr(a, field.name), getattr(b, field.name))
      for field in dataclasses.fields(Cost)
      if field.name != 'collectives'
    }
    kinds = [
      *a.collectives,
      *(k for k in b.collectives if k not in a.collectives),
    ]
    made[phase] = Cost(
      **numbers,
      collectives={
        kind: Traffic(
          **{
            name: between(
              getattr(a.collectives.get(kind, Traffic()), name),
              getattr(b.collectives.get(kind, Traffic()), name),
            )
            for name in ('count', 'bytes', 'seconds')
          }
        )
        for kind in kinds
      },
    )
  return made
