"""Sweeps without training: spaces, plans, tables, processes that pretend."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import gin
import pytest
from absl import flags

from experiments.score_math import sweep as score_math
from experiments.score_self_correction import sweep as score
from experiments.sweeps import (
  command,
  local,
  locks,
  plan,
  space,
  table,
  unchanged,
)
from experiments.sweeps.plan import Sweep
from selfimprove import command as selfimprove_command
from selfimprove import configuration
from selfimprove.configuration import ConfigError
from selfimprove.experiment import Experiment

FILE = 'experiments/score_self_correction/run.gin'


def make(**fields):
  usual = {
    'files': (FILE,),
    'points': space.product(
      space.axis('ALPHA', (0.0, 10.0)), space.axis('SEED', (1, 2, 3))
    ),
  }
  return Sweep(**{**usual, **fields})


def row(**metrics):
  return {'steps': 3, 'seconds': 2.0, 'metrics': {'acc_t1': 0.5, **metrics}}


def remember(workdir, run, found):
  folder = pathlib.Path(plan.folder(str(workdir), run))
  folder.mkdir(parents=True, exist_ok=True)
  (folder / plan.ROW_FILE).write_text(json.dumps(found), encoding='utf-8')


# Spaces.


def test_a_product_of_zips_has_every_pair_once():
  points = space.product(
    space.zipped(space.axis('A', (1, 2)), space.axis('B', (3, 4))),
    space.axis('SEED', (7, 8)),
  )
  assert [tuple(point.values()) for point in points] == [
    (1, 3, 7),
    (1, 3, 8),
    (2, 4, 7),
    (2, 4, 8),
  ]


@pytest.mark.parametrize(
  'value',
  [3, -1.5, 1e-30, True, None, "it's", (), (1,), [1, 'a'], {'k': (0.5, None)}],
)
def test_gin_reads_a_value_as_it_was(value):
  gin.clear_config()
  (line,) = space.bindings({'VALUE': value})
  gin.parse_config(line)
  read = gin.query_parameter('VALUE/gin.macro.value')
  gin.clear_config()
  assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), {1, 2}, object])
def test_a_value_that_gin_cannot_say_is_refused(value):
  with pytest.raises(ValueError, match='cannot be bound in a sweep'):
    space.axis('A', (value,))


def test_what_cannot_be_combined_is_refused():
  one, two = space.axis('A', (1,)), space.axis('B', (1, 2))
  with pytest.raises(ValueError, match='A is on two axes'):
    space.product(one, one)
  with pytest.raises(ValueError, match=r'\[1, 2\] points cannot be zipped'):
    space.zipped(one, two)
  with pytest.raises(ValueError, match="axis 'A' has no values"):
    space.axis('A', ())


# Plans.


def test_a_run_has_one_name_for_ever_and_no_other_run_has_it():
  names = [run.name for run in plan.runs(make())]
  assert len({*names}) == 6
  assert names == [run.name for run in plan.runs(make())]
  others = [
    make(files=('gin_configs/base.gin',)),
    make(bindings=('KL_WEIGHT = 0.1',)),
    make(split='validation'),
    make(samples=8),
  ]
  for other in others:
    assert not {*names} & {run.name for run in plan.runs(other)}
  # A column more measures nothing again; a point more leaves others alone.
  assert names == [run.name for run in plan.runs(make(metrics=('delta',)))]
  more = make(points=(*space.axis('SEED', (9,)), *make().points))
  assert names == [run.name for run in plan.runs(more)][1:]


def test_names_are_those_of_folders():
  long = space.axis('loop.Schedule.name', ('../x y/' * 40,))
  (run,) = plan.runs(make(points=long))
  assert re.fullmatch(r'[\w.+-]{1,90}', run.name)
  assert run.name.startswith('name_')


def test_a_sweep_that_contradicts_itself_is_refused():
  with pytest.raises(ConfigError, match='no points'):
    plan.runs(make(points=()))
  with pytest.raises(ConfigError, match='2 times; keep one'):
    plan.runs(make(points=(*space.axis('A', (1,)), *space.axis('A', (1,)))))
  with pytest.raises(ConfigError, match=r'`ALPHA = 1` is for all runs, and'):
    plan.runs(make(bindings=('ALPHA = 1',)))


def test_gin_files_may_not_change_under_a_sweep(tmp_path):
  inner, outer = tmp_path / 'inner.gin', tmp_path / 'outer.gin'
  inner.write_text('A = 1\n', encoding='utf-8')
  outer.write_text(f"# One.\ninclude '{inner}'\n", encoding='utf-8')
  check = lambda: unchanged.check(  # noqa: E731
    str(tmp_path / 'sweep'), make(files=(str(outer),))
  )
  check()
  outer.write_text(f"# Two.\n\ninclude '{inner}'\n", encoding='utf-8')
  check()
  inner.write_text('A = 2\n', encoding='utf-8')
  check()
  remember(tmp_path / 'sweep', plan.runs(make())[0], row())
  check()
  inner.write_text('A = 3\n', encoding='utf-8')
  with pytest.raises(ConfigError, match=r'inner\.gin changed since runs of'):
    check()
  with pytest.raises(ConfigError, match=r"no gin file 'nowhere\.gin'"):
    unchanged.check(str(tmp_path), make(files=('nowhere.gin',)))


@pytest.mark.parametrize('sweep', [score.SWEEP, score_math.SWEEP])
def test_the_sweeps_of_the_experiments_are_planned(sweep):
  runs = plan.runs(sweep)
  assert len(runs) in (18, 27)
  text = pathlib.Path(configuration.ROOT, sweep.files[0]).read_text()
  assert 'include ' in text


def test_the_points_of_a_sweep_are_bindings_of_its_run():
  last = score.SWEEP.points[-1]
  experiment = configuration.build(
    Experiment,
    files=score.SWEEP.files,
    bindings=[*space.bindings(last), 'tasks.answer_first.problems = 512'],
  )
  assert experiment.seed == last['SEED'] == 13


# Tables.


def test_a_line_is_a_mean_over_seeds_and_says_how_many_there_are():
  sweep, runs = make(), plan.runs(make())
  values = (0.5, 0.7, 0.6, 0.1)
  rows = {
    run.name: row(acc_t1=value)
    for run, value in zip(runs, values, strict=False)
  }
  head, _, one, two = table.table(sweep, runs, rows).splitlines()
  assert head.split() == ['ALPHA', 'acc_t1', '%', 'steps', 'seconds', 'seeds']
  # s = 0.1, over the root of three.
  assert re.split(r'  +', one) == [
    '0.0',
    '60.0 ± 5.8',
    '3.0 ± 0.0',
    '2.0 ± 0.0',
    '3',
  ]
  assert re.split(r'  +', two) == ['10.0', '10.0', '3.0', '2.0', '1 of 3']
  found = table.results(sweep, runs, rows)
  assert [p['seeds'] for p in found['points']] == [[1, 2, 3], [1]]
  assert found['points'][0]['acc_t1'].mean == pytest.approx(0.6)
  assert len(found['runs']) == 4


def test_what_has_no_value_has_no_mean():
  sweep, runs = make(metrics=('delta',)), plan.runs(make())
  rows = {run.name: row(delta=None) for run in runs}
  assert table.table(sweep, runs, rows).splitlines()[2].split()[1] == '-'
  assert '-' in table.table(sweep, runs, {})
  with pytest.raises(ConfigError, match=r"asks for \['acc_t9'\], and its runs"):
    table.check_metrics(make(metrics=('acc_t9',)), row())


# Locks.


def test_a_second_one_waits_for_the_first_or_is_refused(tmp_path):
  path = str(tmp_path / 'deep' / 'x.lock')
  with (
    locks.alone(path, refusal='Busy.'),
    pytest.raises(ConfigError, match=r'^Busy\.$'),
    locks.alone(path, refusal='Busy.'),
  ):
    pytest.fail('both are in')
  let_go = threading.Event()

  def hold():
    with locks.alone(path, refusal='Busy.'):
      let_go.set()
      time.sleep(0.3)

  thread = threading.Thread(target=hold)
  thread.start()
  let_go.wait()
  with locks.alone(path, refusal='Busy.', patience=60):
    thread.join()


# Processes that pretend to train.

WORKER = """
import json, os, pathlib, signal, sys, time
folder, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
def stop(*_):
  (folder / 'checkpoint').touch()
  sys.exit('Stopped.')
