"""The ledger, without its training."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import threading
import time
import types

import pytest

from experiments import pages, runs
from experiments.ledger import arms, conversations, report, run, sweep, work
from selfimprove import configuration, train
from selfimprove.experiment import Experiment

PAIRS = [(arms.TASKS[name], arm) for arm in arms.ARMS for name in arm.tasks]


def row(algorithm='grpo', task='facts', seed=1, **fields):
  usual = {
    'tokens': 100,
    'accuracy': 0.5,
    'pass_at_8': 0.75,
    'delta': None,
    'seconds': 2.0,
  }
  return {'algorithm': algorithm, 'task': task, 'seed': seed} | usual | fields


@pytest.mark.parametrize(
  ('task', 'arm'), PAIRS, ids=[f'{t.name}-{a.name}' for t, a in PAIRS]
)
def test_every_arm_is_built_with_all_of_its_bindings(task, arm):
  experiment = configuration.build(
    Experiment,
    files=[f'{arms.HERE}/arm.gin', task.file, arm.file],
    bindings=[
      *work.arm_bindings(task, arm, seed=3, rate=1e-3, init_from='base'),
      f'toys.{task.name}.problems = 400',
    ],
  )
  (stage,) = experiment.unrolled()
  assert stage.advance.total == task.budget
  assert stage.prompts_per_step == task.prompts
  assert stage.algorithm.rollout.group_size == task.group
  assert experiment.seed == 3
  assert experiment.init_from == 'base'


@pytest.mark.parametrize('task', arms.TASKS.values(), ids=arms.TASKS)
def test_a_base_model_learns_from_what_is_shown(task):
  experiment = configuration.build(
    Experiment,
    files=[f'{arms.HERE}/base_model.gin', task.file],
    bindings=[
      *work.base_bindings(task, seed=3),
      f'toys.{task.name}.problems = 400',
    ],
  )
  assert experiment.stages[0].steps == task.base_steps
  rows, _ = experiment.task.read('train')
  # A reference of a task would be one and the same for a key.
  assert len({row.fields['answer'] for row in rows}) > 90


def test_names_of_arms_are_used_once():
  names = [arm.name for arm in arms.ARMS]
  assert len(set(names)) == len(names)
  assert work.BASE not in names


def test_a_finished_run_is_read_and_not_made_again(tmp_path, monkeypatch):
  task, arm = arms.TASKS['facts'], arms.ARMS[0]
  job = sweep.Job(task='facts', arm=arm.name, seed=7, rate=1e-3)
  assert not sweep.done(str(tmp_path), job)
  folder = tmp_path / 'facts' / 'seed_7' / f'{arm.name}_0.001'
  folder.mkdir(parents=True)
  (folder / 'row.json').write_text(json.dumps(row(seed=7)))
  monkeypatch.setattr(work, '_train', lambda *_: pytest.fail('trained'))
  assert sweep.done(str(tmp_path), job)
  assert sweep.perform(str(tmp_path), job) == row(seed=7)
  with pytest.raises(pytest.fail.Exception, match='trained'):
    work.arm_row(str(tmp_path), task, arm, seed=8, rate=1e-3)


def test_a_run_that_was_stopped_is_not_measured(tmp_path, monkeypatch):
  task = arms.TASKS['facts']
  stop = lambda *_: types.SimpleNamespace(step=3)  # noqa: E731
  monkeypatch.setattr(train, 'start', stop)
  extra = {'cursor': {'stage': 0, 'stage_step': 3, 'condition': {}}}
  monkeypatch.setattr(runs, 'read_extra', lambda *_, **__: extra)
  with pytest.raises(SystemExit, match='at step 3; the same command goes on'):
    work.arm_row(str(tmp_path), task, arms.ARMS[0], seed=1, rate=1e-3)
  assert not list(tmp_path.rglob('row.json'))


def test_tokens_are_those_of_all_steps_and_of_what_was_thrown_away(tmp_path):
  lines = [
    {'step': 1, 'rollout/tokens': 30.0, 'reward/verifier_t1': 1.0},
    # Of the 10 samples of this step's rounds one fifth was right.
    {
      'step': 2,
      'rollout/tokens': 10.0,
      'reward/verifier_t1': 0.9,
      'collect/accuracy': 0.2,
    },
    {'step': 2, 'eval/acc_t1': 0.4},
  ]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (tmp_path / 'metrics.jsonl').write_text(text, encoding='utf-8')
  found = work._spent(str(tmp_path))
  assert found == {'tokens': 40, 'steps': 2, 'along': (30 * 1 + 10 * 0.2) / 40}


@pytest.mark.parametrize(
  ('task', 'field'), [('facts', 'accuracy'), ('decisions', 'along')]
)
def test_the_best_rate_is_the_highest_by_what_the_task_is_about(task, field):
  def job(arm, rate):
    return sweep.Job(task=task, arm=arm, seed=1, rate=rate)

  (other,) = {'accuracy', 'along'} - {field}
  tried = {
    job('a', 1e-3): row(**{field: 0.2, other: 0.7}),
    job('a', 2e-3): row(**{field: 0.6, other: 0.1}),
    job('a', 4e-3): row(**{field: 0.5, other: 0.9}),
    job('b', 1e-3): row(**{field: 0.1, other: 0.1}),
  }
  assert run._best(tried) == {(task, 'a'): 2e-3, (task, 'b'): 1e-3}


def test_new_rows_replace_the_old_ones_of_their_arm_alone():
  before = [
    row(seed=1),
    row(seed=2),
    row(algorithm='score', task='answer_first', seed=1, delta=0.3),
  ]
  found = report.merged(before, [row(seed=3)])
  assert [(r['algorithm'], r['seed']) for r in found] == [
    ('score', 1),
    ('grpo', 3),
  ]


def test_a_row_of_the_ledger_has_its_fields_and_no_others():
  found = report.ledger_row(row(entropy=0.3, by_kind={}))
  assert tuple(found) == report.FIELDS


def test_a_table_has_means_with_standard_errors_over_seeds():
  rows = [
    row(seed=1, accuracy=0.5, by_kind={'easy': 1.0, 'hard': 0.0}),
    row(seed=2, accuracy=0.7, by_kind={'easy': 1.0, 'hard': 0.4}),
  ]
  header, _, line = report.tables(rows).splitlines()[2:]
  cells = [
    dict(zip(header.split('|'), line.split('|'), strict=True))[f' {name} ']
    for name in ('accuracy %', 'hard %', 'seeds')
  ]
  # s = .1414 and .2828 over two seeds: s/√2 = .1 and .2.
  assert [cell.strip() for cell in cells] == ['60.0 ± 10.0', '20.0 ± 20.0', '2']


def test_the_words_around_the_tables_stay(tmp_path):
  page = tmp_path / 'results.md'
  page.write_text(
    f'Before.\n{pages.BEGIN}\nold\n{pages.END}\nAfter.\n', encoding='utf-8'
  )
  for _ in range(2):
    pages.renew(page, report.tables([row()]))
    text = page.read_text(encoding='utf-8')
    assert text.startswith('Before.\n')
    assert text.endswith('\nAfter.\n')
    assert text.count('### `facts`') == 1
    assert 'old' not in text
  page.write_text('Without marks.', encoding='utf-8')
  with pytest.raises(ValueError, match='put them where the tables'):
    pages.renew(page, report.tables([row()]))


def test_an_unknown_arm_is_refused():
  with pytest.raises(Exception, match=r'no task or arm .*gropo'):
    run._chosen(['facts'], ['gropo'])


def made(arm, folder, seed, *, right=0.6):
  usual = dict.fromkeys(('i_to_c', 'c_to_i', 'pass_at_8', 'seconds'), 0.5)
  return {
    **usual,
    'arm': arm,
    'seed': seed,
    'steps': 3,
    'acc_t1': 0.2,
    'acc_t2': right,
    'delta': right - 0.2,
    'tokens': 70,
    'folder': folder,
  }


@pytest.fixture
def talks(monkeypatch):
  """Arms that are right the more often, the lower their learning rate is."""

  def score(folder, seed):
    return [made(arm, folder, seed) for arm in conversations.STAGES]

  def baseline(folder, arm, seed, bindings=(), name=''):
    right = {'LEARNING_RATE = 0.00025': 0.7, 'LEARNING_RATE = 0.001': 0.1}
    found = right[bindings[0]] if bindings else 0.5
    return [made(arm, f'{folder}/{name}', seed, right=found)]

  monkeypatch.setattr(conversations.arms, 'score', score)
  monkeypatch.setattr(conversations.arms, 'baseline', baseline)


def test_conversations_are_rows_of_the_ledger(tmp_path, talks):
  rates = dict.fromkeys(conversations.NAMES, 5e-4)
  found = conversations.rows(str(tmp_path), seed=11, rates=rates)
  assert [r['algorithm'] for r in found] == [*conversations.NAMES]
  assert found[2]['accuracy'] == 0.6
  assert [row['tokens'] for row in found[:3]] == [0, 70, 70]
  assert found[0]['learning_rate'] is None
  assert found[2]['learning_rate'] == 5e-4
  assert all(
    report.ledger_row(r)['delta'] == pytest.approx(r['accuracy'] - 0.2)
    for r in found
  )
  assert 'acc@t1 %' in report.tables(found)


def test_the_arms_of_conversations_have_their_own_best_rates(tmp_path, talks):
  best = conversations.best_rates(str(tmp_path), seed=1, names=['pair_sft'])
  assert best == {'score_stage_two': 2.5e-4, 'pair_sft': 2.5e-4}
  found = conversations.rows(
    str(tmp_path), seed=11, rates=best, names=['pair_sft']
  )
  assert [(r['algorithm'], r['accuracy']) for r in found[2:]] == [
    ('score_stage_two', 0.7),
    ('pair_sft', 0.7),
  ]


def _slowly(workdir, job):
  pathlib.Path(workdir, f'begun_{job.seed}').touch()
  time.sleep(0.3)
  return {'accuracy': 0.0}


@pytest.mark.slow  # A process that imports what the runs need.
def test_what_is_stopped_finishes_what_has_begun_and_begins_no_more(tmp_path):
  jobs = [
    sweep.Job(task='decisions', arm='grpo', seed=seed, rate=1.0)
    for seed in range(20)
  ]
  timer = threading.Thread(target=_stop_when_begun, args=(tmp_path,))
  # As the command does; of a process in the background, SIGINT is ignored.
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  flags = os.environ['XLA_FLAGS']
  timer.start()
  try:
    with pytest.raises(KeyboardInterrupt):
      _performed(tmp_path, jobs)
  finally:
    signal.signal(signal.SIGTERM, before)
  begun = len([*tmp_path.glob('begun_*')])
  assert 1 <= begun <= 4  # The pool has handed on one or two besides.
  # What was set for the runs is not left to processes of others.
  assert os.environ['XLA_FLAGS'] == flags


def _performed(folder, jobs):
  with sweep.processes(str(folder), count=1, make=_slowly) as perform:
    perform(jobs)


def _stop_when_begun(folder):
  while not [*folder.glob('begun_*')]:
    time.sleep(0.01)
  os.kill(os.getpid(), signal.SIGTERM)
