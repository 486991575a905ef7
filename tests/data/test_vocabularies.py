from __future__ import annotations

import numpy as np
import pytest

from selfimprove.data import vocabularies
from selfimprove.data.tensorflow_host import seqio, tf
from selfimprove.data.vocabularies import ByteVocabulary, CharVocabulary

DIGITS = CharVocabulary('0123456789=')
BYTES = ByteVocabulary()


def test_characters_follow_the_three_special_ids_in_order():
  ids = vocabularies.encode('0=9', vocabulary=DIGITS)
  assert ids.tolist() == [3, 13, 12]
  assert ids.dtype == np.int32
  assert vocabularies.size(vocabulary=DIGITS) == 14
  assert (DIGITS.pad_id, DIGITS.eos_id, DIGITS.unk_id) == (0, 1, 2)


@pytest.mark.parametrize(
  ('vocabulary', 'text'),
  [
    (DIGITS, '120340='),
    (DIGITS, ''),
    (CharVocabulary('aéü漢🙂'), '漢aü🙂é'),
    (BYTES, 'naïve 漢字 🙂\n'),
    (BYTES, 'a\x00'),
  ],
)
def test_encode_then_decode_is_the_identity(vocabulary, text):
  ids = vocabularies.encode(text, vocabulary=vocabulary)
  assert vocabularies.decode(ids, vocabulary=vocabulary) == text
  # TensorFlow agrees, in both directions: seqio pipelines use that side.
  assert (
    vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == ids.tolist()
  )
  assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == text


def test_decode_cuts_at_eos_and_drops_padding_on_both_sides():
  ids = np.asarray([0, 0, 4, 5, 1, 6, 0])
  assert vocabularies.decode(ids, vocabulary=DIGITS) == '12'
  assert vocabularies.decode(ids[:4], vocabulary=DIGITS) == '12'


def test_an_unknown_id_stays_visible_so_that_no_answer_is_right_by_omission():
  ids = np.asarray([4, 2, 5, 99])
  assert vocabularies.decode(ids, vocabulary=DIGITS) == '1\ufffd2\ufffd'


def test_seqio_maps_an_unknown_character_to_the_unknown_id():
  assert DIGITS.encode('1x') == [4, 2]
  assert DIGITS.encode_tf(tf.constant('1x')).numpy().tolist() == [4, 2]


def test_equal_characters_make_equal_vocabularies():
  same = CharVocabulary('0123456789=')
  assert same == DIGITS
  assert hash(same) == hash(DIGITS)
  assert CharVocabulary('9876543210=') != DIGITS
  assert DIGITS != BYTES


def test_eos_ids_are_an_array_of_the_end():
  for vocabulary in (DIGITS, BYTES):
    ids = vocabularies.eos_ids(vocabulary=vocabulary)
    assert ids.tolist() == [1]
    assert ids.dtype == np.int32


def test_a_vocabulary_without_eos_is_refused():
  endless = seqio.PassThroughVocabulary(size=10)
  with pytest.raises(ValueError, match='PassThroughVocabulary has no EOS id'):
    vocabularies.eos_ids(vocabulary=endless)


def test_an_unknown_character_is_named_with_its_vocabulary():
  with pytest.raises(
    ValueError,
    match=r"character 'é' \(U\+00E9\) of '1é2' is not in "
    r"CharVocabulary\('0123456789='\); add it",
  ):
    vocabularies.encode('1é2', vocabulary=DIGITS)


def test_half_a_surrogate_pair_is_an_unknown_character_even_in_bytes():
  with pytest.raises(ValueError, match=r'U\+D800.*not in ByteVocabulary'):
    vocabularies.encode('a\ud800', vocabulary=BYTES)


def test_characters_that_repeat_are_refused():
  with pytest.raises(ValueError, match="repeats 'ab'; each"):
    CharVocabulary('abcab')


def test_no_characters_are_refused():
  with pytest.raises(ValueError, match='can write nothing'):
    CharVocabulary('')
