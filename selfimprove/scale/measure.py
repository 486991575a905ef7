"""What compiled programs would take, as rows of a table."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from selfimprove.experiment import Experiment
from selfimprove.scale import cost, hlo, memory, programs, work
from selfimprove.scale.chips import GIB, Chip
from selfimprove.scale.collectives import Network
from selfimprove.scale.cost import Cost
from selfimprove.scale.memory import Memory
from selfimprove.scale.programs import Program
from selfimprove.training.programs import at_once

EFFORT = 'exec_time_optimization_effort'
Options = Mapping[str, str | float]
"""Of the compiler: name -> value."""
NO_OPTIONS: Options = {}
UNROLLED = ('sample', 'retry', 'step')
"""Programs whose size grows with the layers: decoding has no loop over them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
  """What the compiler made of a program.

  Attributes:
    program: that was compiled.
    memory: on a chip.
    costs: of its parts.
    padding: bytes of arguments beyond their elements, over those.
    compile_seconds: that it took here.
    layers: of the models that were compiled; two where the rest is a line.
    refusal: what the compiler said, where it refused.
  """

  program: Program
  memory: Memory
  costs: Mapping[str, Cost]
  padding: float
  compile_seconds: float
  layers: tuple[int, ...] = ()
  refusal: str = ''


def takes_effort() -> bool:
  """Whether this release of JAX has the option `EFFORT`."""
  return hasattr(jax.config, f'jax_{EFFORT}')


def network_of(mesh: Mesh, chip: Chip) -> Network:
  """Where the partitions of a program stand.

  Args:
    mesh: of described devices; those without coordinates stand in a line.
    chip: that they are.

  Returns:
    Chip and coordinates in the order of the partitions.
  """
  devices = list(mesh.devices.flat)
  places = [getattr(d, 'coords', None) or (i,) for i, d in enumerate(devices)]
  return Network(chip, np.asarray(places))


def measure(
  program: Program,
  network: Network,
  *,
  layers: int,
  options: Options = NO_OPTIONS,
  seen: dict[Any, Measured] | None = None,
) -> Measured:
  """A program, compiled and read.

  Args:
    program: to compile; nothing is run.
    network: of its chips.
    layers: of its model.
    options: of the compiler. `EFFORT` from -1 to 1 is one of them: -1 is many
      times faster; memory, operations and traffic are then much the same, its
      estimates of time are too long.
    seen: programs that were compiled before, to which this one is added: one
      with the same text, as stages that sample alike have, is not compiled
      again.

  Returns:
    What it takes. One that the compiler refuses for its memory has no costs.

  Raises:
    RuntimeError: the compiler refuses it for another reason.
  """
  start = time.monotonic()
  lowered = program.lower()
  kept = memory.on_a_chip(program.state), memory.on_a_chip(program.others)
  key = lowered.as_text(), kept, program.stage.compiler_options
  if seen is not None and key in seen:
    return dataclasses.replace(seen[key], program=program, compile_seconds=0.0)
  found = _compiled(program, lowered, network, options, start)
  found = dataclasses.replace(found, layers=(layers,))
  if seen is not None:
    seen[key] = found
  return found


def _compiled(
  program: Program,
  lowered: Any,
  network: Network,
  options: Options,
  start: float,
) -> Measured:
  """A lowered program, compiled and read; the time counts from `start`."""
  try:
    compiled = lowered.compile(compiler_options=dict(options) or None)
  except jax.errors.JaxRuntimeError as error:
    there = sum(memory.on_a_chip(x) for x in program.operands)
    used = memory.of_refusal(str(error), arguments=there)
    if used is None:
      raise
    return _refused(program, used, str(error), time.monotonic() - start)
  module = hlo.parse(compiled.as_text())
  found = memory.of_compiled(
    compiled, state=program.state, others=program.others
  )
  nothing = Memory(arguments=0, outputs=0, temporaries=0, code=0, resident=0)
  return Measured(
    program=program,
    memory=found or nothing,
    costs=cost.of_program(module, network),
    padding=_padding(module),
    compile_seconds=time.monotonic() - start,
  )


