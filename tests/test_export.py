"""From a Hugging Face checkpoint to one, through `train` and `export`."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfimprove import evaluate, export, generate, train
from selfimprove.models import hf, hf_config
from selfimprove.models.transformer import make_policy
from selfimprove.rollout.decode import Sampling
from selfimprove.rollout.single import Single
from selfimprove.trained import open_workdir
from selfimprove.training.state import abstract_params
from selfimprove.types import Prompts
from tests import commands
from tests.commands import bind, refusal
from tests.data.test_hf_vocabulary import write_tokenizer
from tests.models.test_parity import FAMILIES, make_theirs
from tests.training import tiny

pytestmark = pytest.mark.slow
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')


def _flags(folder, *more):
  return (
    '--gin_file=gin_configs/base.gin',
    '--gin_file=gin_configs/models/hugging_face.gin',
    commands.JSONL,
    '--gin_file=gin_configs/tasks/hugging_face_text.gin',
    commands.algorithm('sft'),
    *bind(
      f"CHECKPOINT = '{folder}'",
      "hf_config.from_folder.dtype = 'float32'",
      "hf_config.from_folder.remat = 'none'",
      f"TRAIN_FILE = '{folder}/problems.jsonl'",
      'MAX_PROMPT_TOKENS = 24',
      'MAX_ANSWER_TOKENS = 8',
      'ATTEMPT_TOKENS = 9',
      'PROMPTS_PER_STEP = 8',
      'STEPS = 2',
      'experiment.Evaluation.batch_size = 16',
      *more,
    ),
  )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run from a checkpoint, and the checkpoint."""
  folder = tmp_path_factory.mktemp('theirs')
  name, options, _ = FAMILIES['qwen3']
  options = {**options, 'vocab_size': 512}
  make_theirs(torch, transformers, name, options).save_pretrained(folder)
  write_tokenizer(folder)
  rows = [
    {'prompt': f'What is {a} plus {b}?\n', 'answer': f'It is {a + b}.'}
    for a in range(12)
    for b in range(12)
  ]
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'problems.jsonl').write_text(text, encoding='utf-8')
  (folder / 'pytorch_model.bin').write_bytes(b'not to be read')
  workdir = tmp_path_factory.mktemp('run') / 'workdir'
  commands.run(train, *_flags(folder), f'--workdir={workdir}')
  return folder, workdir


def _greedy(policy, params, tokens):
  how = Single(
    eos_ids=(36,),
    sampling=Sampling(temperature=0.0),
    group_size=1,
    max_new_tokens=16,
  )
  prompts = Prompts(
    tokens=jnp.asarray(tokens, jnp.int32),
    mask=jnp.ones(tokens.shape, bool),
    example_id=jnp.arange(len(tokens), dtype=jnp.int32),
    answer=jnp.zeros((len(tokens), 1), jnp.int32),
    answer_mask=jnp.zeros((len(tokens), 1), bool),
    extra={},
  )
  made = jax.jit(lambda p: how(policy, p, prompts, jax.random.key(0)))(params)
  return np.asarray(made.tokens[:, tokens.shape[1] :])


def test_what_was_trained_says_the_same_in_transformers(trained, tmp_path):
  folder, workdir = trained
  output = tmp_path / 'exported'
  commands.run(export, f'--workdir={workdir}', f'--output={output}')
  for file in ('tokenizer.json', 'generation_config.json'):
    assert (output / file).read_bytes() == (folder / file).read_bytes()
  assert {path.name for path in output.iterdir()} == {
    'config.json',
    'generation_config.json',
    'tokenizer.json',
    'model.safetensors',
  }
  theirs = transformers.AutoModelForCausalLM.from_pretrained(output).eval()
  before = transformers.AutoModelForCausalLM.from_pretrained(folder)
  moved = [
    not torch.equal(a, b)
    for a, b in zip(theirs.parameters(), before.parameters(), strict=True)
  ]
  assert any(moved)
  opened = open_workdir(str(workdir))
  tokens = np.random.default_rng(0).integers(2, 30, (3, 6))
  ours = _greedy(opened.policy, opened.params, tokens)
  for row in range(3):
    text = list(tokens[row])
    for token in ours[row]:
      with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([text])).logits[0, -1]
      assert int(logits.argmax()) == token
      text.append(int(token))
      if token == 36:
        break


def test_an_export_begins_another_run(trained, tmp_path):
  _, workdir = trained
  output = tmp_path / 'exported'
  commands.run(export, f'--workdir={workdir}', f'--output={output}')
  config = hf_config.from_folder(folder=output, dtype='float32', remat='none')
  like = abstract_params(make_policy(config), tiny.mesh())
  jax.tree.map(
    np.testing.assert_array_equal,
    hf.load(output, config, like=like),
    jax.device_get(open_workdir(str(workdir)).params),
  )


