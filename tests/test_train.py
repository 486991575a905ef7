from __future__ import annotations

import dataclasses
import re

import pytest

from selfimprove import configuration, evaluate, train
from selfimprove.experiment import Experiment, check_judged
from selfimprove.rewards.mathematics import MathAnswer
from selfimprove.rewards.verifiers import ExactMatch, HostVerifier
from selfimprove.training import lock
from selfimprove.training.buckets import Files
from selfimprove.training.finite import START_AGAIN
from selfimprove.training.metrics import read_rows
from tests import commands
from tests.commands import TINY_RUN, bind, refusal
from tests.conformance import built
from tests.training import tiny


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """The folder of a run that has ended."""
  folder = tmp_path_factory.mktemp('run') / 'workdir'
  commands.run(train, *TINY_RUN, f'--workdir={folder}')
  return folder


def test_a_run_leaves_config_checkpoint_and_metrics(workdir):
  found = {path.name for path in workdir.iterdir()}
  wanted = {'config.gin', 'checkpoints', 'metrics.jsonl', 'timing.jsonl'}
  assert wanted | {'tensorboard', 'running.lock'} == found
  rows = read_rows(workdir / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [1, 2, 2]
  assert 'loss/policy' in rows[0]
  assert 'eval/acc_t2' in rows[2]


def test_the_config_of_a_run_is_a_gin_file_that_describes_it(workdir):
  path = str(workdir / 'config.gin')
  experiment = configuration.build(Experiment, files=[path])
  assert experiment.unrolled()[0].steps == 2
  text = (workdir / 'config.gin').read_text(encoding='utf-8')
  assert configuration.operative_config() == text


def test_the_same_command_again_says_that_it_is_done(workdir, capfd):
  before = (workdir / 'metrics.jsonl').read_bytes()
  commands.run(train, *TINY_RUN, f'--workdir={workdir}')
  out, err = capfd.readouterr()
  assert 'This run is already done, at step 2; nothing is left to train.' in err
  last = out.splitlines()[-1]
  assert last.startswith(f'Checkpoint: {workdir}/checkpoints/2; metrics: ')
  assert f'{workdir}/metrics.jsonl' in last
  assert f'python -m selfimprove.evaluate --workdir={workdir}' in last
  assert (workdir / 'checkpoints' / '2').is_dir()
  assert (workdir / 'metrics.jsonl').read_bytes() == before


def test_a_workdir_of_another_config_is_refused(workdir):
  sentence = refusal(
    train, *TINY_RUN, *bind('SEED = 1'), f'--workdir={workdir}'
  )
  assert re.search(
    r'another config: it has `SEED = 0`, .* `SEED = 1`', sentence
  )


def _refused(tmp_path, *arguments):
  return refusal(train, *TINY_RUN, *arguments, f'--workdir={tmp_path}/new')


def test_an_unknown_name_is_refused(tmp_path):
  sentence = _refused(tmp_path, *bind('revize.Revise.group_size = 2'))
  assert 'revize' in sentence


def test_an_unknown_parameter_is_refused(tmp_path):
  sentence = _refused(tmp_path, *bind('stages.Stage.stepps = 2'))
  assert 'stepps' in sentence


def test_a_macro_that_nothing_uses_is_refused(tmp_path):
  sentence = _refused(tmp_path, *bind('STEPZ = 2'))
  assert 'Nothing uses the binding `STEPZ`' in sentence


def test_a_scope_that_nothing_enters_is_refused(tmp_path):
  sentence = _refused(tmp_path, *bind('stage_three/stages.Stage.steps = 2'))
  assert '`stage_three/' in sentence


def test_a_missing_gin_file_is_refused(tmp_path):
  sentence = _refused(tmp_path, '--gin_file=gin_configs/algorithms/skore.gin')
  assert "no gin file 'gin_configs/algorithms/skore.gin'" in sentence


def test_a_line_that_is_no_gin_is_refused(tmp_path):
  sentence = _refused(tmp_path, *bind('SEED == 1'))
  assert sentence == (
    "Error: Binding `SEED == 1`: Couldn't parse statement, expected ':' or '='."
  )


@pytest.mark.parametrize(
  ('missing', 'given'),
  [('STEPS', "INSTRUCTION = '?'"), ('INSTRUCTION', 'STEPS = 1')],
)
def test_a_required_macro_that_is_not_given_is_named(missing, given, tmp_path):
  sentence = refusal(
    train,
    *commands.FILES,
    commands.SUMS,
    commands.algorithm('multi_turn'),
    *bind(given),
    f'--workdir={tmp_path}',
  )
  assert missing in sentence
  assert 'gin_bindings' in sentence


def test_a_missing_workdir_is_refused():
  assert 'No --workdir given' in refusal(train, *TINY_RUN)


def test_no_config_at_all_is_refused(tmp_path):
  assert 'No gin file is given' in refusal(train, f'--workdir={tmp_path}')


def test_a_missing_data_file_is_refused(tmp_path):
  sentence = refusal(
    train,
    *commands.FILES,
    commands.JSONL,
    commands.algorithm('reinforce'),
    *bind('STEPS = 1', "TRAIN_FILE = '/nowhere/problems.jsonl'"),
    f'--workdir={tmp_path}/new',
  )
  assert '/nowhere/problems.jsonl' in sentence


def test_problems_without_token_exact_answers_are_refused_by_exact_match():
  table = tiny.table()
  check_judged(ExactMatch(eos_ids=(1,)), table)
  check_judged(tiny.Evenness(), table)
  blank = type(table)(
    **{**vars(table), 'answer_mask': table.answer_mask & False}
  )
  check_judged(tiny.Evenness(), blank)
  with pytest.raises(ValueError, match='None of the 12 problems has a token-'):
    check_judged(ExactMatch(eos_ids=(1,)), blank)


def test_a_row_that_its_verifier_cannot_read_is_refused_before_the_run():
  table = tiny.table()
  fields = [{'answer': '5'} for _ in table.fields]
  fields[3] = {'answer': ''}
  unreadable = type(table)(**{**vars(table), 'fields': tuple(fields)})
  check_judged(HostVerifier(fn=MathAnswer()), table)
  with pytest.raises(ValueError, match=r'Row 3 of 12 .*holds no answer'):
    check_judged(HostVerifier(fn=MathAnswer()), unreadable)


def test_training_refuses_problems_that_cannot_be_judged(tmp_path, monkeypatch):
  load = train.pipeline.load

  def blank(task, split):
    table = load(task, split)
    table.answer_mask[:] = False
    return table

  monkeypatch.setattr(train.pipeline, 'load', blank)
  assert 'has a token-exact answer' in _refused(tmp_path)


def test_a_dry_run_shows_config_shapes_parameters_and_memory(tmp_path, capsys):
  commands.run(train, *TINY_RUN, '--dry_run')
  shown = capsys.readouterr().out
  assert 'STEPS = 2' in shown  # The resolved config.
  assert re.search(r'embedder/table +float32\[15, 8\]', shown)
  # 15·8 embedding, 2·8·8 queries and outputs, 2·8·8 keys and values, 3·8·16
  # feed-forward, 3·8 norms: without the feed-forward gate it would be 600.
  assert 'parameters: 784' in shown
  assert 'prompts [8, 3] -> rollout [32, 12]' in shown
  assert re.search(r'memory of the update on a device: [\d.]+ MiB', shown)
  assert not list(tmp_path.iterdir())


def test_a_second_run_in_a_workdir_in_use_is_refused(workdir):
  with lock.exclusive(workdir):
    sentence = refusal(train, *TINY_RUN, f'--workdir={workdir}')
  assert f'Another process is training in {workdir};' in sentence


def test_what_failed_before_the_first_checkpoint_may_be_corrected(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(train, 'train', lambda *_: 1 / 0)
  for seed in (0, 1):
    with pytest.raises(ZeroDivisionError):
      commands.run(
        train, *TINY_RUN, *bind(f'SEED = {seed}'), f'--workdir={tmp_path}'
      )
    assert f'SEED = {seed}' in (tmp_path / 'config.gin').read_text('utf-8')
  (tmp_path / 'checkpoints' / '2').mkdir(parents=True)
  assert 'another config' in refusal(train, *TINY_RUN, f'--workdir={tmp_path}')


def test_the_model_to_begin_with_is_not_needed_to_go_on(workdir):
  # A first start would read it: there is nothing.
  gone = f"experiment.Experiment.init_from = '{workdir}/gone'"
  experiment = configuration.build(
    Experiment, files=[str(workdir / 'config.gin')], bindings=[gone]
  )
  assert (
    int(train.train(experiment, str(workdir), Files(str(workdir))).step) == 2
  )
  with pytest.raises(FileNotFoundError, match='gone'):
    train.train(experiment, str(workdir / 'new'), Files(str(workdir / 'new')))


def test_a_run_does_not_go_on_with_other_problems(workdir, monkeypatch):
  load = train.pipeline.load

  def other(task, split):
    table = load(task, split)
    table.answer_ids[:1] += 1
    return table

  monkeypatch.setattr(train.pipeline, 'load', other)
  sentence = refusal(train, *TINY_RUN, f'--workdir={workdir}')
  assert 'The training problems have changed since the checkpoint' in sentence


def test_rows_that_were_left_out_are_reported(workdir, monkeypatch, capfd):
  load = train.pipeline.load

  def fewer(task, split):
    dropped = {'answer: missing': 3, 'row: not JSON': 1}
    return dataclasses.replace(load(task, split), dropped=dropped)

  monkeypatch.setattr(train.pipeline, 'load', fewer)
  commands.run(train, *TINY_RUN, f'--workdir={workdir}')
  err = capfd.readouterr().err
  assert re.search(r'Split train has \d+ problems; left out: 4 \(', err)
  assert re.search(r'Split validation has .* missing: 3, row: not JSON: 1', err)
  commands.run(evaluate, f'--workdir={workdir}', '--samples=1')
  assert 'Split test has ' in capfd.readouterr().err


def test_the_advice_after_a_failure_is_a_binding_that_is_accepted():
  binding = re.search(r'\((.*)\)', START_AGAIN)[1]
  flags = [flag for flag in TINY_RUN if flag.startswith('--gin_bindings=')]
  experiment = built.build(
    'gin_configs/algorithms/multi_turn.gin',
    *(flag.split('=', 1)[1] for flag in flags),
    binding,
    asked=False,
  )
  assert experiment.init_from == '<this workdir>/checkpoints'
