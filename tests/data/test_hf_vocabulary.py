from __future__ import annotations

import json
import os
import types

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from selfimprove.data import hf_vocabulary, vocabularies
from selfimprove.data.hf_vocabulary import HuggingFaceVocabulary
from selfimprove.data.tensorflow_host import tf

HARD = (
  '',
  ' ',
  '   leading and trailing   ',
  'tabs\tand\nnew\r\nlines\n\n',
  '1234567890 12,345.67 1e-9 0x1F',
  'Grüße, Ελλάδα, Привет, 你好, こんにちは, مرحبا',
  'e\u0301 é \u200b\u00a0 ﬁ Å \U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea',
  '<|im_start|>user\nIs this special?<|im_end|>\n',
  '<|im_start |> <|im_end|><|im_end|>!!!!',
  'def f(x):\n    return x ** 2  # ²',
  '\\boxed{\\frac{1}{2}} $x_1 + x_2$ ####  42',
  'an <added> token, and<added>another',
  'a\u3000b\u2028c\x0bd\x85e\ufefff\x00g\x7f',
  '     \n\n\n\t\t \r\n      x\n',
  '٣٤٥ ½ ² ④ 0000000000 1_000',
  'x' * 200 + '\u0301' * 20 + '한국어 ไทย \U0001d54f',
  'in<|im_end|>side <|im_end|> <added><|im_start|><added>',
)
SPECIAL = ['<|end|>', '<|im_start|>', '<|im_end|>']


def _bpe():
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=400,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=SPECIAL,
  )
  made.train_from_iterator(HARD[:12] * 3, trainer)
  return made


def _unigram():
  made = tokenizers.Tokenizer(models.Unigram())
  made.normalizer = normalizers.NFKC()
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  made.decoder = decoders.Metaspace()
  trainer = trainers.UnigramTrainer(
    vocab_size=200, special_tokens=[*SPECIAL, '<unk>'], unk_token='<unk>'
  )
  made.train_from_iterator(HARD[:12] * 3, trainer)
  return made


def write_tokenizer(folder, make=_bpe):
  """What a checkpoint says about its text."""
  made = make()
  made.add_tokens(['<added>'])
  # What nobody shall do with prompts and answers.
  made.enable_truncation(max_length=4)
  made.enable_padding(length=64)
  made.save(str(folder / 'tokenizer.json'))
  (folder / 'generation_config.json').write_text(
    json.dumps({'eos_token_id': [2, 0]}), encoding='utf-8'
  )


@pytest.fixture(scope='module', params=[_bpe, _unigram])
def folder(request, tmp_path_factory):
  """The folder of a checkpoint."""
  folder = tmp_path_factory.mktemp('checkpoint')
  write_tokenizer(folder, request.param)
  return folder


@pytest.fixture(scope='module')
def vocabulary(folder):
  return HuggingFaceVocabulary(folder)


def test_ids_and_texts_are_those_of_the_reference_library(folder, vocabulary):
  transformers = pytest.importorskip('transformers')
  theirs = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(folder / 'tokenizer.json')
  )
  for text in HARD:
    ids = theirs(text, add_special_tokens=False, truncation=False)['input_ids']
    ids = [i for i in ids if i != theirs.pad_token_id]
    assert vocabulary.encode(text) == ids, text
    wanted = theirs.decode(ids, clean_up_tokenization_spaces=False)
    # Special tokens are no part of an answer.
    for special in (*SPECIAL, '<unk>'):
      wanted = wanted.replace(special, '')
    ends = [i for i in ids if i not in (0, 2)]
    assert vocabulary._decode(ends).strip() == wanted.strip(), text


def test_in_the_graph_of_tensorflow_ids_are_the_same(vocabulary):
  for text in HARD:
    ids = vocabulary.encode_tf(tf.constant(text)).numpy().tolist()
    assert ids == list(vocabulary.encode(text))
  ids = tf.constant(vocabulary.encode('plain words'))
  assert b'plain words' in vocabulary.decode_tf(ids).numpy()


def test_what_stands_behind_an_end_is_not_decoded(vocabulary):
  ids = list(vocabulary.encode('plain words'))
  row = [*ids, 2, *ids]
  rows = tf.constant([row, [*ids, 2, *([0] * len(ids))]])
  for text in vocabulary.decode_tf(rows).numpy():
    assert text.decode('utf-8') == vocabulary.decode(row)
  assert vocabulary.decode(row) == vocabulary.decode(ids)


def test_an_answer_ends_at_any_of_its_ends_and_no_token_is_padding(vocabulary):
  assert vocabularies.eos_ids(vocabulary=vocabulary).tolist() == [2, 0]
  ids = list(vocabulary.encode('plain words'))
  for end in (2, 0):
    row = np.asarray([*ids, end, *ids])
    text = vocabularies.decode(row, vocabulary=vocabulary)
    assert text == vocabulary.decode(ids)


