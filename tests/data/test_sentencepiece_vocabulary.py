from __future__ import annotations

import io
import json

import numpy as np
import pytest
import sentencepiece

from selfimprove import hub
from selfimprove.data import vocabularies
from selfimprove.data.chat import ChatPrompts
from selfimprove.data.sentencepiece_vocabulary import (
  CheckpointSentencePieceVocabulary,
)
from selfimprove.data.tensorflow_host import tf
from tests.data import chat_models
from tests.data.test_hf_vocabulary import HARD

PLAIN = [text for text in HARD if '<|im_' not in text and '<added>' not in text]
ADDED = '<|im_end|>'
STYLES = {
  # As Llama 2 and as Gemma made theirs.
  'llama': {'control_symbols': ['<pad>']},
  'gemma': {
    'add_dummy_prefix': False,
    'user_defined_symbols': ['<start_of_turn>', '<end_of_turn>', '\n\n'],
    'pad_id': 0,
    'eos_id': 1,
    'bos_id': 2,
    'unk_id': 3,
    'bos_piece': '<bos>',
    'eos_piece': '<eos>',
  },
}


def write(folder, style):
  """Trains a model and writes it as a checkpoint has it."""
  made = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter((*HARD, *chat_models.TEXTS) * 4),
    model_writer=made,
    model_type='bpe',
    vocab_size=480,
    byte_fallback=True,
    split_digits=True,
    allow_whitespace_only_pieces=True,
    remove_extra_whitespaces=False,
    normalization_rule_name='identity',
    minloglevel=2,
    **STYLES[style],
  )
  (folder / 'tokenizer.model').write_bytes(made.getvalue())
  size = sentencepiece.SentencePieceProcessor(
    model_proto=made.getvalue()
  ).GetPieceSize()
  token = {
    'content': ADDED,
    'special': True,
    'lstrip': False,
    'rstrip': False,
    'normalized': False,
    'single_word': False,
  }
  (folder / 'tokenizer_config.json').write_text(
    json.dumps(
      {
        'tokenizer_class': 'LlamaTokenizer',
        'bos_token': '<bos>' if style == 'gemma' else '<s>',
        'eos_token': '<eos>' if style == 'gemma' else '</s>',
        'unk_token': '<unk>',
        'added_tokens_decoder': {str(size): token},
      }
    )
  )
  return folder


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return {s: write(tmp_path_factory.mktemp(s), s) for s in STYLES}


@pytest.fixture(params=STYLES)
def folder(folders, request):
  return folders[request.param]


@pytest.fixture
def vocabulary(folder):
  return CheckpointSentencePieceVocabulary(folder)


@pytest.fixture
def library(folder):
  return sentencepiece.SentencePieceProcessor(
    model_file=str(folder / 'tokenizer.model')
  )


def test_ids_and_texts_are_those_of_the_library(vocabulary, library):
  for text in PLAIN:
    ids = list(vocabulary.encode(text))
    assert ids == library.EncodeAsIds(text), text
    assert vocabulary._decode(ids) == library.DecodeIds(ids) == text


def test_bytes_stand_for_what_has_no_piece(vocabulary, library):
  ids = vocabulary.encode('\u4e07')
  assert [library.IsByte(i) for i in ids[-3:]] == [True] * 3
  assert vocabulary._decode(ids) == '\u4e07'
  assert vocabularies.encode('\u4e07', vocabulary=vocabulary).size
  with pytest.raises(ValueError, match=r'character .*U.D800'):
    vocabularies.encode('a\ud800', vocabulary=vocabulary)


def test_special_tokens_are_those_of_the_reference_library(folders):
  transformers = pytest.importorskip('transformers')
  theirs = transformers.AutoTokenizer.from_pretrained(folders['llama'])
  ours = CheckpointSentencePieceVocabulary(folders['llama'])
  for text in (
    *HARD,
    '</s>hello',
    'in</s>side </s> <s>x',
    f'What?{ADDED}\nuser\n{ADDED} {ADDED}{ADDED}  two',
  ):
    # Where a text begins with a space, the reference and the library differ in
    # whether another is put before it; plain texts are as in the library.
    text = text.lstrip()
    ids = theirs(text, add_special_tokens=False)['input_ids']
    assert list(ours.encode(text)) == ids, text
    shown = theirs.decode(ids, skip_special_tokens=True)
    assert ours._decode(ids) == shown, text


def test_what_is_added_is_one_token_wherever_it_stands(vocabulary, library):
  size = library.GetPieceSize()
  assert vocabularies.size(vocabulary=vocabulary) == size + 1
  ids = list(vocabulary.encode(f'a{ADDED}b'))
  assert ids.count(size) == 1
  assert vocabulary._decode(ids) == 'ab'


