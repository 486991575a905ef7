"""Paper-sized runs, compiled for slices that are not here."""

from __future__ import annotations

import json

import pytest

from experiments.pods import cases
from selfimprove import fit
from selfimprove.scale import measure, topology
from selfimprove.scale.chips import CHIPS, GIB
from tests import commands
from tests.commands import bind

needs_compiler = pytest.mark.skipif(
  not (topology.has_compiler() and measure.takes_effort()),
  reason='needs libtpu, and a JAX whose compiler can be told to hurry',
)
CASES = [*cases.published()]


def short(case):
  return f'{case.config}-{case.topology}'


def rows(case, folder, *flags):
  """What `fit` says of a case; estimates of time are too long."""
  output = folder / 'fit.json'
  commands.run(
    fit,
    f'--gin_file=experiments/pods/{case.config}.gin',
    *bind(*case.all_bindings),
    f'--topology={case.topology}',
    f'--mesh={case.mesh}',
    '--effort=-1',
    f'--output={output}',
    *flags,
  )
  return json.loads(output.read_text())


def test_every_algorithm_is_there_for_every_slice():
  assert len(CASES) == len({case.key for case in CASES}) == 20
  assert len({case.config for case in CASES}) == 5


@pytest.mark.tpu
@needs_compiler
@pytest.mark.parametrize('case', CASES, ids=short)
def test_updates_of_the_papers_sizes_compile_and_fit(case, tmp_path):
  found = rows(case, tmp_path, '--programs=learn')
  assert found[0]['program'].endswith('/learn')
  for row in found:
    assert row['fits'], row.get('advice')
  most = CHIPS[case.topology.partition(':')[0]].hbm_bytes / GIB
  assert 0 < found[0]['hbm_gib_per_chip'] <= most


@pytest.mark.tpu
@needs_compiler
def test_samples_of_a_papers_size_compile_and_fit(tmp_path):
  (case,) = (c for c in CASES if short(c) == 'score-v5e:16x16')
  found = rows(case, tmp_path, '--programs=stage_one/sample', '--depths=1,2')
  parts = {row['program'].partition(':')[2] for row in found}
  assert {'prefill', 'extend', 'decode_0', 'decode_1135'} <= parts
  assert all(row['fits'] for row in found)
  decode = next(r for r in found if r['program'].endswith(':decode_0'))
  assert decode['bound'] == 'hbm'
  assert decode['seconds_estimate'] >= decode['roofline_seconds'] > 0
