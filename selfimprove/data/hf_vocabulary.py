"""Tokenizers of Hugging Face checkpoints as vocabularies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers

from selfimprove import hub, json_object
from selfimprove.data.tensorflow_host import seqio, tf

TOKENIZER_FILE = 'tokenizer.json'
# Where a checkpoint says which tokens end an answer, the most telling first: a
# chat model has several, and names them in its settings for generation only.
_EOS_FILES = ('generation_config.json', 'config.json', 'tokenizer_config.json')


class HuggingFaceVocabulary(seqio.Vocabulary):
  """The `tokenizer.json` of a checkpoint, with the ids of its own library.

  Special tokens that stand in a text become their ids, as they do there; none
  is added before or behind it.

  Attributes:
    folder: of the checkpoint.
    eos_ids: every id that ends an answer; the first is `eos_id`.
  """

  def __init__(self, folder: str | os.PathLike[str]) -> None:
    folder = hub.local_folder(folder)
    path = os.path.join(folder, TOKENIZER_FILE)
    if not os.path.isfile(path):
      raise FileNotFoundError(
        f'There is no {path}; name the folder of a checkpoint whose tokenizer '
        'is a tokenizer.json (a SentencePiece model: '
        'seqio.SentencePieceVocabulary).'
      )
    super().__init__(extra_ids=0)
    self.folder = os.fspath(folder)
    with open(path, encoding='utf-8') as file:
      self._text = file.read()
    self._tokenizer = _parsed(self._text, path)
    # What a file of others says about widths is not ours to obey.
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()
    vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
    self._size = 1 + max(vocabulary.values())
    self._unknown = self._find_unknown()
    self.eos_ids = self._find_eos()

  @property
  def bos_id(self) -> None:
    """None: a chat template writes it, where there is one."""

  @property
  def eos_id(self) -> int:
    """The first id that ends an answer."""
    return self.eos_ids[0]

  @property
  def pad_id(self) -> int:
    """-1: no id is padding, for 0 is an ordinary token here."""
    return -1

  @property
  def unk_id(self) -> int | None:
    """The id of what cannot be written; None if everything can."""
    return self._unknown

  @property
  def _base_vocab_size(self) -> int:
    return self._size

  def _encode(self, s: str) -> Sequence[int]:
    return self._tokenizer.encode(s, add_special_tokens=False).ids

  def _decode(self, ids: Iterable[int]) -> str:
    written = [i for i in ids if i >= 0]  # Padding stands behind an end.
    return self._tokenizer.decode(written, skip_special_tokens=True)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    def encode(text: Any) -> Any:
      return tf.constant(self._encode(text.numpy().decode('utf-8')), tf.int32)

    ids = tf.py_function(encode, [s], tf.int32)
    ids.set_shape([None])
    return ids

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    def decode(rows: Any) -> Any:
      flat = rows.numpy().reshape(-1, rows.shape[-1]).tolist()
      texts = tf.constant([self._decode(row) for row in flat])
      return tf.reshape(texts, rows.shape[:-1])

    return tf.py_function(decode, [ids], tf.string)

  def _find_unknown(self) -> int | None:
    model = json.loads(self._text)['model']
    if model.get('unk_token') is not None:
      return self._tokenizer.token_to_id(model['unk_token'])
    return model.get('unk_id')

  def _find_eos(self) -> tuple[int, ...]:
    for name in _EOS_FILES:
      fields = _read(os.path.join(self.folder, name))
      found = fields.get('eos_token_id', fields.get('eos_token'))
      if isinstance(found, Mapping):  # A token with its options.
        found = found.get('content')
      if isinstance(found, str):
        found = self._tokenizer.token_to_id(found)
      if found is not None:
        return self._checked(found if isinstance(found, list) else [found])
    raise ValueError(
      f'{self.folder} does not say which token ends an answer; give its '
      'generation_config.json an eos_token_id.'
    )

  def _checked(self, ends: list[Any]) -> tuple[int, ...]:
    known = [type(i) is int and 0 <= i < self._size for i in ends]
    if not ends or not all(known):
      raise ValueError(
        f'{self.folder} says that eos_token_id={ends} ends an answer, and its '
        f'tokenizer has the ids 0 to {self._size - 1}; correct its '
        'generation_config.json.'
      )
    return tuple(ends)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, HuggingFaceVocabulary) and (
      (self._text, self.eos_ids) == (other._text, other.eos_ids)
    )

  def __hash__(self) -> int:
    return hash((HuggingFaceVocabulary, self._text))

  def __repr__(self) -> str:
    return f'HuggingFaceVocabulary({self.folder!r})'


def _read(path: str) -> dict[str, Any]:
  """The fields of a file; none if it is not there."""
  return json_object.read(path) if os.path.isfile(path) else {}


def _parsed(text: str, path: str) -> tokenizers.Tokenizer:
  try:
    return tokenizers.Tokenizer.from_str(text)
  except Exception as error:  # Of no narrower type.
    raise ValueError(
      f'{path} is no tokenizer ({error}); download it again.'
    ) from None
