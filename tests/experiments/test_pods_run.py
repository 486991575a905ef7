"""Compiling the cases: what is kept, what goes on, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess

import pytest

from experiments.pods import cases, page, run
from selfimprove import configuration, fit
from selfimprove.experiment import Experiment
from selfimprove.scale import programs, topology
from tests import commands

ONLY = '--only=guide llama-3.1-8b v4:4x4x4'


@pytest.fixture
def compiled(monkeypatch):
  """Programs that were compiled, and what is to happen instead."""
  made: list[str] = []
  happens: dict[str, BaseException] = {}

  def fitted(case, program, options):
    if program in happens:
      raise happens[program]
    made.append(program)
    row = dict.fromkeys(('hbm_gib_per_chip', 'seconds_estimate'), 1.0)
    row |= dict.fromkeys(('roofline_seconds', 'mfu_estimate'), 0.5)
    row |= {'config': case.name, 'topology': case.topology, 'mesh': case.mesh}
    row |= {'program': f'train/{program}', 'bound': 'hbm', 'fits': True}
    return [row]

  monkeypatch.setattr(run, '_fit', fitted)
  return made, happens


def test_an_interrupted_command_goes_on(compiled, tmp_path, capsys):
  made, happens = compiled
  output = tmp_path / 'fit.json'
  happens['collect'] = KeyboardInterrupt()
  with pytest.raises(SystemExit) as stopped:
    commands.run(run, ONLY, f'--output={output}')
  assert stopped.value.code == 130
  assert 'the same command goes on' in capsys.readouterr().err
  happens.clear()
  commands.run(run, ONLY, f'--output={output}')
  assert made == ['sample', 'retry', 'merge', 'collect', 'learn']
  said = capsys.readouterr()
  assert '[1/5] guide llama-3.1-8b v4:4x4x4 sample: is there' in said.err
  # A part of the names is the same programs.
  commands.run(run, ONLY, '--programs=learn', f'--output={output}')
  assert made == ['sample', 'retry', 'merge', 'collect', 'learn']
  keys = [row['key'] for row in json.loads(output.read_text())]
  assert [key.rpartition(' | ')[2] for key in keys] == made


def test_a_program_that_cannot_be_compiled_stops_no_other(compiled, tmp_path):
  made, happens = compiled
  happens['retry'] = subprocess.CalledProcessError(1, 'fit')
  with pytest.raises(SystemExit, match=r'fit failed.*v4:4x4x4 retry'):
    commands.run(run, ONLY, f'--output={tmp_path / "fit.json"}')
  assert made == ['sample', 'merge', 'collect', 'learn']


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--only=nope'], "only='nope' and programs='' are in no case"),
    (['--programs=nope'], "programs='nope' are in no case"),
    (['--effort=-1'], 'give them an --output of their own'),
    (['--depths=2,4'], 'give them an --output of their own'),
    (['--output=/nowhere/x.json'], 'in a folder that is not there'),
    (['--output=README.md'], 'README.md is not JSON'),
  ],
)
def test_what_cannot_be_is_refused(flags, said, compiled):
  assert said in commands.refusal(run, *flags)
  assert not compiled[0]


def test_the_results_have_all_programs_and_only_these():
  rows = json.loads(page.RESULTS.read_text())
  keys = [row['key'] for row in rows]
  wanted = [
    f'{case.key} | {program}'
    for case in (*cases.published(), *cases.scaling())
    for program in case.programs
  ]
  assert list(dict.fromkeys(keys)) == wanted
  names = [(row['key'], row['program']) for row in rows]
  assert len(set(names)) == len(names)


@pytest.mark.tpu
@pytest.mark.parametrize('config', ['score', 'grpo', 'guide', 'nft', 'tempo'])
def test_cases_have_the_programs_of_their_runs(config):
  case = next(
    case
    for case in cases.published()
    if case.config == config and case.topology == 'v5e:2x4'
  )
  experiment = configuration.build(
    Experiment,
    files=[f'experiments/pods/{config}.gin'],
    bindings=case.all_bindings,
  )
  shape = fit.mesh_shape(case.mesh)
  experiment = dataclasses.replace(experiment, mesh=shape)
  mesh = experiment.mesh.make(topology.devices(case.topology))
  there = {program.name for program in programs.of_run(experiment, mesh)}
  assert there == set(case.programs)