def test_in_the_graph_of_tensorflow_ids_are_the_same(vocabulary):
  for text in HARD:
    ids = vocabulary.encode_tf(tf.constant(text)).numpy().tolist()
    assert ids == list(vocabulary.encode(text))
  ids = tf.constant(vocabulary.encode('plain words'))
  assert vocabulary.decode_tf(ids).numpy() == b'plain words'


def test_an_answer_ends_where_the_checkpoint_says_so(folders, tmp_path):
  for style, end in (('llama', 2), ('gemma', 1)):
    vocabulary = CheckpointSentencePieceVocabulary(folders[style])
    assert vocabularies.eos_ids(vocabulary=vocabulary).tolist() == [end]
  write(tmp_path, 'gemma')
  path = tmp_path / 'generation_config.json'
  path.write_text('{"eos_token_id": [1, 5]}')
  vocabulary = CheckpointSentencePieceVocabulary(tmp_path)
  assert vocabulary.eos_ids == (1, 5)
  ids = list(vocabulary.encode('plain words'))
  text = vocabularies.decode(np.asarray([*ids, 5, *ids]), vocabulary=vocabulary)
  assert text == 'plain words'
  path.write_text('{"eos_token_id": 9999}')
  with pytest.raises(ValueError, match='ends an answer, and its tokenizer'):
    CheckpointSentencePieceVocabulary(tmp_path)
  # Nowhere said: the end of the model itself.
  path.unlink()
  (tmp_path / 'tokenizer_config.json').unlink()
  assert CheckpointSentencePieceVocabulary(tmp_path).eos_ids == (1,)


def test_a_conversation_is_what_the_template_makes_of_the_whole(folders):
  template = folders['gemma'] / 'chat_template.jinja'
  template.write_text(chat_models.GEMMA)
  vocabulary = CheckpointSentencePieceVocabulary(folders['gemma'])
  form = ChatPrompts(folder=folders['gemma'], vocabulary=vocabulary)
  (prompt,) = form(['What is 2 + 3?'])
  assert prompt[0] == 2  # Its BOS, which SentencePiece alone spells out.
  again = 'Correct it.'
  end, told = form.closing(), form.instruction(again)
  assert vocabulary.tokenizer.IdToPiece(int(end[0])) == '<end_of_turn>'
  for attempt in ('5', 'x\n\n\ny  z', 'Grüße 你好'):
    ours = [*prompt, *vocabulary.encode(attempt), *end, *told]
    text = form.template.render(
      [
        [
          {'role': 'user', 'content': 'What is 2 + 3?'},
          {'role': 'assistant', 'content': attempt},
          {'role': 'user', 'content': again},
        ]
      ]
    )
    assert ours == list(vocabulary.encode(text[0]))


def test_two_of_one_checkpoint_are_equal(folders):
  one, other = (
    CheckpointSentencePieceVocabulary(folders['llama']) for _ in range(2)
  )
  assert one == other
  assert one != CheckpointSentencePieceVocabulary(folders['gemma'])


def test_a_name_on_the_hub_is_read_like_a_folder(folder, monkeypatch):
  monkeypatch.setattr(hub, '_fetched', lambda name, revision: str(folder))
  vocabulary = CheckpointSentencePieceVocabulary('owner/name')
  assert vocabulary == CheckpointSentencePieceVocabulary(folder)
  assert vocabulary.folder == str(folder)


def test_no_added_tokens_may_be_null(tmp_path):
  path = write(tmp_path, 'llama') / 'tokenizer_config.json'
  path.write_text('{"added_tokens_decoder": null}')
  vocabulary = CheckpointSentencePieceVocabulary(tmp_path)
  assert ADDED not in vocabulary.added_tokens


@pytest.mark.parametrize(
  'wrong',
  [
    {'480': 'a text'},
    {'480': {}},
    {'480': {'content': ''}},
    {'x': {'content': 'x'}},
    {'-1': {'content': 'x'}},
    {'9' * 30: {'content': 'x'}},
    ['x'],
  ],
)
def test_added_tokens_that_are_none_are_refused(folders, tmp_path, wrong):
  model = (folders['llama'] / 'tokenizer.model').read_bytes()
  (tmp_path / 'tokenizer.model').write_bytes(model)
  fields = {'eos_token': '</s>', 'added_tokens_decoder': wrong}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(fields))
  with pytest.raises(ValueError, match='an entry of added_tokens_decoder'):
    CheckpointSentencePieceVocabulary(tmp_path)
  (tmp_path / 'tokenizer_config.json').unlink()
  for i in ('7', -1, 10**12, None, True):
    (tmp_path / 'added_tokens.json').write_text(json.dumps({'x': i}))
    with pytest.raises(ValueError, match="gives 'x' the id"):
      CheckpointSentencePieceVocabulary(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no .*tokenizer\.model'):
    CheckpointSentencePieceVocabulary(tmp_path)
