"""What the commands share: quiet libraries, and errors in one sentence."""

from __future__ import annotations

import logging as std_logging
import os
import sys
from collections.abc import Callable

import jax
from absl import app, flags, logging

from selfimprove.configuration import ConfigError, on_one_line
from selfimprove.rewards.verifiers import VerifierError
from selfimprove.training import compiler_options
from selfimprove.training.agreement import OtherProcessError
from selfimprove.training.finite import NonFiniteError
from selfimprove.training.loop import StoppedByDetectorError

USER_ERRORS = (
  ConfigError,
  ValueError,
  OSError,
  NonFiniteError,
  StoppedByDetectorError,
  VerifierError,
  OtherProcessError,
)
"""What a person can do something about: shown without a traceback."""

Define = Callable[[flags.FlagValues], None]
"""Defines the flags of a command."""

Main = Callable[[flags.FlagValues], None]
"""Does what parsed flags say."""

_HELP = frozenset(('--help', '-help', '--helpshort', '-helpshort', '-h', '-?'))


def define_config_flags(values: flags.FlagValues) -> None:
  """Defines the flags that name a configuration.

  Args:
    values: where they go.
  """
  flags.DEFINE_multi_string('gin_file', [], 'Gin files.', flag_values=values)
  flags.DEFINE_multi_string(
    'gin_bindings',
    [],
    'Bindings that override the files.',
    flag_values=values,
  )


def define_distributed_flags(values: flags.FlagValues) -> None:
  """Defines the flags of a command that many processes can run together.

  Args:
    values: where they go.
  """
  flags.DEFINE_string(
    'distributed',
    '',
    'How this process meets the others of its run: HOST:PORT,process_id,'
    'num_processes with the address of process 0, or auto where a cluster '
    'tells (TPU slices, SLURM, Open MPI); empty for a run of one process.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'distributed_timeout',
    300,
    'Seconds within which all processes of a run must have come.',
    lower_bound=1,
    flag_values=values,
  )


def start(define_flags: Define, main: Main) -> None:
  """Runs a command with the arguments of the process, and exits.

  Libraries say only what is at least a warning; `--verbosity=0` shows all, and
  `--verbosity=1` the traceback of an error as well. `--help` lists the flags:
  that of absl leaves out those that another module defines, and ends with 1.

  Args:
    define_flags: of the command.
    main: what it does.
  """
  if not _HELP.isdisjoint(sys.argv[1:]):
    text = help_text(sys.modules['__main__'].__doc__, define_flags)
    sys.stdout.write(f'{text}\n')
    return
  define_flags(flags.FLAGS)

  def run(argv: list[str]) -> None:
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
      logging.get_absl_logger().addFilter(_is_for_users)
    if argv[1:]:
      sys.exit(f'Error: {argv[1]!r} is no flag; write --name=value.')
    finish(main, flags.FLAGS)

  app.run(run)


def help_text(doc: str | None, define_flags: Define) -> str:
  """What a command is for, and all of its flags.

  Args:
    doc: docstring of its module.
    define_flags: of the command.

  Returns:
    The docstring, then the flags by name with their help and default.
  """
  values = flags.FlagValues()
  define_flags(values)
  for name in values:
    # Under one heading, whatever module defines it.
    values.register_key_flag_for_module('flags', values[name])
  return f'{(doc or "").strip()}\n{values.module_help("flags")}'


def _is_for_users(record: std_logging.LogRecord) -> bool:
  """False for the checkpoint library's advice on how often to save."""
  return record.levelno >= std_logging.ERROR or 'orbax' not in record.pathname


def say(sentence: str) -> None:
  """Tells whoever waits, beside what is printed as the result.

  Args:
    sentence: one line.
  """
  sys.stderr.write(f'{sentence}\n')
  sys.stderr.flush()


def check_output(path: str) -> None:
  """Refuses a file that could not be written, before the work is done.

  Args:
    path: of the flag `--output`; empty for none.

  Raises:
    ValueError: its folder is not there.
  """
  if not os.path.isdir(os.path.dirname(path) or '.'):
    raise ValueError(
      f'output={path!r} is in a folder that is not there; make it, or name '
      'another.'
    )


def finish(main: Main, options: flags.FlagValues) -> None:
  """Runs `main`; an error of the user ends the process with one sentence.

  Args:
    main: what the command does.
    options: its parsed flags.

  Raises:
    SystemExit: with the sentence, which Python prints, and status 1.
  """
  try:
    main(options)
  except jax.errors.JaxRuntimeError as error:
    if not (said := compiler_options.refusal(error)):
      raise
    logging.debug('Where it happened:', exc_info=True)
    sys.exit(f'Error: {said}')
  except USER_ERRORS as error:
    logging.debug('Where it happened:', exc_info=True)
    sys.exit(f'Error: {on_one_line(error)}')