def test_what_cannot_be_exported_is_refused(trained, tmp_path):
  _, workdir = trained
  assert 'No --output given' in refusal(export, f'--workdir={workdir}')
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'file').touch()
  flags = f'--workdir={workdir}', f'--output={tmp_path}/full'
  assert 'is not empty' in refusal(export, *flags)
  other = tmp_path / 'other'
  name, options, _ = FAMILIES['llama']
  make_theirs(torch, transformers, name, options).save_pretrained(other)
  flags = f'--workdir={workdir}', f'--output={tmp_path}/new'
  sentence = refusal(export, *flags, f'--source={other}')
  assert 'the model' in sentence
  assert not (tmp_path / 'new').exists()


LORA = (
  '--gin_file=gin_configs/models/lora.gin',
  *bind(
    'LORA_RANK = 4',
    "LORA_TARGETS = 'attention/(query|value)|mlp/down'",
    'LEARNING_RATE = 0.05',
  ),
)


@pytest.fixture(scope='module')
def adapted(trained, tmp_path_factory):
  """A run of adapters of the same checkpoint."""
  workdir = tmp_path_factory.mktemp('lora') / 'workdir'
  flags = [*_flags(trained[0]), f'--workdir={workdir}']
  at = flags.index(commands.JSONL)
  commands.run(train, *flags[:at], *LORA, *flags[at:])
  return trained[0], workdir


@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_adapters_say_the_same_merged_and_in_peft(adapted, tmp_path, capsys):
  peft = pytest.importorskip('peft')
  folder, workdir = adapted
  flags = f'--workdir={workdir}', f'--output={tmp_path}/merged'
  commands.run(export, *flags)
  flags = f'--workdir={workdir}', f'--output={tmp_path}/adapters'
  commands.run(export, *flags, '--adapters')
  assert {path.name for path in (tmp_path / 'adapters').iterdir()} == {
    'adapter_config.json',
    'adapter_model.safetensors',
  }
  read = transformers.AutoModelForCausalLM.from_pretrained
  tokens = torch.arange(2, 32).reshape(3, 10)
  with torch.no_grad():
    merged = read(tmp_path / 'merged').eval()(input_ids=tokens).logits
    loaded = peft.PeftModel.from_pretrained(read(folder), tmp_path / 'adapters')
    said = loaded.eval()(input_ids=tokens).logits
    plain = read(folder).eval()(input_ids=tokens).logits
  assert float((said - plain).abs().max()) > 0.05
  assert float((said - merged).abs().max()) < 1e-4
  opened = open_workdir(str(workdir))
  positions = jnp.broadcast_to(jnp.arange(10)[None, :], (3, 10))
  with jax.set_mesh(opened.mesh):
    hidden, _ = jax.jit(opened.policy.apply)(
      opened.params, jnp.asarray(tokens.numpy(), jnp.int32), positions
    )
    ours = opened.policy.unembed(opened.params, hidden)
  np.testing.assert_allclose(ours, said.numpy(), atol=1e-4)


def test_a_run_of_adapters_is_measured_and_answers(adapted, tmp_path, capsys):
  _, workdir = adapted
  path = tmp_path / 'measured.json'
  flags = f'--workdir={workdir}', f'--output={path}'
  commands.run(evaluate, *flags, '--samples=1', '--split=validation')
  assert json.loads(path.read_text(encoding='utf-8'))
  commands.run(generate, f'--workdir={workdir}', '--prompt=What is 1 plus 2?')
  assert 'attempt 1' in capsys.readouterr().out


def test_adapters_begin_another_run(adapted, tmp_path):
  folder, workdir = adapted
  adapters = tmp_path / 'adapters'
  flags = f'--workdir={workdir}', f'--output={adapters}'
  commands.run(export, *flags, '--adapters')
  flags = [
    *_flags(folder, f"experiment.Experiment.adapters_from = '{adapters}'"),
    f'--workdir={tmp_path}/run',
  ]
  assert 'this run has no adapters' in refusal(train, *flags)
  at = flags.index(commands.JSONL)
  still = bind('LEARNING_RATE = 1e-12')
  commands.run(train, *flags[:at], *LORA, *flags[at:], *still)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9),
    open_workdir(f'{tmp_path}/run').adapters,
    open_workdir(str(workdir)).adapters,
  )


def test_a_run_without_adapters_has_none_to_export(trained, tmp_path):
  flags = f'--workdir={trained[1]}', f'--output={tmp_path}/new', '--adapters'
  assert 'has no adapters; export it without' in refusal(export, *flags)


def test_a_folder_without_a_config_is_refused(tmp_path):
  sentence = refusal(train, *_flags(tmp_path), f'--workdir={tmp_path}/run')
  assert 'config.json' in sentence
