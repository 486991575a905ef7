"""Damaged checkpoints: each is read, or refused in a sentence."""

from __future__ import annotations

import json
import random

import jax
import numpy as np
import pytest

from selfimprove.command import USER_ERRORS
from selfimprove.data import chat, chat_template, hf_vocabulary
from selfimprove.data.sentencepiece_vocabulary import (
  CheckpointSentencePieceVocabulary,
)
from selfimprove.models import hf, hf_config, peft
from selfimprove.models.lora import LoRA, make_adapters
from selfimprove.models.transformer import make_policy
from selfimprove.training.state import abstract_params
from tests.data import chat_models
from tests.data.test_sentencepiece_vocabulary import (
  write as write_sentencepiece,
)
from tests.fuzz import junk
from tests.fuzz.test_configs import CONFIGS
from tests.training import tiny

pytestmark = pytest.mark.slow  # Hundreds of files.


def _said(function, *args, **options):
  """What a function says to its user; empty if it does its work."""
  try:
    function(*args, **options)
  except USER_ERRORS as error:
    said = str(error)
  else:
    return ''
  assert junk.is_a_sentence(said), said
  return said


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """The bytes of a checkpoint's parameters, and how they are read."""
  folder = tmp_path_factory.mktemp('weights')
  (folder / 'config.json').write_text(json.dumps(CONFIGS['llama']))
  config = hf_config.from_folder(folder=folder, dtype='float32')
  policy = make_policy(config)
  hf.save(folder, config, policy.init(jax.random.key(0)))
  like = abstract_params(policy, tiny.mesh())
  return folder, lambda: hf.load(folder, config, like=like)


def test_damaged_parameters_are_refused_or_read(weights):
  folder, load = weights
  file = folder / hf.SINGLE_FILE
  whole, rng = file.read_bytes(), random.Random(0)
  assert not _said(load)
  header = int.from_bytes(whole[:8], 'little') + 8
  said = []
  for number in range(300):
    if number % 3 == 0:  # Cut off, as by a full disk.
      file.write_bytes(whole[: rng.randrange(len(whole))])
    else:
      file.write_bytes(junk.damaged(rng, whole[:header]) + whole[header:])
    said.append(_said(load))
  # A changed letter in what nobody reads is no damage.
  assert np.mean([bool(sentence) for sentence in said]) > 0.9


def test_damaged_adapters_are_refused_or_read(weights, tmp_path):
  config = hf_config.from_folder(folder=weights[0], dtype='float32')
  lora = LoRA(rank=2, alpha=4.0, targets='.*')
  adapters = make_adapters(lora, make_policy(config))
  peft.save(
    tmp_path, config, lora, adapters.init(jax.random.key(0)), base='base'
  )
  like = abstract_params(adapters, tiny.mesh())

  def load():
    peft.load(tmp_path, config, lora, like=like)

  assert not _said(load)
  rng, said = random.Random(3), []
  file = tmp_path / peft.TENSORS_FILE
  whole = file.read_bytes()
  header = int.from_bytes(whole[:8], 'little') + 8
  for number in range(60):
    if number % 3 == 0:
      file.write_bytes(whole[: rng.randrange(len(whole))])
    else:
      file.write_bytes(junk.damaged(rng, whole[:header]) + whole[header:])
    said.append(_said(load))
  assert np.mean([bool(sentence) for sentence in said]) > 0.9
  file.write_bytes(whole)
  file = tmp_path / peft.CONFIG_FILE
  fields = json.loads(file.read_text(encoding='utf-8'))
  for _ in range(40):
    file.write_text(json.dumps(junk.changed(rng, fields)))
    said.append(_said(load))
  assert 0.2 < np.mean([bool(sentence) for sentence in said[60:]]) < 1.0


@pytest.mark.parametrize('kind', ['sentencepiece', 'tokenizers'])
def test_a_damaged_config_of_a_tokenizer_is_refused_or_read(tmp_path, kind):
  if kind == 'sentencepiece':
    write_sentencepiece(tmp_path, 'llama')
    vocabulary_cls = CheckpointSentencePieceVocabulary
  else:
    chat_models.write(tmp_path)
    (tmp_path / 'generation_config.json').unlink()
    vocabulary_cls = hf_vocabulary.HuggingFaceVocabulary
  file = tmp_path / 'tokenizer_config.json'
  whole, rng = file.read_bytes(), random.Random(4)
  fields = json.loads(whole)

  def read():
    vocabulary = vocabulary_cls(tmp_path)
    vocabulary.decode(list(vocabulary.encode('What is 2 + 3?')))
    chat_template.find(tmp_path)

  assert not _said(read)
  said = []
  for number in range(300):
    changed = junk.changed(rng, fields)
    if number % 3 == 0:
      added = fields.get('added_tokens_decoder', {})
      changed['added_tokens_decoder'] = junk.changed(rng, added)
    text = json.dumps(changed).encode()
    file.write_bytes(junk.damaged(rng, whole) if number % 3 == 1 else text)
    said.append(_said(read))
  assert 0.2 < np.mean([bool(sentence) for sentence in said]) < 1.0


def test_a_damaged_tokenizer_is_refused_or_read(tmp_path):
  chat_models.write(tmp_path)
  file = tmp_path / hf_vocabulary.TOKENIZER_FILE
  whole, rng = file.read_bytes(), random.Random(1)

  def read():
    vocabulary = hf_vocabulary.HuggingFaceVocabulary(tmp_path)
    vocabulary.decode(list(vocabulary.encode('What is 2 + 3?')))

  assert not _said(read)
  said = []
  for _ in range(200):
    file.write_bytes(junk.damaged(rng, whole))
    said.append(_said(read))
  fields = json.loads(whole)
  for _ in range(200):
    file.write_text(json.dumps(junk.changed(rng, fields)))
    said.append(_said(read))
  assert 0.2 < np.mean([bool(sentence) for sentence in said]) < 1.0


def test_a_damaged_template_is_refused_or_rendered(tmp_path):
  rng, said = random.Random(2), []
  for style in (*chat_models.STYLES, *chat_models.STYLES):
    chat_models.write(tmp_path, style)
    vocabulary = hf_vocabulary.HuggingFaceVocabulary(tmp_path)
    for _ in range(8):
      text = chat_models.STYLES[style].encode()
      damaged = junk.damaged(rng, text).decode('utf-8', 'replace')
      chat_models.write(tmp_path, style, damaged)
      said.append(_said(_converse, tmp_path, vocabulary))
  assert 0.2 < np.mean([bool(sentence) for sentence in said]) < 1.0


def _converse(folder, vocabulary):
  form = chat.ChatPrompts(
    folder=folder, vocabulary=vocabulary, date='2026-01-01'
  )
  form.instruction('Again.')
  form.closing()