signal.signal(signal.SIGTERM, stop)
(folder / 'begun').write_text(str(time.time()))
(folder / 'devices').write_text(os.environ.get('CUDA_VISIBLE_DEVICES', ''))
if seed == 2:
  print('first word')
  sys.exit('Error: no luck.')
time.sleep(float(sys.argv[3]))
row = {'steps': 3, 'seconds': 1.0, 'metrics': {'acc_t1': seed / 10}}
(folder / 'row.json').write_text(json.dumps(row))
(folder / 'ended').write_text(str(time.time()))
"""


@pytest.fixture
def pretended(monkeypatch):
  """A function that says how long a run takes."""

  def take(seconds):
    monkeypatch.setattr(
      local,
      'command',
      lambda run, workdir: [
        sys.executable,
        '-c',
        WORKER,
        plan.folder(workdir, run),
        str(run.point['SEED']),
        str(seconds),
      ],
    )

  return take


def _options(*given):
  options = flags.FlagValues()
  command.define_flags(options)
  options(['sweep', *given])
  return options


def _run(sweep, *given):
  selfimprove_command.finish(
    lambda options: command.main(sweep, options), _options(*given)
  )


def test_a_run_that_fails_is_shown_and_stops_no_other(
  pretended, tmp_path, capfd
):
  pretended(0.1)
  sweep = make(points=space.axis('SEED', (1, 2, 3, 4)))
  with pytest.raises(SystemExit, match=r'^Error: 1 of 4 runs failed; the same'):
    _run(sweep, f'--workdir={tmp_path}', '--jobs=2')
  out, err = capfd.readouterr()
  assert re.search(
    r'Failed: seed_2-\w+ ended with status 1; .*log.txt ends with:\n'
    r' +first word\n +Error: no luck\.\n',
    err,
  )
  assert '3 of 4 runs finished' in out
  # (.1 + .3 + .4) / 3; s = .1528, over the root of three.
  assert '26.7 ± 8.8' in out
  found = json.loads((tmp_path / command.RESULTS_FILE).read_text())
  assert found['points'][0]['seeds'] == [1, 3, 4]
  begun = {p.parent.name: p.read_text() for p in tmp_path.glob('*/begun')}
  with pytest.raises(SystemExit, match='1 of 4 runs failed'):
    _run(sweep, f'--workdir={tmp_path}', '--jobs=2')
  for path in tmp_path.glob('*/begun'):
    again = path.read_text() != begun[path.parent.name]
    assert again == path.parent.name.startswith('seed_2')


def test_as_many_run_at_a_time_as_were_asked_for(pretended, tmp_path):
  pretended(0.3)
  sweep = make(points=space.axis('SEED', (1, 3, 4, 5)))
  _run(
    sweep, f'--workdir={tmp_path}', '--jobs=2', '--devices=0', '--devices=1,2'
  )
  times = [
    (float(p.read_text()), float((p.parent / 'ended').read_text()))
    for p in tmp_path.glob('*/begun')
  ]
  at_once = [sum(b <= begun < e for b, e in times) for begun, _ in times]
  assert max(at_once) == 2
  devices = [p.read_text() for p in tmp_path.glob('*/devices')]
  assert {*devices} == {'0', '1,2'}


def _signal_when(path, pattern, *numbers):
  def send():
    while not [*path.glob(pattern)]:
      time.sleep(0.01)
    for number in numbers:
      os.kill(os.getpid(), number)
      time.sleep(0.3)

  thread = threading.Thread(target=send)
  thread.start()
  return thread


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_waits_for_checkpoints(
  number, pretended, tmp_path
):
  pretended(60)
  thread = _signal_when(tmp_path, '*/devices', number)
  with pytest.raises(SystemExit, match='Stopped; the same command goes on'):
    _run(make(), f'--workdir={tmp_path}')
  thread.join()
  assert len([*tmp_path.glob('*/begun')]) == 1  # No other is begun.
  assert len([*tmp_path.glob('*/checkpoint')]) == 1


def test_a_second_interrupt_waits_for_nobody(tmp_path, monkeypatch):
  deaf = 'import signal, sys, time; signal.signal(15, signal.SIG_IGN);'
  monkeypatch.setattr(
    local,
    'command',
    lambda run, workdir: [
      sys.executable,
      '-c',
      f'{deaf} open({plan.folder(workdir, run)!r} + "/begun", "w");'
      ' time.sleep(99)',
    ],
  )
  thread = _signal_when(tmp_path, '*/begun', signal.SIGINT, signal.SIGINT)
  began = time.monotonic()
  with pytest.raises(SystemExit, match='Left at once'):
    _run(make(), f'--workdir={tmp_path}')
  thread.join()
  assert time.monotonic() - began < 30


def test_a_column_that_no_run_has_ends_the_sweep_at_the_first_run(
  pretended, tmp_path
):
  pretended(0.05)
  with pytest.raises(SystemExit, match=r"Error: The sweep asks for \['acc_t9"):
    _run(make(metrics=('acc_t9',)), f'--workdir={tmp_path}')
  assert len([*tmp_path.glob('*/row.json')]) == 1


# The command.


def test_a_dry_run_lists_runs_that_can_be_pasted(tmp_path, capsys):
  sweep = make(points=space.axis('NAME', ("it's",)) + space.axis('SEED', (5,)))
  remember(tmp_path, plan.runs(sweep)[1], row())
  before = sorted(tmp_path.rglob('*'))
  _run(sweep, '--dry_run', f'--workdir={tmp_path}', '--gin_bindings=STEPS = 3')
  assert sorted(tmp_path.rglob('*')) == before
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == '2 runs'
  said = subprocess.run(
    ['bash', '-c', lines[2].replace('python', 'printf "%s\\n"', 1)],
    capture_output=True,
    text=True,
    check=False,
  ).stdout
  assert '--gin_bindings=NAME = "it\'s"\n' in said
  assert '--gin_bindings=STEPS = 3\n' in said
  _run(sweep, '--dry_run', f'--workdir={tmp_path}')
  out = capsys.readouterr().out
  assert out.count(': finished') == 1


def test_collecting_begins_nothing(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(local, 'perform', lambda *_, **__: pytest.fail('begun'))
  remember(tmp_path, plan.runs(make())[0], row())
  _run(make(), '--collect', f'--workdir={tmp_path}')
  assert '1 of 6 runs finished' in capsys.readouterr().out


def test_collecting_shows_a_sweep_that_has_no_run_yet(tmp_path, capsys):
  # Its jobs are in the queue.
  unchanged.check(str(tmp_path), make())
  _run(make(), '--collect', f'--workdir={tmp_path}')
  assert '0 of 6 runs finished' in capsys.readouterr().out


@pytest.mark.parametrize('launcher', command.LAUNCHERS)
def test_without_a_sweep_nothing_is_collected_nor_written(launcher, tmp_path):
  for workdir in (tmp_path / 'absent', tmp_path):
    with pytest.raises(SystemExit, match=f'^Error: No sweep is in {workdir}, '):
      _run(
        make(), '--collect', f'--workdir={workdir}', f'--launcher={launcher}'
      )
  assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
  ('given', 'sentence'),
  [
    ([], r'No --workdir given; name a folder\.'),
    (['--option=nodes=2'], r'--option=nodes=2 is for --launcher=slurm'),
    (['--devices=0', '--jobs=2'], r'--devices is given 1 times for --jobs=2'),
    (['--gin_bindings=SEED = 1'], r'`SEED = 1` is for all runs, and the sweep'),
  ],
)
def test_a_flag_that_cannot_be_used_is_refused(given, sentence, tmp_path):
  where = [f'--workdir={tmp_path}'] if given else []
  with pytest.raises(SystemExit, match=f'^Error: .*{sentence}'):
    _run(make(), *where, *given)


def test_two_sweeps_do_not_share_a_workdir(tmp_path):
  with (
    locks.alone(f'{tmp_path}/sweep.lock', refusal=''),
    pytest.raises(SystemExit, match='Error: Another sweep is running in'),
  ):
    _run(make(), f'--workdir={tmp_path}')


@pytest.mark.slow  # A process that imports what the command needs.
def test_who_starts_runs_leaves_the_accelerator_to_them():
  program = (
    'import jax\n'
    'from experiments.score_math.sweep import SWEEP\n'
    'from experiments.sweeps import command, plan\n'
    'plan.runs(SWEEP)\n'
    'from jax._src import xla_bridge\n'
    'assert not xla_bridge._backends\n'
  )
  subprocess.run([sys.executable, '-c', program], check=True)
