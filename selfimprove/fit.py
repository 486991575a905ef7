"""What a run would take on TPUs that are not here.

    python -m selfimprove.fit --gin_file=... --topology=v5e:16x16

compiles every program of the run with the TPU compiler (`pip install
'jax[tpu]'`, on any Linux machine) and prints memory, time and traffic.
"""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from selfimprove import command, configuration
from selfimprove.experiment import Experiment, MeshShape
from selfimprove.scale import measure, programs, report, search, topology
from selfimprove.scale.chips import chip_of
from selfimprove.training import compiler_options


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of this command.

  Args:
    values: where they go.
  """
  command.define_config_flags(values)
  flags.DEFINE_string(
    'topology', None, 'Chip and shape, such as v5e:16x16.', flag_values=values
  )
  flags.DEFINE_string(
    'mesh',
    None,
    'Devices along data,fsdp,model or data,fsdp,sequence,model; default as '
    'configured.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'depths',
    '',
    'Two numbers of layers, such as 2,4: programs without a loop over layers '
    'are compiled with so many, and the rest is a straight line.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'programs',
    '',
    'Only those with this in their name, which is stage/program: a stage whose '
    'rewards are computed in the graph has one, step; one that is judged on '
    'the host has sample and learn.',
    flag_values=values,
  )
  flags.DEFINE_float(
    'effort',
    0.0,
    'Of the compiler, -1 to 1; -1 is many times faster, and its estimates of '
    'time are too long.',
    lower_bound=-1.0,
    upper_bound=1.0,
    flag_values=values,
  )
  flags.DEFINE_list(
    'compiler_options',
    [],
    'Options of the compiler for all programs, name=value with commas between; '
    'a run takes them as LIBTPU_INIT_ARGS="--name=value ...". Those of '
    'stages.Stage.compiler_options need not be repeated.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'search',
    False,
    'Try meshes, micro-batches and remat, and rank those that fit.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'tries', 4, 'How many of the search to compile.', flag_values=values
  )
  flags.DEFINE_string('output', None, 'File for JSON.', flag_values=values)


def main(options: flags.FlagValues) -> None:
  """Does what the flags say.

  Args:
    options: parsed flags.

  Raises:
    ValueError: a flag cannot be used as it is.
  """
  if not options.topology:
    raise ValueError('No topology is given; add --topology=v5e:16x16.')
  command.check_output(options.output or '')
  # Nothing is computed: whatever devices are here stay free.
  jax.config.update('jax_platforms', 'cpu')
  experiment = configuration.build(
    Experiment, files=options.gin_file, bindings=options.gin_bindings
  )
  if options.mesh:
    shape = mesh_shape(options.mesh)
    experiment = dataclasses.replace(experiment, mesh=shape)
  name = options.gin_file[-1].removesuffix('.gin')
  depths = depths_of(options.depths, experiment.model.num_layers)
  chosen = options_of(options.compiler_options, options.effort)
  if options.search:
    found = search.search(
      experiment,
      topology.devices(options.topology),
      chip_of(options.topology),
      tries=options.tries,
      depths=depths,
      options=chosen,
      say=command.say,
    )
    print(report.ranking(found))
    lines: list[dict[str, Any]] = [one.row for one in found]
  else:
    lines = fit(
      experiment,
      options.topology,
      config=name,
      depths=depths,
      options=chosen,
      only=options.programs,
    )
    print(report.table(lines))
  if options.output:
    with open(options.output, 'w', encoding='utf-8') as file:
      json.dump(lines, file, indent=1)
      file.write('\n')


def fit(
  experiment: Experiment,
  where: str,
  *,
  config: str,
  depths: Sequence[int] = (),
  options: measure.Options = measure.NO_OPTIONS,
  only: str = '',
) -> list[dict[str, Any]]:
  """Rows about every program of a run.

  Args:
    experiment: the run.
    where: topology.
    config: name for the rows.
    depths: two numbers of layers for programs without a loop over layers;
      empty compiles them whole.
    options: of the compiler, as for `measure.measure`.
    only: part of the names of the programs that are wanted.

  Returns:
    Objects for JSON, as `measure.rows` makes them.

  Raises:
    ValueError: no program has such a name.
  """
  chip, devices = chip_of(where), topology.devices(where)
  mesh = experiment.mesh.make(devices)
  there = [program.title for program in programs.of_run(experiment, mesh)]
  if not any(only in title for title in there):
    raise ValueError(
      f'programs={only!r} is in the name of no program; there are '
      f'{", ".join(there)}.'
    )
  lines = []
  for one in measure.of_run(
    experiment,
    mesh,
    chip,
    depths=depths,
    options=options,
    wanted=lambda title: only in title,
    say=command.say,
  ):
    made = measure.rows(
      one, config=config, topology=where, chip=chip, model=experiment.model
    )
    command.say(report.sentence(made[0]))
    lines += made
  return lines


def options_of(pairs: Sequence[str], effort: float) -> measure.Options:
  """Options of the compiler as flags give them.

  Args:
    pairs: name=value, each.
    effort: of the compiler, -1 to 1.

  Returns:
    Name -> value.

  Raises:
    ValueError: one of them has no value, or this JAX knows no effort.

  >>> options_of(['xla_enable_async_all_gather=true'], 0.0)
  {'xla_enable_async_all_gather': 'true'}
  """
  if effort and not measure.takes_effort():
    raise ValueError(
      f'effort={effort:g} is not known to JAX {jax.__version__}; leave it out, '
      'or use JAX 0.10.'
    )
  found: dict[str, str | float] = {measure.EFFORT: effort} if effort else {}
  return found | compiler_options.parsed(pairs)


def depths_of(text: str, layers: int) -> tuple[int, ...]:
  """The depths that a flag names.

  Args:
    text: two numbers with a comma between, or nothing.
    layers: of the model.

  Returns:
    The numbers.

  Raises:
    ValueError: they are not two growing numbers below that of the model.

  >>> depths_of('2,4', 32)
  (2, 4)
  """
  depths = _numbers(text, 'depths')
  if depths and (len(depths) != 2 or not 0 < depths[0] < depths[1]):
    raise ValueError(
      f'depths={text!r} is not two growing numbers of layers; give some such '
      'as 2,4, or leave it out.'
    )
  if depths and depths[1] >= layers:
    raise ValueError(
      f'depths={text!r} does not end below the {layers} layers of the model; '
      'give fewer, or leave it out.'
    )
  return depths


def mesh_shape(text: str) -> MeshShape:
  """The mesh that a flag names.

  Args:
    text: sizes of data, fsdp, model or of data, fsdp, sequence, model, with
      commas between.

  Returns:
    The shape.

  Raises:
    ValueError: they are not three or four whole numbers.
  """
  sizes = _numbers(text, 'mesh')
  if len(sizes) not in (3, 4):
    raise ValueError(
      f'mesh={text!r} does not have three or four sizes; give '
      'data,fsdp,model, such as 1,64,4, or data,fsdp,sequence,model.'
    )
  data, fsdp, *between, model = sizes
  (sequence,) = between or (1,)
  return MeshShape(data=data, fsdp=fsdp, sequence=sequence, model=model)


def _numbers(text: str, flag: str) -> tuple[int, ...]:
  try:
    return tuple(int(part) for part in text.split(',') if part)
  except ValueError as error:
    raise ValueError(
      f'{flag}={text!r} is not a list of whole numbers; give some with commas '
      'between.'
    ) from error


if __name__ == '__main__':
  # A compiler hears of Ctrl-C when it is done; nothing is lost by ending it.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  command.start(define_flags, main)
