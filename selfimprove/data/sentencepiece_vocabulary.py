"""SentencePiece models of Hugging Face checkpoints as vocabularies."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from selfimprove import hub, json_object
from selfimprove.data.hf_vocabulary import CheckpointVocabulary, find_eos_ids
from selfimprove.data.tensorflow_host import seqio

MODEL_FILE = 'tokenizer.model'
_PROTO: Any = sentencepiece_model_pb2  # Generated: its names are in no file.
_CONFIG, _ADDED = 'tokenizer_config.json', 'added_tokens.json'
_MAX_ID = 2**31 - 1  # Ids are int32.


class CheckpointSentencePieceVocabulary(
  CheckpointVocabulary, seqio.SentencePieceVocabulary
):
  """The `tokenizer.model` of a checkpoint, with the ids of its own library.

  What the checkpoint adds to it, and its control symbols, become their ids
  where they stand in a text, which SentencePiece by itself spells out; none is
  added before or behind. Behind them no space is put before a text.
  """

  def __init__(self, folder: str | os.PathLike[str]) -> None:
    folder = hub.local_folder(folder)
    path = os.path.join(folder, MODEL_FILE)
    if not os.path.isfile(path):
      raise FileNotFoundError(
        f'There is no {path}; name the folder of a checkpoint whose tokenizer '
        'is a SentencePiece model (a tokenizer.json: '
        'gin_configs/tasks/hugging_face_text.gin).'
      )
    super().__init__(path)
    self.folder = folder
    added, self._hidden = _added(folder)
    own = _model(self.sp_model)
    self._hidden |= set(own.spelt.values())
    self.added_tokens: Mapping[str, int] = {**own.fixed, **own.spelt, **added}
    self._split = {**own.spelt, **added}
    self._texts = {i: text for text, i in self._split.items()}
    # Longest first, as the reference library looks for them.
    tokens = sorted(self._split, key=len, reverse=True)
    self._pattern = re.compile(f'({"|".join(map(re.escape, tokens))})')
    self._size = max(
      [self.tokenizer.GetPieceSize(), *(i + 1 for i in added.values())]
    )
    end = self.tokenizer.eos_id()
    self.eos_ids = find_eos_ids(
      folder,
      size=self._size,
      id_of=self._id_of,
      default=end if end >= 0 else None,
    )

  def _id_of(self, token: str) -> int | None:
    if token in self.added_tokens:
      return self.added_tokens[token]
    found = self.tokenizer.PieceToId(token)
    return None if found == self.tokenizer.unk_id() else found

  def _encode(self, s: str) -> Sequence[int]:
    s.encode()  # Half of a surrogate pair is an error here, and not below.
    ids: list[int] = []
    for index, part in enumerate(self._pattern.split(s)):
      if index % 2:
        ids.append(self._split[part])
      elif part:
        ids.extend(self._pieces(index).EncodeAsIds(part))
    return ids

  def _decode(self, ids: Iterable[int]) -> str:
    run: list[int] = []
    found: list[str] = []

    def end_run() -> None:
      found.append(self._pieces(len(found)).DecodeIds(run) if run else '')
      run.clear()

    for i in ids:
      if i in self._texts:
        end_run()
        found.append('' if i in self._hidden else self._texts[i])
      elif 0 <= i < self.tokenizer.GetPieceSize():
        run.append(int(i))
    end_run()
    return ''.join(found)

  def _pieces(self, index: int) -> sentencepiece.SentencePieceProcessor:
    """What reads and writes the part of a text."""
    if not index:
      return self.tokenizer
    return _model(self.sp_model).without_prefix

  def __repr__(self) -> str:
    return f'CheckpointSentencePieceVocabulary({self.folder!r})'


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Model:
  """What is read of a model besides its pieces.

  Attributes:
    without_prefix: the same model, which puts no space before a text.
    spelt: text -> id of control symbols, which it spells out in a text.
    fixed: text -> id of the symbols that it keeps whole.
  """

  without_prefix: sentencepiece.SentencePieceProcessor
  spelt: Mapping[str, int]
  fixed: Mapping[str, int]


@functools.lru_cache(maxsize=4)
def _model(content: bytes) -> _Model:
  found = _PROTO.ModelProto()
  found.ParseFromString(content)
  kinds = _PROTO.ModelProto.SentencePiece
  of_kind: dict[int, dict[str, int]] = collections.defaultdict(dict)
  for i, piece in enumerate(found.pieces):
    of_kind[piece.type][piece.piece] = i
  found.normalizer_spec.add_dummy_prefix = False
  return _Model(
    without_prefix=sentencepiece.SentencePieceProcessor(
      model_proto=found.SerializeToString()
    ),
    spelt=of_kind[kinds.CONTROL] | of_kind[kinds.UNKNOWN],
    fixed=of_kind[kinds.USER_DEFINED],
  )


def _added(folder: str) -> tuple[dict[str, int], set[int]]:
  """What a checkpoint adds to the model, and which of it is no text."""
  path = os.path.join(folder, _CONFIG)
  fields = json_object.read_if_there(path)
  found, hidden = {}, set()
  given = fields.get('added_tokens_decoder') or {}
  for key, token in given.items() if isinstance(given, Mapping) else [('', {})]:
    content = token.get('content') if isinstance(token, Mapping) else None
    i = int(key) if key.isascii() and key.isdigit() and len(key) < 11 else -1
    if not _is_token(content, i):
      raise ValueError(
        f'{path} has an entry of added_tokens_decoder that is not an id and an '
        f'object with `content` ({key[:40]!r}); download it again.'
      )
    found[content] = i
    if token.get('special'):
      hidden.add(i)
  older = os.path.join(folder, _ADDED)
  if not found:
    found = json_object.read_if_there(older)
    for content, i in found.items():
      if not _is_token(content, i):
        raise ValueError(
          f'{older} gives {content[:40]!r} the id {i!r}, and an id is a whole '
          'number from 0 and a token is not empty; download it again.'
        )
  return found, hidden


def _is_token(content: Any, i: Any) -> bool:
  return (
    isinstance(content, str)
    and bool(content)
    and type(i) is int
    and 0 <= i < _MAX_ID
  )
