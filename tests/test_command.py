"""What all commands say when they are asked what they take."""

from __future__ import annotations

import pathlib
import runpy
import sys

import pytest
from absl import flags

from experiments.sweeps import command as sweeps_command
from selfimprove import command

ROOT = pathlib.Path(__file__).parents[1]


def _modules():
  """Names of all modules that are commands."""
  for room in ('selfimprove', 'experiments'):
    for path in sorted((ROOT / room).rglob('*.py')):
      if '\n  command.start(' in path.read_text(encoding='utf-8'):
        name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        if name != 'experiments.sweeps.command':  # Starts those of others.
          yield name


MODULES = tuple(_modules())


def _listed(text):
  """Names of the flags in a help."""
  lines = [line.strip() for line in text.splitlines()]
  heads = [line.partition(':')[0] for line in lines if line[:2] == '--']
  return {head.removeprefix('--').removeprefix('[no]') for head in heads}


def test_all_commands_are_found():
  assert {'selfimprove.fit', 'experiments.pods.run'} <= {*MODULES}
  assert 'experiments.score_math.sweep' in MODULES
  assert len(MODULES) >= 13


# The other tests may have imported the module, which is run once more.
@pytest.mark.filterwarnings('ignore:.*found in sys.modules:RuntimeWarning')
@pytest.mark.parametrize('module', MODULES)
def test_help_says_what_a_command_is_and_lists_its_flags(
  module, monkeypatch, capsys
):
  monkeypatch.setattr(sys, 'argv', [module, '--output=x', '--help'])
  # That it returns is exit status 0.
  found = runpy.run_module(module, run_name='__main__', alter_sys=True)
  text = capsys.readouterr().out
  assert text.startswith(found['__doc__'].strip() + '\n\nflags:\n')
  values = flags.FlagValues()
  found.get('define_flags', sweeps_command.define_flags)(values)
  assert _listed(text) == {*values}


def _define(values):
  command.define_config_flags(values)
  command.define_distributed_flags(values)
  flags.DEFINE_bool('own', False, 'Of 100 % of runs.', flag_values=values)


def test_help_lists_flags_of_whatever_module_with_help_and_default():
  text = command.help_text('Does it.\n\nWell.\n', _define)
  assert text.startswith('Does it.\n\nWell.\n\nflags:\n')
  assert _listed(text) == {
    'distributed',
    'distributed_timeout',
    'gin_bindings',
    'gin_file',
    'own',
  }
  assert 'Of 100 % of runs.' in text
  assert "(default: '300')" in text


@pytest.mark.parametrize('asked', ['-h', '-?', '-help', '--helpshort'])
def test_help_has_the_names_that_it_has_elsewhere(asked, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['command', asked])
  command.start(_define, lambda _: pytest.fail('begun'))
  assert '--[no]own' in capsys.readouterr().out
