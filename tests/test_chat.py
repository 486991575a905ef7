"""SCoRe from a chat checkpoint: prompts and corrections in its template."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from selfimprove import configuration, generate, train
from selfimprove.data import chat, pipeline
from selfimprove.experiment import Experiment
from selfimprove.ops.keys import named_key
from selfimprove.trained import open_workdir
from tests import commands
from tests.commands import bind
from tests.data import chat_models
from tests.models.test_parity import FAMILIES, make_theirs

pytestmark = pytest.mark.slow
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')


def _flags(folder, *more, chat_form=True):
  form = ['--gin_file=gin_configs/tasks/chat.gin'] if chat_form else []
  return (
    '--gin_file=gin_configs/base.gin',
    '--gin_file=gin_configs/models/hugging_face.gin',
    commands.JSONL,
    '--gin_file=gin_configs/tasks/hugging_face_text.gin',
    *form,
    commands.algorithm('score'),
    *bind(
      f"CHECKPOINT = '{folder}'",
      "hf_config.from_folder.dtype = 'float32'",
      "hf_config.from_folder.remat = 'none'",
      f"TRAIN_FILE = '{folder}/problems.jsonl'",
      'MAX_PROMPT_TOKENS = 256',
      'MAX_ANSWER_TOKENS = 8',
      'ATTEMPT_TOKENS = 9',
      'PROMPTS_PER_STEP = 8',
      'GROUP_SIZE = 2',
      'STAGE_ONE_STEPS = 1',
      'STAGE_TWO_STEPS = 1',
      'experiment.Evaluation.batch_size = 8',
      'experiment.Evaluation.problems = 8',
      *more,
    ),
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A small checkpoint with the shape of Qwen2.5, which has never learned."""
  folder = tmp_path_factory.mktemp('chat')
  name, options, _ = FAMILIES['qwen2']
  make_theirs(
    torch, transformers, name, {**options, 'vocab_size': 512}
  ).save_pretrained(folder)
  chat_models.write(folder)
  rows = [
    {'prompt': f'What is {a} plus {b}?', 'answer': f'{a + b}'}
    for a in range(8)
    for b in range(8)
  ]
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'problems.jsonl').write_text(text, encoding='utf-8')
  return folder


@pytest.fixture(scope='module')
def workdir(folder, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run') / 'workdir'
  commands.run(train, *_flags(folder), f'--workdir={workdir}')
  return workdir


def test_samples_are_conversations_in_the_template(folder, workdir):
  opened = open_workdir(str(workdir))
  task = opened.experiment.task
  table = pipeline.load(task, 'train')
  stage = opened.experiment.stages[1]
  how = stage.algorithm.rollout
  prompts = table.prompts(np.arange(8))
  sampled = jax.device_get(
    jax.jit(lambda how, *args: how(opened.policy, *args))(
      how, opened.params, prompts, named_key(jax.random.key(0), 'rollout')
    )
  )
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  form = task.prompt_form
  for row in range(16):
    ids = sampled.tokens[row][sampled.positions[row] >= 0].tolist()
    fields = table.fields[row // 2]
    asked = {'role': 'user', 'content': form._told(fields['prompt'])}
    begin = theirs.apply_chat_template([asked], add_generation_prompt=True)[
      'input_ids'
    ]
    assert ids[: len(begin)] == begin
    first = sampled.turn[row] == 0
    written = sampled.tokens[row][first].tolist()
    ended = written[-1] == chat_models.ENDS['chatml']
    behind = ids[len(begin) + len(written) :]
    # What the template writes, from the end of the turn on, which the policy
    # wrote itself or was cut before.
    told = how.instruction.tolist()
    wanted = told if ended else [chat_models.ENDS['chatml'], *told]
    assert behind[: len(wanted)] == wanted


def test_the_instruction_is_that_of_the_whole_conversation(folder, workdir):
  opened = open_workdir(str(workdir))
  how = opened.experiment.stages[0].algorithm.rollout
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  text = theirs.decode(how.instruction.tolist(), skip_special_tokens=False)
  assert text.startswith('\n<|im_start|>user\nThe solution above may contain')
  assert text.endswith('<|im_end|>\n<|im_start|>assistant\n')
  assert how.closing.tolist() == [chat_models.ENDS['chatml']]
  assert how.eos_ids.tolist() == [chat_models.ENDS['chatml'], 0]


def test_prompts_that_are_asked_go_through_the_template(workdir):
  opened = open_workdir(str(workdir))
  how = {'samples': 1, 'temperature': 0.0, 'seed': 0}
  ((attempts,),) = generate.generate(opened, ['What is 1 plus 1?'], **how)
  assert len(attempts) == 2


def test_the_config_of_a_chat_run_gives_itself_again(workdir):
  config = workdir / 'config.gin'
  configuration.build(Experiment, files=[str(config)])
  text = config.read_text(encoding='utf-8')
  assert configuration.operative_config() == text


@pytest.mark.parametrize('name', ['grpo', 'sft', 'pair_sft', 'multi_turn'])
def test_other_algorithms_take_the_same_file(folder, name):
  flags = [flag for flag in _flags(folder) if 'STAGE_' not in flag]
  flags = [flag.replace('/score.gin', f'/{name}.gin') for flag in flags]
  if name == 'sft':
    flags = [flag for flag in flags if 'GROUP_SIZE' not in flag]
  commands.run(train, *flags, *bind('STEPS = 1'), '--dry_run')


def test_problems_of_programming_are_asked_in_other_words(folder):
  flags = [f.replace('/chat.gin', '/chat_code.gin') for f in _flags(folder)]
  files = [f.split('=')[1] for f in flags if f.startswith('--gin_file')]
  bindings = [f.split('=', 1)[1] for f in flags if f.startswith('--gin_b')]
  built = configuration.build(Experiment, files=files, bindings=bindings)
  (ids,) = built.task.prompt_ids(['def f(x):'])
  text = built.task.vocabulary.decode(ids.tolist())
  assert 'Python' in text
  assert 'boxed' not in text


def test_a_run_that_bypasses_the_template_says_so(folder):
  flags = _flags(folder, "INSTRUCTION = 'Again?'", chat_form=False)
  with pytest.warns(chat.BypassedChatTemplateWarning, match='plain text'):
    commands.run(train, *flags, '--dry_run')