def test_what_cannot_be_written_is_refused(vocabulary):
  if vocabulary.unk_id is None:  # Bytes write everything.
    assert vocabularies.encode('\u4e07', vocabulary=vocabulary).size
    return
  with pytest.raises(ValueError, match=r'U.4E07. of .* is not in'):
    vocabularies.encode('\u4e07', vocabulary=vocabulary)


def test_the_size_is_that_of_the_largest_id(folder, vocabulary):
  found = json.loads((folder / 'tokenizer.json').read_text(encoding='utf-8'))
  added = max(token['id'] for token in found['added_tokens'])
  assert vocabularies.size(vocabulary=vocabulary) >= added + 1
  assert vocabulary.encode('<added>')[-1] == added


def test_what_is_written_in_the_file_makes_two_equal(folder, vocabulary):
  again = HuggingFaceVocabulary(str(folder))
  assert again == vocabulary
  assert hash(again) == hash(vocabulary)
  assert again != object()


@pytest.mark.parametrize(
  ('files', 'ends'),
  [
    ({'config.json': {'eos_token_id': 1}}, (1,)),
    ({'tokenizer_config.json': {'eos_token': '<|im_end|>'}}, (2,)),
    (
      {'tokenizer_config.json': {'eos_token': {'content': '<|end|>'}}},
      (0,),
    ),
    (
      {
        'generation_config.json': {'eos_token_id': 2},
        'config.json': {'eos_token_id': 1},
      },
      (2,),
    ),
  ],
)
def test_the_end_of_an_answer_is_found_where_it_is_said(tmp_path, files, ends):
  _bpe().save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(ValueError, match='which token ends an answer'):
    HuggingFaceVocabulary(tmp_path)
  for name, fields in files.items():
    (tmp_path / name).write_text(json.dumps(fields), encoding='utf-8')
  assert HuggingFaceVocabulary(tmp_path).eos_ids == ends


@pytest.mark.parametrize('ends', [[], [-1], [10_000], ['<|end|>'], [True]])
def test_ends_that_are_no_ids_are_refused(tmp_path, ends):
  write_tokenizer(tmp_path)
  path = tmp_path / 'generation_config.json'
  path.write_text(json.dumps({'eos_token_id': ends}), encoding='utf-8')
  with pytest.raises(ValueError, match='ends an answer, and its tokenizer'):
    HuggingFaceVocabulary(tmp_path)


def test_files_that_cannot_be_read_are_named(tmp_path):
  write_tokenizer(tmp_path)
  for text, sentence in (('[]', 'no JSON object'), ('{', 'is no JSON')):
    path = tmp_path / 'generation_config.json'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(ValueError, match=rf'generation_config.*{sentence}'):
      HuggingFaceVocabulary(tmp_path)
  (tmp_path / 'tokenizer.json').write_text('{"model"', encoding='utf-8')
  with pytest.raises(ValueError, match=r'tokenizer\.json is no tokenizer'):
    HuggingFaceVocabulary(tmp_path)


def test_a_file_that_stays_the_same_is_parsed_once(tmp_path, monkeypatch):
  parsed = []

  def from_str(text):
    parsed.append(text)
    return tokenizers.Tokenizer.from_str(text)

  library = types.SimpleNamespace(
    Tokenizer=types.SimpleNamespace(from_str=from_str)
  )
  monkeypatch.setattr(hf_vocabulary, 'tokenizers', library)
  write_tokenizer(tmp_path)
  path = tmp_path / 'tokenizer.json'
  # Text that no other test has written.
  text = path.read_text(encoding='utf-8') + ' ' * 7
  path.write_text(text, encoding='utf-8')
  one, other = (HuggingFaceVocabulary(tmp_path) for _ in range(2))
  assert len(parsed) == 1
  assert one.encode('<added>') == other.encode('<added>')
  # A new file of the same name, size and time is read anew.
  changed = text.replace('<added>', '<ADDED>')
  times = path.stat().st_atime_ns, path.stat().st_mtime_ns
  path.write_text(changed, encoding='utf-8')
  os.utime(path, ns=times)
  after = HuggingFaceVocabulary(tmp_path)
  assert len(parsed) == 2
  assert after != one
  assert after.encode('<ADDED>') == one.encode('<added>')
  # What ends an answer is not in that file.
  (tmp_path / 'generation_config.json').write_text('{"eos_token_id": 1}')
  assert HuggingFaceVocabulary(tmp_path).eos_ids == (1,)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no .*tokenizer\.json'):
    HuggingFaceVocabulary(tmp_path)