def of_run(
  experiment: Experiment,
  mesh: Mesh,
  chip: Chip,
  *,
  depths: Sequence[int] = (),
  options: Options = NO_OPTIONS,
  wanted: Callable[[str], bool] = bool,
  say: Callable[[str], object] = bool,
) -> Iterator[Measured]:
  """All programs of a run, one after the other.

  Args:
    experiment: the run.
    mesh: of described devices.
    chip: that they are.
    depths: two numbers of layers at which programs without a loop over layers
      are compiled in place of all; what they take is then a straight line.
    options: of the compiler, as for `measure`.
    wanted: (stage/program) -> whether to compile it.
    say: is told what is compiled next, which takes seconds to many minutes.

  Yields:
    What each takes.
  """
  network, full = network_of(mesh, chip), experiment.model.num_layers
  shallow = [
    list(programs.of_run(_with_layers(experiment, n), mesh))
    for n in depths
    if n < full
  ]
  seen: dict[Any, Measured] = {}
  compiled = functools.partial(
    measure, network=network, options=options, seen=seen
  )
  for i, program in enumerate(programs.of_run(experiment, mesh)):
    if not wanted(program.title):
      continue
    say(f'Compiling {program.title} ...')
    if len(shallow) == 2 and program.name in UNROLLED:
      near, far = (
        compiled(run[i], layers=n)
        for run, n in zip(shallow, depths, strict=True)
      )
      yield _line(program, near, far, full)
    else:
      yield compiled(program, layers=full)


def rows(
  measured: Measured, *, config: str, topology: str, chip: Chip, model: Any
) -> list[dict[str, Any]]:
  """Lines of a table: the program, and its parts.

  Args:
    measured: the program.
    config: name of the config.
    topology: that it was compiled for.
    chip: of the topology.
    model: shape of the policy.

  Returns:
    Objects for JSON. Of a program that the compiler refuses nobody knows the
    times: they are None.
  """
  program, taken = measured.program, measured.memory
  chips = program.mesh.size
  asked = work.of_stage(model, program.stage, program.rollout)
  needed = work.decode_bytes(
    model, program.stage, program.rollout, program.mesh.shape
  )
  parts = {k: c for k, c in measured.costs.items() if c.seconds or c.flops}
  times = _time(parts, asked, needed, chip, chips)
  written = program.rollout.tokens.shape[1] - program.rollout.prompt_slots
  tokens = program.rollout.tokens.shape[0] * written
  shared = {
    'config': config,
    'topology': topology,
    'mesh': ','.join(str(n) for n in program.mesh.shape.values()),
  }
  whole = {
    **shared,
    'program': program.title,
    'hbm_gib_per_chip': _round(taken.peak / GIB),
    'hbm_gib_of_chip': _round(chip.hbm_bytes / GIB),
    'fits': not measured.refusal and taken.peak <= chip.hbm_bytes,
    'advice': memory.advice(taken, chip, knobs=_knobs(program, model)),
    'hbm_gib': {
      name: _round(value / GIB)
      for name, value in dataclasses.asdict(taken).items()
    },
    'padding_share': _round(measured.padding),
    'layers_compiled': list(measured.layers),
    'compile_seconds': _round(measured.compile_seconds),
    **(dict.fromkeys(times) if measured.refusal else times),
  }
  whole['tokens_per_second_per_chip'] = _rate(tokens, whole, chips)
  lines = [whole]
  for name, one in parts.items():
    line = {
      **shared,
      'program': f'{program.title}:{name}',
      'hbm_gib_per_chip': whole['hbm_gib_per_chip'],
      'fits': whole['fits'],
      **_time({name: one}, asked, needed, chip, chips),
    }
    if name.startswith('decode_') or name in ('update', 'old_logprobs'):
      line['tokens_per_second_per_chip'] = _rate(
        _tokens_of(name, program.rollout) or tokens, line, chips
      )
    lines.append(line)
  return lines


def _knobs(program: Program, model: Any) -> memory.Knobs:
  stage = program.stage
  if program.name in ('sample', 'retry'):
    return memory.Knobs(at_once=at_once(stage))
  return memory.Knobs(microbatches=stage.microbatches, remat=model.remat)


