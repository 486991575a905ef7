"""Meshes, micro-batches and remat that fit, best first."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from selfimprove import partitioning
from selfimprove.experiment import Experiment, MeshShape
from selfimprove.models import remat
from selfimprove.scale import measure, memory, work
from selfimprove.scale.chips import GIB, Chip
from selfimprove.scale.programs import of_run
from selfimprove.training.programs import divides
from selfimprove.training.stages import holds_reference
from selfimprove.training.state import abstract_state

_PARTS = (1, 2, 4, 8, 16)


class Found(NamedTuple):
  """A setting and what it takes.

  Attributes:
    experiment: the run with the setting.
    row: for the table; `how` tells a compiled figure from a guessed one.
  """

  experiment: Experiment
  row: dict[str, Any]


def search(
  experiment: Experiment,
  devices: Sequence[jax.Device],
  chip: Chip,
  *,
  tries: int,
  depths: Sequence[int] = (),
  options: measure.Options = measure.NO_OPTIONS,
  say: Callable[[str], object] = bool,
) -> list[Found]:
  """Settings of a run, those that fit first and of these the fastest.

  A model of memory and time, which takes no compiler, ranks all of them; the
  best are then compiled.

  Args:
    experiment: the run.
    devices: described or real.
    chip: that they are.
    tries: settings to compile, at least 1.
    depths: two numbers of layers for programs without a loop over layers.
    options: of the compiler, as for `measure.measure`.
    say: shown the progress.

  Returns:
    The compiled settings.

  Raises:
    ValueError: no setting divides the samples, or `tries` is below 1.
  """
  if tries < 1:
    raise ValueError(f'tries={tries} compiles nothing; give at least 1.')
  settings = list(candidates(experiment, len(devices)))
  if not settings:
    raise ValueError(
      f'No mesh of {len(devices)} devices divides the samples of every stage; '
      'change prompts_per_step, group_size, minibatches or prompts_at_once.'
    )
  slots = rollouts(settings[0], devices)
  every = [Found(one, guess(one, devices, chip, slots)) for one in settings]
  every.sort(key=_rank)
  fitting = sum(one.row['fits'] for one in every)
  say(f'{len(every)} settings, {fitting} of which should fit')
  tried = []
  for i, one in enumerate(every[:tries]):
    say(f'[{i + 1}/{min(tries, len(every))}] compiling {_title(one.row)}')
    tried.append(_compiled(one, devices, chip, depths, options, say))
  return sorted(tried, key=_rank)


def candidates(experiment: Experiment, chips: int) -> Iterator[Experiment]:
  """Settings whose samples divide over their mesh.

  Args:
    experiment: the run.
    chips: devices.

  Yields:
    The run with another mesh, other micro-batches or other remat.
  """
  model = experiment.model
  for width in _divisors(chips):
    if model.num_heads % width:
      continue
    shards = chips // width
    for fsdp in _divisors(shards):
      for parts, policy in itertools.product(_PARTS, (*remat.KEPT, 'none')):
        stages = _with_parts(experiment, parts, shards)
        if stages is not None:
          yield dataclasses.replace(
            experiment,
            model=dataclasses.replace(model, remat=policy),
            stages=stages,
            mesh=MeshShape(data=shards // fsdp, fsdp=fsdp, model=width),
          )


def guess(
  experiment: Experiment,
  devices: Sequence[jax.Device],
  chip: Chip,
  slots: Mapping[str, Any],
) -> dict[str, Any]:
  """Memory and time of a setting without a compiler.

  Args:
    experiment: with the setting.
    devices: all that its mesh has.
    chip: that they are.
    slots: what `rollouts` returned; no setting changes it.

  Returns:
    A row for the ranking.
  """
  models, mesh = experiment.models(), experiment.mesh.make(devices)
  peak, seconds = 0.0, 0.0
  stages = experiment.unrolled()
  for stage in stages:
    state = abstract_state(
      models,
      stage.optimizers,
      mesh,
      with_reference=holds_reference(stages, models),
    )
    case = _Case(stage, state, slots[stage.name], mesh)
    peak = max(peak, _peak(case, experiment.model))
    seconds += _seconds(case, experiment.model, chip)
  return {
    **_setting(experiment),
    'hbm_gib_per_chip': peak / GIB,
    'fits': peak <= chip.hbm_bytes,
    'seconds_estimate': seconds,
    'how': 'guessed',
  }


def rollouts(
  experiment: Experiment, devices: Sequence[jax.Device]
) -> dict[str, Any]:
  """The shapes of what each stage samples.

  Args:
    experiment: any setting whose samples divide over its mesh.
    devices: all that its mesh has.

  Returns:
    Name of a stage -> rollout.
  """
  mesh = experiment.mesh.make(devices)
  return {p.stage.name: p.rollout for p in of_run(experiment, mesh)}


class _Case(NamedTuple):
  stage: Any
  state: Any
  rollout: Any
  mesh: Any


def _peak(program: _Case, model: Any) -> float:
  """State, a gradient, and what the backward pass keeps."""
  mesh, rollout = program.mesh, program.rollout
  state = memory.on_a_chip(program.state)
  gradient = memory.on_a_chip(program.state.params)
  parts = program.stage.microbatches * program.stage.minibatches
  shards = partitioning.row_shards(mesh, model.training_layout)
  tokens = rollout.tokens.size / parts / shards
  kept = _widths(model)
  if model.remat == 'none':
    # Norms, and what is multiplied by the gate.
    kept |= {'norms': 2 * model.embed_dim, 'product': model.mlp_dim}
  else:
    kept = {name: kept[name] for name in remat.KEPT[model.remat]}
  split = _layer_parts(mesh, model)
  of_keys = split if model.num_kv_heads % split == 0 else 1
  parts_of = dict.fromkeys(('out', 'norms', 'down'), 1)
  parts_of |= {'key': of_keys, 'value': of_keys}
  width = model.embed_dim + sum(
    size / parts_of.get(name, split) for name, size in kept.items()
  )
  return state + gradient + 2.0 * tokens * width * model.num_layers


def _widths(model: Any) -> dict[str, int]:
  """Numbers a token that the backward pass reads of each product."""
  queries = model.num_heads * model.head_dim
  keys = model.num_kv_heads * model.head_dim
  return {
    remat.MIXED: queries,
    'query': queries,
    'key': keys,
    'value': keys,
    'out': model.embed_dim,
    'gate': model.mlp_dim,
    'up': model.mlp_dim,
    # Read by the norm behind it alone.
    'down': model.embed_dim if model.post_norms else 0,
  }


def _recomputed(model: Any) -> float:
  """The share of a layer's products that the backward pass makes again."""
  if model.remat == 'none':
    return 0.0
  # Each times `embed_dim` is the size of a matrix; attention itself is little.
  sizes = _widths(model)
  down = model.mlp_dim if model.post_norms else 0
  sizes |= {'out': sizes['query'], remat.MIXED: 0, 'down': down}
  kept = sum(sizes[name] for name in remat.KEPT[model.remat])
  # Without such a norm nobody reads the last product again, so none makes it.
  whole = sum(sizes.values()) + model.mlp_dim - down
  return (sum(sizes.values()) - kept) / whole


