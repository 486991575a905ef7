"""Checkpoints of every family, on published formats, from train to export."""

from __future__ import annotations

import contextlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from selfimprove import evaluate, export, train
from selfimprove.models import hf
from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.single import Single
from selfimprove.trained import open_workdir
from selfimprove.training.metrics import METRICS_FILE, read_rows
from selfimprove.types import Prompts
from tests import chat_checkpoints, commands
from tests.commands import bind
from tests.data import published_files as files

pytestmark = pytest.mark.slow
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

STEPS, NEW = 20, 24
# Every family with every task, and with every algorithm.
RUNS = [
  ('qwen2', 'gsm8k', 'score'),
  ('qwen2', 'math', 'sft'),
  ('qwen2', 'reasoning_gym', 'grpo'),
  ('qwen3', 'gsm8k', 'grpo'),
  ('qwen3', 'math', 'score'),
  ('qwen3', 'reasoning_gym', 'sft'),
  ('llama', 'gsm8k', 'sft'),
  ('llama', 'math', 'grpo'),
  ('llama', 'reasoning_gym', 'score'),
  ('gemma2', 'gsm8k', 'score'),
  ('gemma3', 'math', 'sft'),
  ('gemma3', 'reasoning_gym', 'grpo'),
]


class StopsAfter:
  """A request to stop that comes after some looks at it."""

  reason = 'the test'

  def __init__(self, looks):
    self.left = looks

  @property
  def requested(self):
    self.left -= 1
    return self.left < 0


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """Folders of data sets in the formats of their authors."""
  folder = tmp_path_factory.mktemp('data')
  files.write(folder / 'gsm8k/train.jsonl', files.gsm8k(80))
  files.write(folder / 'gsm8k/test.jsonl', files.gsm8k(8, first=100))
  files.write(folder / 'math/data/train-0.parquet', files.math_500(80))
  test = files.math_500(8, first=90)
  files.write(folder / 'math/data/test-0.parquet', test)
  return folder


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  """Family -> folder of a small checkpoint, made once."""
  made = {}

  def of(family):
    if family not in made:
      made[family] = tmp_path_factory.mktemp(family)
      chat_checkpoints.save(torch, transformers, made[family], family)
    return made[family]

  return of


def _flags(folder, data, task, algorithm):
  names = ('base', 'models/hugging_face', f'tasks/{task}')
  last = ('tasks/hugging_face_text', 'tasks/chat', f'algorithms/{algorithm}')
  where = {
    'gsm8k': [f"GSM8K_DATA = '{data}/gsm8k'"],
    'math': [f"MATH_DATA = '{data}/math'"],
    'reasoning_gym': ['PROBLEMS = 128', "PARAMETERS = {'max_terms': 2}"],
  }
  steps = [f'STEPS = {STEPS}', 'GROUP_SIZE = 2']
  if algorithm == 'score':
    steps = [
      f'STAGE_ONE_STEPS = {STEPS // 2}',
      f'STAGE_TWO_STEPS = {STEPS // 2}',
      'GROUP_SIZE = 2',
    ]
  if algorithm == 'sft':
    steps = steps[:1]
  else:
    # No answer is right by chance; who does not end is rewarded, to have some
    # attempts that are better than others.
    steps.append('verifiers.HostVerifier.unfinished = 1.0')
  return (
    *(f'--gin_file=gin_configs/{name}.gin' for name in (*names, *last)),
    *bind(
      f"CHECKPOINT = '{folder}'",
      "chat.ChatPrompts.date = '2026-01-01'",
      "hf_config.from_folder.dtype = 'float32'",
      "hf_config.from_folder.remat = 'none'",
      'PROMPTS_PER_STEP = 8',
      'MAX_PROMPT_TOKENS = 640',
      'ATTEMPT_TOKENS = 40',
      'MAX_ANSWER_TOKENS = 39',
      'experiment.Evaluation.batch_size = 8',
      'experiment.Evaluation.problems = 8',
      *where[task],
      *steps,
    ),
  )


@pytest.mark.parametrize(
  ('family', 'task', 'algorithm'), RUNS, ids=['-'.join(run) for run in RUNS]
)
def test_a_checkpoint_is_trained_resumed_evaluated_and_exported(
  family, task, algorithm, checkpoint, data, tmp_path, monkeypatch, capsys
):
  folder, workdir = checkpoint(family), tmp_path / 'run'
  flags = (*_flags(folder, data, task, algorithm), f'--workdir={workdir}')
  with monkeypatch.context() as patched:
    patched.setattr(
      train,
      'stop_on_signals',
      lambda: contextlib.nullcontext(StopsAfter(STEPS // 2)),
    )
    commands.run(train, *flags)
  stopped = max(map(int, os.listdir(workdir / 'checkpoints')))
  assert 0 < stopped < STEPS
  commands.run(train, *flags)
  rows = read_rows(str(workdir / METRICS_FILE))
  losses = {r['step']: r['loss/total'] for r in rows if 'loss/total' in r}
  assert sorted(losses) == [*range(1, STEPS + 1)]
  assert np.isfinite([*losses.values()]).all()
  commands.run(evaluate, f'--workdir={workdir}', '--split=test')
  assert 'acc_t1' in capsys.readouterr().out
  output = tmp_path / 'exported'
  commands.run(export, f'--workdir={workdir}', f'--output={output}')
  _writes_the_same(open_workdir(str(workdir)), output, folder)


def _writes_the_same(trained, output, began):
  """Ours and theirs write the same tokens, with what has been learned."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(12, 400, (2, 9)).astype(np.int32)
  prompts = Prompts(
    tokens=jnp.asarray(tokens),
    mask=jnp.ones(tokens.shape, bool),
    example_id=jnp.arange(2, dtype=jnp.int32),
    answer=jnp.zeros((2, 1), jnp.int32),
    answer_mask=jnp.zeros((2, 1), bool),
    extra={},
  )
  how = Single(
    eos_ids=(511,),
    sampling=Sampling(temperature=0.0),
    group_size=1,
    max_new_tokens=NEW,
  )
  policy = trained.experiment.models().policy
  made = jax.jit(lambda p: how(policy, p, prompts, jax.random.key(0)))(
    trained.params
  )
  ours = np.asarray(made.tokens)[:, -NEW:]
  np.testing.assert_array_equal(ours, _theirs(output, tokens))
  name = hf.SINGLE_FILE
  before, after = load_file(began / name), load_file(output / name)
  assert any((before[key] != after[key]).any() for key in before)


def _theirs(folder, tokens):
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  ).eval()
  with torch.no_grad():
    made = model.generate(
      torch.tensor(tokens, dtype=torch.long),
      do_sample=False,
      max_new_tokens=NEW,
      eos_token_id=511,
      pad_token_id=0,
    )
  return made.numpy()[:, -NEW:]
