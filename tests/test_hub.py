"""Checkpoints that are named and not there."""

from __future__ import annotations

import fnmatch
import json
import sys
import types
import typing

import huggingface_hub
import jax
import pytest

from selfimprove import export, hub
from selfimprove.data import chat_template
from selfimprove.models import hf, hf_config
from selfimprove.models.lora import LoRA, make_adapters
from selfimprove.models.transformer import make_policy
from selfimprove.trained import Trained

FIELDS = {
  'model_type': 'llama',
  'vocab_size': 7,
  'num_hidden_layers': 1,
  'hidden_size': 8,
  'num_attention_heads': 2,
  'intermediate_size': 8,
  'rms_norm_eps': 1e-6,
  'hidden_act': 'silu',
}
ON_THE_HUB = (
  'config.json',
  'model-00001-of-00002.safetensors',
  'model.safetensors.index.json',
  'tokenizer.json',
  'tokenizer.model',
  'chat_template.jinja',
  'additional_chat_templates/rag.jinja',
  'LICENSE',
)
NEVER = (
  'pytorch_model.bin',
  'pytorch_model-00001-of-00002.bin',
  'model.pt',
  'model.pth',
  'training_args.bin',
  'weights.pkl',
  'original/params.json',
  'original/consolidated.00.pth',
  'onnx/model.onnx',
  'modeling_own.py',
  'onnx/config.json',
  'onnx/model.safetensors',
  'other/chat_template.jinja',
  'additional_chat_templates/more/rag.jinja',
  'additional_chat_templates/rag.py',
  'LICENSES/all.bin',
)


@pytest.fixture
def asked(tmp_path, monkeypatch):
  """What is asked of a hub that has one checkpoint."""
  text = json.dumps(FIELDS)
  (tmp_path / 'config.json').write_text(text, encoding='utf-8')
  requests = []

  def snapshot_download(name, **options):
    requests.append((name, options))
    if name != 'org/model-1.5B':
      raise huggingface_hub.errors.LocalEntryNotFoundError('no such\nthing')
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot_download)
  hub._fetched.cache_clear()
  yield requests
  hub._fetched.cache_clear()


def test_a_name_is_fetched_once_and_read_like_a_folder(asked, tmp_path):
  assert hub.local_folder('org/model-1.5B') == str(tmp_path)
  assert hf.is_checkpoint('org/model-1.5B')
  assert hf_config.from_folder(folder='org/model-1.5B').embed_dim == 8
  assert [name for name, _ in asked] == ['org/model-1.5B']
  hub.local_folder('org/model-1.5B@a1b2')
  assert [options['revision'] for _, options in asked] == [None, 'a1b2']


def test_the_template_of_a_name_is_that_of_its_folder(asked, tmp_path):
  fields = {'bos_token': '<bos>', 'chat_template': 'its own'}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(fields))
  assert chat_template.exists('org/model-1.5B')
  found = chat_template.find('org/model-1.5B')
  assert found is not None
  assert found.source == 'its own'
  assert chat_template.special_tokens('org/model-1.5B') == found.variables
  assert found.variables == {'bos_token': '<bos>'}


def test_only_weights_text_and_their_descriptions_are_asked_for(asked):
  hub.local_folder('org/model-1.5B')
  options = asked[0][1]

  def wanted(name):
    allowed, ignored = (
      any(fnmatch.fnmatch(name, pattern) for pattern in options[kind])
      for kind in ('allow_patterns', 'ignore_patterns')
    )
    return allowed and not ignored

  assert [name for name in (*ON_THE_HUB, *NEVER) if wanted(name)] == [
    *ON_THE_HUB
  ]


@pytest.mark.parametrize('name', ['.', '/gone/here', 'a/b/c', 'gone', '../a'])
def test_what_is_no_name_of_the_hub_stays_as_it_is(asked, name):
  assert hub.local_folder(name) == name
  assert not asked


def test_a_folder_comes_before_the_hub(asked, tmp_path, monkeypatch):
  (tmp_path / 'org' / 'model-1.5B').mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  assert hub.local_folder('org/model-1.5B') == 'org/model-1.5B'
  assert not asked


def test_a_path_that_is_wrong_is_not_asked_of_the_hub(
  asked, tmp_path, monkeypatch
):
  (tmp_path / 'org').mkdir()
  monkeypatch.chdir(tmp_path)
  with pytest.raises(
    FileNotFoundError, match=r'no org/model-1\.5B, and the folder org is here'
  ):
    hf.is_checkpoint('org/model-1.5B')
  assert not asked
  # What the sentence says to do if the hub is meant.
  assert hub.local_folder('org/model-1.5B@main') == str(tmp_path)


def test_what_is_asked_of_the_hub_is_said(asked, caplog):
  hub.local_folder('org/model-1.5B@a1b2')
  (record,) = caplog.records
  assert record.levelname == 'WARNING'
  assert record.getMessage().startswith('org/model-1.5B is no folder here;')
  assert 'asking https://' in record.getMessage()
  assert record.getMessage().endswith('for its revision a1b2.')


def test_name_and_revision_are_told_apart(tmp_path):
  assert hub.name_and_revision('org/model@v1.0') == ('org/model', 'v1.0')
  assert hub.name_and_revision('org/model') == ('org/model', None)
  assert hub.name_and_revision(tmp_path) == (str(tmp_path), None)


def test_templates_that_have_a_name_are_exported(tmp_path):
  source, output = tmp_path / 'source', tmp_path / 'output'
  (source / 'additional_chat_templates' / 'more').mkdir(parents=True)
  for name in ('rag.jinja', 'rag.py', 'more/rag.jinja'):
    (source / 'additional_chat_templates' / name).write_text('its text')
  (source / 'config.json').write_text(json.dumps(FIELDS))
  config = hf_config.to_transformer(FIELDS, dtype='float32')
  trained = types.SimpleNamespace(
    experiment=types.SimpleNamespace(model=config),
    params=make_policy(config).init(jax.random.key(0)),
  )
  export.export(typing.cast(Trained, trained), str(output), source=str(source))
  copied = sorted((output / 'additional_chat_templates').rglob('*'))
  assert [path.name for path in copied] == ['rag.jinja']
  found = chat_template.find(output, name='rag')
  assert found is not None
  assert found.source == 'its text'


def test_adapters_name_the_checkpoint_and_its_revision(tmp_path):
  peft = pytest.importorskip('peft')
  config = hf_config.to_transformer(FIELDS, dtype='float32')
  lora = LoRA(rank=2, alpha=4.0, targets='.*query')
  adapters = make_adapters(lora, make_policy(config)).init(jax.random.key(0))
  trained = types.SimpleNamespace(
    experiment=types.SimpleNamespace(model=config, lora=lora), adapters=adapters
  )
  export.export_adapters(
    typing.cast(Trained, trained), str(tmp_path / 'out'), source='org/m@a1b2'
  )
  read = peft.PeftConfig.from_pretrained(tmp_path / 'out')
  assert (read.base_model_name_or_path, read.revision) == ('org/m', 'a1b2')


def test_what_the_hub_does_not_give_is_one_sentence(asked):
  with pytest.raises(ValueError, match=r'org/other is no folder here.*such\);'):
    hf_config.read_config('org/other')


def test_without_the_extra_the_command_that_installs_it_is_said(
  asked, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(ValueError, match=r"pip install 'selfimprove\[hub\]'"):
    hub.local_folder('org/model-1.5B')
