"""The command, and what it says about runs that do and do not fit."""

from __future__ import annotations

import dataclasses
import json
import re

import jax
import pytest

from selfimprove import configuration, fit, partitioning
from selfimprove.experiment import Experiment
from selfimprove.scale import measure, search, topology
from selfimprove.scale.chips import CHIPS, GIB
from tests import commands
from tests.commands import bind

FLAGS = (
  *commands.TINY_RUN,
  *commands.bind('ATTEMPT_TOKENS = 32', 'PROMPTS_PER_STEP = 32'),
)
needs_compiler = pytest.mark.skipif(
  not topology.has_compiler(),
  reason="libtpu is not installed; pip install 'jax[tpu]' brings it",
)


def tiny(microbatches=1):
  """A run, on one device."""
  files = [f.split('=', 1)[1] for f in FLAGS if f.startswith('--gin_file')]
  bindings = [f.split('=', 1)[1] for f in FLAGS if 'gin_bindings' in f]
  return configuration.build(
    Experiment,
    files=files,
    bindings=[*bindings, f'MICROBATCHES = {microbatches}'],
  )


def one_device():
  return partitioning.make_mesh(devices=jax.devices()[:1])


def update_of(experiment, chip):
  (measured,) = measure.of_run(
    experiment, one_device(), chip, wanted=lambda title: 'step' in title
  )
  rows = measure.rows(
    measured, config='', topology='cpu', chip=chip, model=experiment.model
  )
  return measured, rows


@pytest.mark.slow
def test_what_does_not_fit_fits_with_the_knob_that_is_named():
  large, _ = update_of(tiny(), CHIPS['v5e'])
  # A chip with a little less than that takes.
  small = dataclasses.replace(CHIPS['v5e'], hbm_bytes=0.9 * large.memory.peak)
  _, rows = update_of(tiny(), small)
  assert not rows[0]['fits']
  named = re.search(r'microbatches to (\d+)', rows[0]['advice'])
  assert named, rows[0]['advice']
  _, rows = update_of(tiny(int(named[1])), small)
  assert rows[0]['fits']
  assert not rows[0]['advice']


@pytest.mark.slow
def test_every_part_of_a_step_has_a_row():
  _, rows = update_of(tiny(), CHIPS['v5e'])
  parts = {row['program'].partition(':')[2] for row in rows}
  assert {'prefill', 'extend', 'decode_0', 'decode_33', 'update'} <= parts
  for row in rows:
    assert 0 <= row['roofline_seconds'] <= row['seconds_estimate']


@pytest.mark.slow
def test_programs_of_the_same_text_are_compiled_once(monkeypatch):
  once = tiny()
  again = dataclasses.replace(once.stages[0], name='again')
  both = dataclasses.replace(once, stages=[once.stages[0], again])
  compiled, compile_ = [], measure._compiled
  monkeypatch.setattr(
    measure,
    '_compiled',
    lambda program, *a: compiled.append(program.title) or compile_(program, *a),
  )
  first, second = measure.of_run(
    both,
    one_device(),
    CHIPS['v5e'],
    wanted=lambda title: title in (f'{once.stages[0].name}/step', 'again/step'),
  )
  assert compiled == [first.program.title]
  assert second.program.title == 'again/step'
  assert second.memory == first.memory
  assert second.costs == first.costs
  assert not second.compile_seconds


@pytest.mark.slow
def test_a_guess_ranks_settings_without_a_compiler():
  devices = jax.devices()[:4]
  settings = list(search.candidates(tiny(), 4))
  slots = search.rollouts(settings[0], devices)
  found = [search.guess(one, devices, CHIPS['v5e'], slots) for one in settings]
  assert len(found) > 8
  whole = next(
    r for r in found if r['mesh'] == '4,1,1' and r['remat'] == 'full'
  )
  split = next(
    r for r in found if r['mesh'] == '1,4,1' and r['remat'] == 'full'
  )
  assert split['hbm_gib_per_chip'] < whole['hbm_gib_per_chip']


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    ('--topology=v9:2x2', 'v9:2x2'),
    ('--topology=v5e:4by4', 'chip and a shape'),
    ('--depths=2', "depths='2' is not two growing numbers"),
    ('--depths=2,4', "depths='2,4' does not end below the 1 layers"),
    ('--output=/not/there/fit.json', 'in a folder that is not there; make it'),
  ],
)
def test_a_flag_that_cannot_be_used_is_refused_in_a_sentence(flag, said):
  where = () if 'topology' in flag else ('--topology=v5e:2x2',)
  assert re.search(said, commands.refusal(fit, *FLAGS, *where, flag))


@pytest.mark.tpu
@needs_compiler
def test_an_option_that_the_compiler_does_not_know_is_named():
  where = ('--topology=v5e:2x2', '--compiler_options=xla_nonsense=true')
  said = commands.refusal(fit, *FLAGS, *where)
  assert "No such compile option: 'xla_nonsense'; correct" in said


@pytest.mark.tpu
@needs_compiler
def test_nobody_knows_the_time_of_a_program_that_is_refused(tmp_path, capsys):
  output = tmp_path / 'fit.json'
  commands.run(
    fit,
    '--gin_file=experiments/pods/grpo.gin',
    *bind("SIZE = 'qwen3-1.7b'"),
    '--topology=v5e:2x2',
    '--mesh=1,4,1',
    '--programs=sample',
    f'--output={output}',
  )
  (row,) = json.loads(output.read_text())
  assert not row['fits']
  assert row['seconds_estimate'] is row['bound'] is row['mfu_estimate'] is None
  said = capsys.readouterr()
  assert '| **no** | ? | ? | ? | ? |' in said.out
  assert said.err.startswith('Compiling train/sample ...')
  assert 'set prompts_at_once to' in said.err


@pytest.mark.tpu
@needs_compiler
def test_a_name_of_no_program_is_refused_with_those_that_there_are():
  with pytest.raises(ValueError, match=r"'learn' .* there are train/step\."):
    fit.fit(tiny(), 'v5e:2x2', config='', only='learn')


@pytest.mark.tpu
@needs_compiler
def test_the_tpu_compiler_says_what_a_run_takes(tmp_path):
  output = tmp_path / 'fit.json'
  commands.run(
    fit,
    *FLAGS,
    '--topology=v5e:2x2',
    '--mesh=1,2,2',
    f'--output={output}',
  )
  rows = json.loads(output.read_text())
  assert rows[0]['fits']
  assert 0 < rows[0]['hbm_gib_per_chip'] < CHIPS['v5e'].hbm_bytes / GIB
  decode = next(r for r in rows if r['program'].endswith('decode_0'))
  assert decode['seconds_estimate'] >= decode['roofline_seconds'] > 0
