"""A user's own problems, from their file to a trained model."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from selfimprove import evaluate, train
from selfimprove.rewards import pool
from selfimprove.training.checkpoint import restore_params
from selfimprove.training.metrics import read_rows
from tests import commands
from tests.commands import bind

HOST = """
from __gin__ import dynamic_registration
from selfimprove.rewards import answers
from selfimprove.rewards import verifiers
REWARD = @verifiers.HostVerifier()
verifiers.HostVerifier.fn = @answers.exact_text
verifiers.HostVerifier.workers = 1
"""


@pytest.fixture(scope='module')
def problems(tmp_path_factory):
  """Questions about one letter, and a model that has seen the answers."""
  folder = tmp_path_factory.mktemp('problems')
  rows = [
    {'prompt': f'{i}?', 'answer': 'ab'[i % 2], 'source': 'made up'}
    for i in range(64)
  ]
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'problems.jsonl').write_text(lines, encoding='utf-8')
  (folder / 'host.gin').write_text(HOST, encoding='utf-8')
  common = (
    *commands.FILES,
    commands.JSONL,
    *commands.TINY_MODEL,
    *bind(
      f"TRAIN_FILE = '{folder}/problems.jsonl'",
      'MAX_PROMPT_TOKENS = 4',
      'MAX_ANSWER_TOKENS = 2',
      'ATTEMPT_TOKENS = 3',
    ),
  )
  commands.run(
    train,
    *common,
    commands.algorithm('sft'),
    *bind('STEPS = 30', 'LEARNING_RATE = 3e-2'),
    f'--workdir={folder}/base',
  )
  start = f"experiment.Experiment.init_from = '{folder}/base/checkpoints'"
  more = bind('STEPS = 2', "INSTRUCTION = 'Again?'", start)
  return folder, (*common, commands.algorithm('multi_turn'), *more)


@pytest.fixture(scope='module')
def trained(problems):
  """The folders of a run with each kind of reward, and pools left open."""
  folder, flags = problems
  pools = []
  make = pool.VerifierPool.__init__

  def remember(self, *args, **kwargs):
    make(self, *args, **kwargs)
    pools.append(self)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pool.VerifierPool, '__init__', remember)
    commands.run(train, *flags, f'--workdir={folder}/graph')
    commands.run(
      train,
      *flags,
      f'--gin_file={folder}/host.gin',
      f'--workdir={folder}/host',
    )
  return folder, pools


def _rows(folder, name):
  return read_rows(folder / name / 'metrics.jsonl')


@pytest.mark.slow
def test_the_verdicts_on_the_host_train_like_those_in_graph(trained):
  folder, _ = trained
  graph, host = (_rows(folder, name) for name in ('graph', 'host'))
  judged = [row['reward/verifier_t1'] for row in graph if 'loss/kl' in row]
  # Some are right and some are wrong, so that there is something to compare.
  assert all(0 < share < 1 for share in judged)
  for ours, theirs in zip(graph, host, strict=True):
    for name in ours:
      if name not in ('step', 'stage'):
        np.testing.assert_allclose(
          ours[name], theirs[name], rtol=1e-4, atol=1e-6, err_msg=name
        )
  params = [
    restore_params(folder / name / 'checkpoints') for name in ('graph', 'host')
  ]
  for a, b in zip(*(jax.tree.leaves(tree) for tree in params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_what_became_of_the_calls_is_logged(trained):
  folder, _ = trained
  row = _rows(folder, 'host')[0]
  # Eight prompts, eight samples of each, two attempts.
  assert row['reward/verifier_calls'] == 128
  assert row['reward/verifier_failures'] == 0
  assert row['reward/verifier_timeouts'] == 0


@pytest.mark.slow
def test_a_verifier_that_fails_ends_the_run_and_its_sample_is_saved(
  problems, tmp_path
):
  _, flags = problems
  (tmp_path / 'broken.gin').write_text(
    HOST.replace('answers.exact_text', 'misbehaving.act').replace(
      'selfimprove.rewards import answers', 'tests.rewards import misbehaving'
    )
  )
  sentence = commands.refusal(
    train,
    *flags,
    f'--gin_file={tmp_path}/broken.gin',
    f'--workdir={tmp_path}/run',
  )
  path = tmp_path / 'run' / 'verifier_failures.jsonl'
  assert "Verifier 'act' raised KeyError" in sentence
  assert str(path) in sentence
  (row,) = (json.loads(line) for line in path.read_text().splitlines())
  assert row['reference']['source'] == 'made up'
  assert repr(row['attempt']) in sentence


@pytest.mark.slow
def test_the_processes_of_the_verifier_have_ended(trained):
  _, pools = trained
  used = [one for one in pools if one.counts['calls']]
  assert len(used) == 2  # One judges training, one evaluation.
  assert not any(one._running for one in used)


@pytest.mark.slow
def test_the_model_is_measured_with_the_same_verifier(trained, capsys):
  folder, _ = trained
  for name in ('graph', 'host'):
    commands.run(
      evaluate,
      f'--workdir={folder}/{name}',
      '--samples=1',
      f'--output={folder}/{name}.json',
    )
  capsys.readouterr()
  found = [
    json.loads((folder / f'{name}.json').read_text(encoding='utf-8'))
    for name in ('graph', 'host')
  ]
  assert found[0] == found[1]


def test_a_field_that_is_missing_names_file_line_and_field(problems, tmp_path):
  _, flags = problems
  path = tmp_path / 'bad.jsonl'
  path.write_text('{"prompt": "1?", "answer": "b"}\n{"prompt": "2?"}\n')
  sentence = commands.refusal(
    train,
    *flags,
    *bind(f"TRAIN_FILE = '{path}'"),
    f'--workdir={tmp_path}/new',
  )
  assert f"{path}, line 2, field 'answer': is missing" in sentence
