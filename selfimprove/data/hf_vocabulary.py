"""Tokenizers of Hugging Face checkpoints as vocabularies."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tokenizers

from selfimprove import hub, json_object
from selfimprove.data.tensorflow_host import seqio, tf

TOKENIZER_FILE = 'tokenizer.json'
# Where a checkpoint says which tokens end an answer, the most telling first: a
# chat model has several, and names them in its settings for generation only.
_EOS_FILES = ('generation_config.json', 'config.json', 'tokenizer_config.json')


class CheckpointVocabulary(seqio.Vocabulary):
  """What the tokenizers of checkpoints share.

  Ids in a graph of TensorFlow are those outside of it, as the reference library
  gives them, and it is the checkpoint that says what ends an answer.

  Attributes:
    folder: of the checkpoint, which may have been fetched from the hub.
    eos_ids: every id that ends an answer; the first is `eos_id`.
    added_tokens: text -> id of what is one token wherever it stands.
  """

  folder: str
  eos_ids: tuple[int, ...]
  added_tokens: Mapping[str, int]
  _size: int

  @property
  def bos_id(self) -> None:
    """None: a chat template writes it, where there is one."""

  @property
  def eos_id(self) -> int:
    """The first id that ends an answer."""
    return self.eos_ids[0]

  @property
  def pad_id(self) -> int:
    """-1: no id is padding, for 0 is an ordinary token in some models."""
    return -1

  @property
  def _base_vocab_size(self) -> int:
    return self._size

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


class HuggingFaceVocabulary(CheckpointVocabulary):
  """The `tokenizer.json` of a checkpoint, with the ids of its own library.

  Special tokens that stand in a text become their ids, as they do there; none
  is added before or behind it.
  """

  def __init__(self, folder: str | os.PathLike[str]) -> None:
    folder = hub.local_folder(folder)
    path = os.path.join(folder, TOKENIZER_FILE)
    if not os.path.isfile(path):
      raise FileNotFoundError(
        f'There is no {path}; name the folder of a checkpoint whose tokenizer '
        'is a tokenizer.json (a SentencePiece model: '
        'gin_configs/tasks/sentencepiece_text.gin).'
      )
    super().__init__(extra_ids=0)
    self.folder = os.fspath(folder)
    found = _parsed(json_object.text(path), path)
    self._tokenizer, self._digest = found.tokenizer, found.digest
    self._size, self._unknown = found.size, found.unknown
    self.added_tokens = found.added_tokens
    self.eos_ids = find_eos_ids(
      folder, size=self._size, id_of=self._tokenizer.token_to_id
    )

  @property
  def unk_id(self) -> int | None:
    """The id of what cannot be written; None if everything can."""
    return self._unknown

  def _encode(self, s: str) -> Sequence[int]:
    return self._tokenizer.encode(s, add_special_tokens=False).ids

  def _decode(self, ids: Iterable[int]) -> str:
    written = [i for i in ids if i >= 0]  # Padding stands behind an end.
    return self._tokenizer.decode(written, skip_special_tokens=True)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, HuggingFaceVocabulary) and (
      (self._digest, self.eos_ids) == (other._digest, other.eos_ids)
    )

  def __hash__(self) -> int:
    return hash((HuggingFaceVocabulary, self._digest))

  def __repr__(self) -> str:
    return f'HuggingFaceVocabulary({self.folder!r})'


def find_eos_ids(
  folder: str | os.PathLike[str],
  *,
  size: int,
  id_of: Callable[[str], int | None],
  default: int | None = None,
) -> tuple[int, ...]:
  """Every id that ends an answer, as a checkpoint says.

  Args:
    folder: of the checkpoint.
    size: number of ids of its tokenizer.
    id_of: text of a token -> its id, None if it has none.
    default: the only one where the checkpoint does not say it.

  Returns:
    At least one id.

  Raises:
    ValueError: the checkpoint does not say it, or names an id that is none.
  """
  folder = os.fspath(folder)
  ends: list[Any] | None = None if default is None else [default]
  for name in _EOS_FILES:
    fields = json_object.read_if_there(os.path.join(folder, name))
    found = fields.get('eos_token_id', fields.get('eos_token'))
    if isinstance(found, Mapping):  # A token with its options.
      found = found.get('content')
    if isinstance(found, str):
      found = id_of(found)
    if found is not None:
      ends = found if isinstance(found, list) else [found]
      break
  if ends is None:
    raise ValueError(
      f'{folder} does not say which token ends an answer; give its '
      'generation_config.json an eos_token_id.'
    )
  if not ends or not all(type(i) is int and 0 <= i < size for i in ends):
    raise ValueError(
      f'{folder} says that eos_token_id={ends} ends an answer, and its '
      f'tokenizer has the ids 0 to {size - 1}; correct its '
      'generation_config.json.'
    )
  return tuple(ends)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Parsed:
  """What a tokenizer.json says."""

  tokenizer: tokenizers.Tokenizer
  digest: str
  size: int
  unknown: int | None
  added_tokens: Mapping[str, int]


# Every use of a macro in a configuration builds the vocabulary again, and the
# file of a large one takes seconds. Its text is the key, so none goes stale.
@functools.lru_cache(maxsize=4)
def _parsed(text: str, path: str) -> _Parsed:
  try:
    tokenizer = tokenizers.Tokenizer.from_str(text)
  except Exception as error:  # Of no narrower type.
    raise ValueError(
      f'{path} is no tokenizer ({error}); download it again.'
    ) from None
  # What a file of others says about widths is not ours to obey.
  tokenizer.no_padding()
  tokenizer.no_truncation()
  model = json.loads(text)['model']
  unknown = model.get('unk_id')
  if model.get('unk_token') is not None:
    unknown = tokenizer.token_to_id(model['unk_token'])
  added = tokenizer.get_added_tokens_decoder()
  return _Parsed(
    tokenizer=tokenizer,
    digest=hashlib.sha256(text.encode()).hexdigest(),
    size=1 + max(tokenizer.get_vocab(with_added_tokens=True).values()),
    unknown=unknown,
    added_tokens={token.content: i for i, token in added.items()},
  )
