"""What seqio yields, as plain Python values and token ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from selfimprove.data import rows, vocabularies
from selfimprove.data.tensorflow_host import seqio, tf

FIELDS_JSON = 'fields_json'
"""Feature that carries a row as its user wrote it, whatever types are in it."""

# Of seqio preprocessors that draw numbers: rows must not change between runs.
_SEED = 0
_BATCH = 1024


def examples(
  provider: seqio.Task | seqio.Mixture, *, split: str
) -> Iterator[dict[str, Any]]:
  """The examples of a split, untruncated and in the order of the source.

  Args:
    provider: a seqio task or mixture. A mixture keeps only its output features
      (and `fields_json`), and ends as seqio ends it.
    split: one of its splits.

  Yields:
    Feature name -> bytes, NumPy scalar or NumPy array.
  """
  options = tf.data.Options()
  options.deterministic = True
  dataset = _dataset(provider, split=split).with_options(options)
  # Crossing from TensorFlow costs more than a row; so cross in batches.
  for batch in dataset.ragged_batch(_BATCH).as_numpy_iterator():
    for row in zip(*batch.values()):
      yield dict(zip(batch, row))


def source_of(
  rows_of: Callable[[str], Sequence[Mapping[str, Any]]],
  *,
  splits: Sequence[str],
) -> seqio.FunctionDataSource:
  """Rows as a source of seqio, which `examples` gives back.

  Args:
    rows_of: split -> its rows with `prompt` and `answer`, called at the first
      read.
    splits: names of the splits.

  Returns:
    A source of features `prompt`, `answer` and `fields_json`, the whole row.
  """

  def dataset(
    split: str, shuffle_files: bool, seed: int | None = None
  ) -> tf.data.Dataset:
    del shuffle_files, seed  # The order is the table's; streams permute it.
    found = rows_of(split)
    columns = {
      'prompt': [_utf8(fields['prompt']) for fields in found],
      'answer': [_utf8(fields['answer']) for fields in found],
      FIELDS_JSON: [json.dumps(fields) for fields in found],
    }
    return tf.data.Dataset.from_tensor_slices(
      {k: tf.constant(v, tf.string, [len(found)]) for k, v in columns.items()}
    )

  return seqio.FunctionDataSource(dataset, splits=splits)


def _utf8(text: str) -> bytes:
  """UTF-8; bytes that were none when the file was read come out as read."""
  return text.encode('utf-8', 'surrogateescape')


def text_and_ids(
  example: Mapping[str, Any],
  field: str,
  *,
  where: str,
  vocabulary: seqio.Vocabulary,
) -> tuple[str, Int[np.ndarray, 'tokens']]:
  """A feature as text and as token ids, whichever of them seqio holds.

  Args:
    example: what `examples` yields.
    field: name of the feature: text, or ids with or without EOS.
    where: task, split and row, for messages.
    vocabulary: text to ids and back.

  Returns:
    The text, and its int32 ids without EOS.

  Raises:
    BadRowError: there is no such text, or the vocabulary cannot write it.
  """
  value = example.get(field)
  if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.integer):
    ids = _content(value, vocabulary)
    text = example.get(f'{field}_pretokenized')
    if isinstance(text, bytes):
      return _plain(text), ids
    return vocabularies.decode(ids, vocabulary=vocabulary), ids
  plain = {name: _plain(v) for name, v in example.items()}
  text = rows.text_of(plain, field, where=where)

  def encode(text: str) -> Int[np.ndarray, 'tokens']:
    return vocabularies.encode(text, vocabulary=vocabulary)

  return text, rows.ids_of(text, field, where=where, encode=encode)


def other_fields(
  example: Mapping[str, Any], *, besides: tuple[str, ...]
) -> dict[str, Any]:
  """Everything that came with a problem, as plain Python values.

  Args:
    example: what `examples` yields.
    besides: features that are read otherwise.

  Returns:
    Field -> value; `fields_json` is unpacked.
  """
  read = {FIELDS_JSON, *besides, *(f'{name}_pretokenized' for name in besides)}
  fields = {k: _plain(v) for k, v in example.items() if k not in read}
  return fields | json.loads(example.get(FIELDS_JSON, b'{}'))


def _dataset(
  provider: seqio.Task | seqio.Mixture, *, split: str
) -> tf.data.Dataset:
  if isinstance(provider, seqio.Task) and not provider.requires_caching:
    # `Task.get_dataset` would demand that every function source takes a seed,
    # to which an unshuffled source has nothing to say.
    source = provider.source.get_dataset(split=split, shuffle=False)
    source = provider.preprocess_precache(source, seed=_SEED)
    return provider.preprocess_postcache(
      source, sequence_length=None, seed=_SEED
    )
  kwargs: dict[str, Any] = {'use_cached': True}
  if isinstance(provider, seqio.Mixture):
    kwargs = {'passthrough_features': [FIELDS_JSON]}
  # One epoch: the default of a mixture is to go on for ever.
  return provider.get_dataset(
    sequence_length=None,
    split=split,
    shuffle=False,
    seed=_SEED,
    num_epochs=1,
    **kwargs,
  )


def _content(
  ids: Int[np.ndarray, 'tokens'], vocabulary: seqio.Vocabulary
) -> Int[np.ndarray, 'tokens']:
  """The ids before the first EOS, without padding at the end."""
  row = ids.tolist()
  if vocabulary.eos_id in row:
    row = row[: row.index(vocabulary.eos_id)]
  while row and row[-1] == vocabulary.pad_id:
    row.pop()
  return np.asarray(row, np.int32)


def _plain(value: Any) -> Any:
  if isinstance(value, bytes):
    # Bytes that are not UTF-8 become characters that no vocabulary can write.
    return value.decode('utf-8', 'surrogateescape')
  if isinstance(value, np.ndarray | np.generic):
    return _plain(value.tolist())
  if isinstance(value, list):
    return [_plain(item) for item in value]
  return value
