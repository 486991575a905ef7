import json
import pathlib

import pytest

from benchmarks import compare_tunix
from benchmarks.protocol import WORKLOAD


def report(side, rollout, step, **changes):
  return {
    'side': side,
    'versions': {'jax': '0.10.2'},
    'cores': [1],
    'xla_flags': '',
    'parameters': WORKLOAD.parameters,
    'tokens': 4096,
    'rollout_seconds': rollout,
    'step_seconds': step,
    'core_gflops': 100.0,
    **changes,
  }


OURS = [report('ours', [1.0, 1.0, 9.0], [4.0]), report('ours', [2.0], [4.0])]
TUNIX = [report('tunix', [3.0], [6.0]), report('tunix', [3.0], [10.0])]


def test_ratios_are_of_medians_over_all_rounds():
  summary = compare_tunix.summarize(OURS, TUNIX)
  # Ours: median of 1, 1, 9, 2 is 1.5 (mean 3.25); Tunix 3.
  assert summary['rollout']['ours'] == 1.5
  assert summary['rollout']['ratio'] == 2.0
  assert summary['rollout']['tunix_tokens_per_second'] == 4096 / 3
  assert summary['step']['ratio'] == 2.0


def test_the_spread_is_that_of_single_rounds():
  row = compare_tunix.summarize(OURS, TUNIX)['step']
  assert (row['ratio_low'], row['ratio_high']) == (1.5, 2.5)


def test_a_target_is_met_from_its_value_on():
  ours = [report('ours', [2.0], [5.0])]
  theirs = [report('tunix', [3.0], [8.9])]
  summary = compare_tunix.summarize(ours, theirs)
  assert summary['rollout']['met']  # 1.5x of 1.5x
  assert not summary['step']['met']  # 1.78x of 1.8x
  text = compare_tunix.table(summary)
  assert '1.50x' in text
  assert 'MISSED' in text


@pytest.mark.parametrize('field', ['parameters', 'tokens', 'cores'])
def test_unequal_sides_are_not_compared(field):
  with pytest.raises(ValueError, match=f'differ in {field}'):
    compare_tunix.check_equal(
      report('ours', [1.0], [1.0]), report('tunix', [1.0], [1.0], **{field: 7})
    )


def test_another_version_of_tunix_is_refused(tmp_path, monkeypatch):
  python = tmp_path / 'bin' / 'python'
  python.parent.mkdir()
  python.touch()
  monkeypatch.setattr(compare_tunix, 'installed', lambda *_: '0.1.8')
  with pytest.raises(ValueError, match=r'has google-tunix 0\.1\.8'):
    compare_tunix.tunix_python(tmp_path, '0.10.2')


def test_a_side_that_fails_is_quoted(tmp_path, monkeypatch):
  (tmp_path / 'side.py').write_text('raise SystemExit("no such model")')
  monkeypatch.setattr(compare_tunix, 'HERE', tmp_path)
  flags = compare_tunix.parse_flags([])
  with pytest.raises(RuntimeError, match='no such model'):
    compare_tunix.measure(flags.python, 'side.py', flags)


def test_a_side_runs_pinned_and_its_last_line_is_its_report(
  tmp_path, monkeypatch
):
  (tmp_path / 'side.py').write_text(
    'import json, os, sys\n'
    'print("chatter")\n'
    'print(json.dumps([list(os.sched_getaffinity(0)), sys.argv[1:],'
    ' os.environ["XLA_FLAGS"]]))\n'
  )
  monkeypatch.setattr(compare_tunix, 'HERE', tmp_path)
  flags = compare_tunix.parse_flags(['--rollouts=2', '--steps=1'])
  cores, arguments, xla = compare_tunix.measure(flags.python, 'side.py', flags)
  assert cores == [flags.core]
  assert arguments == ['--rollouts=2', '--steps=1']
  assert xla == compare_tunix.SINGLE_THREAD


def test_the_sides_take_turns_and_everything_is_written(
  tmp_path, monkeypatch, capsys
):
  turns = []

  def measure(python, script, flags):
    turns.append((str(python), script))
    side = script.removesuffix('_side.py')
    seconds = [3.0] if side == 'tunix' else [1.0]
    return report(side, seconds, seconds)

  monkeypatch.setattr(compare_tunix, 'measure', measure)
  monkeypatch.setattr(compare_tunix, 'installed', lambda *_: '0.10.2')
  monkeypatch.setattr(
    compare_tunix, 'tunix_python', lambda *_: pathlib.Path('theirs')
  )
  output = tmp_path / 'new' / 'tunix.json'
  compare_tunix.main(['--python=mine', '--rounds=2', f'--output={output}'])
  sides = [('theirs', 'tunix_side.py'), ('mine', 'our_side.py')]
  assert turns == sides * 2
  written = json.loads(output.read_text())
  assert written['summary']['rollout']['ratio'] == 3.0
  assert (len(written['ours']), len(written['tunix'])) == (2, 2)
  assert '3.00x' in capsys.readouterr().out
