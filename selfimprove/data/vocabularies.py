"""Text to token ids and back, for seqio and for gin."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from selfimprove.data.tensorflow_host import seqio, tf

Vocabulary = seqio.Vocabulary
"""What every vocabulary is, for rooms that do not know seqio."""

ByteVocabulary = seqio.ByteVocabulary
"""UTF-8 bytes: pad 0, EOS 1, unknown 2, then the 256 bytes."""

_SPECIAL = 3
_UNKNOWN = '\N{REPLACEMENT CHARACTER}'


class CharVocabulary(seqio.Vocabulary):
  """A token per character: pad 0, EOS 1, unknown 2, then `characters`.

  Two vocabularies of the same characters are equal, so it does not matter
  whether a configuration builds one or several.

  Attributes:
    characters: what can be written, in the order of the ids from 3 on.
  """

  def __init__(self, characters: str) -> None:
    if not characters:
      raise ValueError(
        "CharVocabulary(characters='') can write nothing; list the characters "
        'of the prompts and answers.'
      )
    twice = sorted({c for c in characters if characters.count(c) > 1})
    if twice:
      raise ValueError(
        f'CharVocabulary({characters!r}) repeats {"".join(twice)!r}; each '
        'character has one id, list it once.'
      )
    super().__init__(extra_ids=0)
    self.characters = characters
    self._id_of = {c: i + _SPECIAL for i, c in enumerate(characters)}

  @property
  def bos_id(self) -> None:
    """None: there is no start token."""

  @property
  def eos_id(self) -> int:
    """The id that ends an answer."""
    return 1

  @property
  def unk_id(self) -> int:
    """The id of characters that are not in the vocabulary."""
    return 2

  @property
  def _base_vocab_size(self) -> int:
    return _SPECIAL + len(self.characters)

  def _encode(self, s: str) -> Sequence[int]:
    return [self._id_of.get(c, self.unk_id) for c in s]

  def _decode(self, ids: Iterable[int]) -> str:
    """The text of ids; unknown ids stay visible, padding and EOS do not."""
    letters = {i: c for c, i in self._id_of.items()} | {self.unk_id: _UNKNOWN}
    return ''.join(letters.get(i, '') for i in ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    codes = tf.strings.unicode_decode(s, 'UTF-8')
    known = tf.constant([ord(c) for c in self.characters], tf.int32)
    hits = tf.equal(codes[..., None], known)
    ids = tf.argmax(hits, axis=-1, output_type=tf.int32) + _SPECIAL
    return tf.where(tf.reduce_any(hits, axis=-1), ids, self.unk_id)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    pieces = tf.constant(['', '', _UNKNOWN, *self.characters])
    return tf.strings.reduce_join(tf.gather(pieces, ids), axis=-1)

  def __eq__(self, other: object) -> bool:
    return (
      isinstance(other, CharVocabulary) and self.characters == other.characters
    )

  def __hash__(self) -> int:
    return hash((CharVocabulary, self.characters))

  def __repr__(self) -> str:
    return f'CharVocabulary({self.characters!r})'


def encode(
  text: str, *, vocabulary: seqio.Vocabulary
) -> Int[np.ndarray, 'tokens']:
  """The token ids of `text`, without EOS.

  Args:
    text: any length, empty included.
    vocabulary: what writes it.

  Returns:
    int32 ids.

  Raises:
    ValueError: `text` has a character that the vocabulary cannot write.
  """
  try:
    ids = vocabulary.encode(text)
    unknown = vocabulary.unk_id is not None and vocabulary.unk_id in ids
  except UnicodeEncodeError:  # Half of a surrogate pair: not even UTF-8.
    ids, unknown = [], True
  if unknown:
    raise ValueError(_unknown_character(text, vocabulary))
  return np.asarray(ids, np.int32)


def decode(
  ids: Int[np.ndarray, 'tokens'], *, vocabulary: seqio.Vocabulary
) -> str:
  """The text of token ids, up to the first EOS and without padding.

  Args:
    ids: any length; padding may stand on either side.
    vocabulary: what reads them.

  Returns:
    The text.
  """
  row, ends = [int(i) for i in np.asarray(ids)], _ends(vocabulary)
  end = next((at for at, i in enumerate(row) if i in ends), len(row))
  row = row[:end]
  return vocabulary.decode([i for i in row if i != vocabulary.pad_id])


def eos_ids(
  *, vocabulary: seqio.Vocabulary, first: Sequence[int] | np.ndarray = ()
) -> Int[np.ndarray, 'ids']:
  """The ids that end an attempt.

  Args:
    vocabulary: what the policy writes in.
    first: ids that stand before the others, for the first one is what
      demonstrations end with; such as those that close a turn of a chat.

  Returns:
    int32 ids, at least one, each once.

  Raises:
    ValueError: the vocabulary has no EOS, so that no attempt could end.
  """
  if vocabulary.eos_id is None:
    raise ValueError(
      f'{_name(vocabulary)} has no EOS id, so no attempt could end; choose a '
      'vocabulary that has one.'
    )
  ids = dict.fromkeys([*map(int, first), *_ends(vocabulary)])
  return np.asarray([*ids], np.int32)


def _ends(vocabulary: seqio.Vocabulary) -> tuple[int, ...]:
  """All ids that end an answer; chat models have several."""
  several: tuple[int, ...] | None = getattr(vocabulary, 'eos_ids', None)
  if several is not None:
    return several
  return () if vocabulary.eos_id is None else (vocabulary.eos_id,)


def size(*, vocabulary: seqio.Vocabulary) -> int:
  """The number of ids, special ones included: what a model must predict.

  Args:
    vocabulary: what the policy writes in.

  Returns:
    A positive number.
  """
  return vocabulary.vocab_size


def _unknown_character(text: str, vocabulary: seqio.Vocabulary) -> str:
  culprit = next((c for c in text if not _writes(vocabulary, c)), text)
  code = f' (U+{ord(culprit):04X})' if len(culprit) == 1 else ''
  return (
    f'character {culprit!r}{code} of {reprlib.repr(text)} is not in '
    f'{_name(vocabulary)}; add it to the vocabulary or take it out of the text'
  )


def _writes(vocabulary: seqio.Vocabulary, character: str) -> bool:
  try:
    return vocabulary.unk_id not in vocabulary.encode(character)
  except UnicodeEncodeError:
    return False


def _name(vocabulary: seqio.Vocabulary) -> str:
  """How an error calls the vocabulary: without a memory address."""
  if isinstance(vocabulary, CharVocabulary):
    return repr(vocabulary)
  return type(vocabulary).__name__