def _seconds(program: _Case, model: Any, chip: Chip) -> float:
  """Compute of the update, and the traffic of weights and activations."""
  mesh, stage, rollout = program.mesh, program.stage, program.rollout
  asked = work.of_stage(model, stage, rollout)['update']
  compute = asked * (1 + _recomputed(model) / 3) / mesh.size / chip.flops
  passes = stage.minibatches * stage.microbatches * stage.epochs
  weights = 2.0 * sum(
    leaf.size for leaf in jax.tree.leaves(program.state.params)
  )
  width = _layer_parts(mesh, model)
  is_divided = mesh.shape['fsdp'] * mesh.shape['model'] > width
  gathered = 3 * weights / width * is_divided * passes
  shards = partitioning.row_shards(mesh, model.training_layout)
  tokens = rollout.tokens.size / shards * stage.epochs
  reduced = (
    8 * tokens * model.embed_dim * model.num_layers * 2 * ((width - 1) / width)
  )
  return max(compute, gathered / (4 * chip.link_rate)) + reduced / (
    2 * chip.link_rate
  )


def _layer_parts(mesh: Any, model: Any) -> int:
  """Devices that share the heads and the feed-forward of a layer."""
  rules = partitioning.LAYOUTS[model.training_layout]
  return mesh.shape['model'] if rules['mlp'] else 1


def _compiled(
  one: Found,
  devices: Sequence[jax.Device],
  chip: Chip,
  depths: Sequence[int],
  options: measure.Options,
  say: Callable[[str], object],
) -> Found:
  mesh = one.experiment.mesh.make(devices)
  rows = []
  for measured in measure.of_run(
    one.experiment, mesh, chip, depths=depths, options=options
  ):
    row = measure.rows(
      measured, config='', topology='', chip=chip, model=one.experiment.model
    )[0]
    say(f'  {row["program"]}: {row["hbm_gib_per_chip"]:.4g} GiB')
    rows.append(row)
  times = [row['seconds_estimate'] for row in rows]
  row = {
    **_setting(one.experiment),
    'hbm_gib_per_chip': max(row['hbm_gib_per_chip'] for row in rows),
    'fits': all(row['fits'] for row in rows),
    'seconds_estimate': None if None in times else sum(times),
    'how': 'compiled',
  }
  return Found(one.experiment, row)


def _with_parts(
  experiment: Experiment, parts: int, shards: int
) -> list[Any] | None:
  """The stages with so many micro-batches; None where samples do not divide."""
  stages = []
  for stage in experiment.stages:
    if stage.prompts_per_step % (stage.minibatches * parts):
      return None
    stage = dataclasses.replace(stage, microbatches=parts)
    if not divides(stage, shards):
      return None
    stages.append(stage)
  return stages


def _setting(experiment: Experiment) -> dict[str, Any]:
  shape = experiment.mesh
  return {
    'mesh': f'{shape.data},{shape.fsdp},{shape.model}',
    'microbatches': experiment.stages[0].microbatches,
    'remat': experiment.model.remat,
  }


def _rank(one: Found) -> tuple[bool, float, float]:
  row = one.row
  if not row['fits']:
    return True, row['hbm_gib_per_chip'], 0.0
  return False, row['seconds_estimate'], row['hbm_gib_per_chip']


def _title(row: dict[str, Any]) -> str:
  return (
    f'mesh {row["mesh"]}, {row["microbatches"]} micro-batches, '
    f'remat {row["remat"]}'
  )


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]