def _time(
  named: Mapping[str, Cost],
  operations: Mapping[str, float],
  needed: Mapping[str, float],
  chip: Chip,
  chips: int,
) -> dict[str, Any]:
  """Estimate, roofline and what binds, of parts that follow each other."""
  parts = list(named.values())
  asked = sum(operations.get(name, 0.0) for name in named)
  seconds = sum(part.seconds for part in parts)
  sides = [
    _sides(part, chip, needed.get(name, 0.0)) for name, part in named.items()
  ]
  # What is sent beside another part's products bounds neither alone.
  roofline = sum(
    min(max(side.values()), part.seconds)
    for side, part in zip(sides, parts, strict=True)
  )
  total = {k: sum(side[k] for side in sides) for k in ('flops', 'hbm', 'ici')}
  kinds: dict[str, float] = {}
  for part in parts:
    for kind, one in part.collectives.items():
      kinds[kind] = kinds.get(kind, 0.0) + one.bytes
  largest = sorted(kinds, key=lambda kind: -kinds[kind])[:8]
  return {
    'seconds_estimate': _round(seconds),
    'roofline_seconds': _round(roofline),
    'bound': max(total, key=lambda side: total[side]),
    'side_seconds': {name: _round(value) for name, value in total.items()},
    'exposed_collective_seconds': _round(
      sum(part.exposed_seconds for part in parts)
    ),
    'mfu_estimate': _round(
      asked / (chips * chip.flops * seconds) if seconds else 0.0
    ),
    'model_flops': _round(asked),
    'flops_per_chip': _round(sum(part.flops for part in parts)),
    'hbm_bytes_per_chip': _round(sum(part.bytes for part in parts)),
    'collective_gib': {k: _round(kinds[k] / GIB) for k in largest},
  }


def _sides(part: Cost, chip: Chip, needed: float) -> dict[str, float]:
  return {
    'flops': part.flops / chip.flops,
    'hbm': (needed or part.bytes) / chip.hbm_rate,
    'ici': part.link_seconds,
  }


def _rate(tokens: float, row: Mapping[str, Any], chips: int) -> float | None:
  seconds = row['seconds_estimate']
  if seconds is None:
    return None
  return _round(tokens / seconds / chips) if seconds else 0.0


def _tokens_of(phase: str, rollout: Any) -> int:
  rows = rollout.tokens.shape[0]
  for start, end in rollout.spans:
    if phase == f'decode_{start - rollout.prompt_slots}':
      return rows * (end - start)
  return 0


def _with_layers(experiment: Experiment, count: int) -> Experiment:
  model = dataclasses.replace(experiment.model, num_layers=count)
  return dataclasses.replace(experiment, model=model)


def _line(program: Program, near: Measured, far: Measured, to: int) -> Measured:
  """What a program with more layers takes, from two with few."""
  if refused := near.refusal or far.refusal:
    return dataclasses.replace(far, program=program, refusal=refused)
  (a,), (b,) = near.layers, far.layers
  share = (to - a) / (b - a)
  found = near.memory.line_to(far.memory, share=share)
  costs = cost.combine(near.costs, far.costs, share=share)
  # At few layers something else may be the peak than weights and cache, which
  # stay while tokens are drawn: the line must not fall below these.
  beside = max(
    0.0, *(one.memory.temporaries - _carried(one.costs) for one in (near, far))
  )
  found = dataclasses.replace(
    found, temporaries=max(found.temporaries, _carried(costs) + beside)
  )
  # What is there before it runs is known without a line.
  state = memory.on_a_chip(program.state)
  others = memory.on_a_chip(program.others)
  resident = max(0.0, state + others - found.arguments)
  return Measured(
    program=program,
    memory=dataclasses.replace(found, resident=resident),
    costs=costs,
    padding=far.padding,
    compile_seconds=near.compile_seconds + far.compile_seconds,
    layers=(a, b),
  )


def _carried(costs: Mapping[str, Cost]) -> float:
  """Bytes that the largest loop over tokens carries."""
  return max((one.carried_bytes for one in costs.values()), default=0.0)


def _refused(
  program: Program, used: float, message: str, seconds: float
) -> Measured:
  """A program that needs more memory than the compiler has."""
  state = memory.on_a_chip(program.state)
  others = memory.on_a_chip(program.others)
  there = min(used, state + others)
  return Measured(
    program=program,
    memory=Memory(
      arguments=there,
      outputs=0.0,
      temporaries=used - there,
      code=0.0,
      resident=max(0.0, state + others - there),
    ),
    costs={},
    padding=0.0,
    compile_seconds=seconds,
    refusal=message.splitlines()[0],
  )


def _padding(module: hlo.Module) -> float:
  entry = module.computations[module.entry]
  shapes = [entry.ops[name].shapes[0] for name in entry.parameters]
  real = sum(shape.bytes for shape in shapes)
  return sum(shape.padded_bytes for shape in shapes) / real - 1 if real else 0.0


def _round(value: float) -> float:
  return float(f'{value:.4g}')
