"""The task that the loop sees: problems, a vocabulary and widths."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from selfimprove.data import chat, examples, rows, vocabularies
from selfimprove.data.tensorflow_host import seqio

_Prompt = tuple[str, Int[np.ndarray, 'tokens']]
"""Text and ids."""


def none_dropped(split: str) -> Mapping[str, int]:
  """No row left out.

  Args:
    split: any.

  Returns:
    An empty mapping.
  """
  del split
  return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTask:
  """Problems with a text answer, and the room that they take.

  Attributes:
    name: for messages and reports.
    provider: the seqio task or mixture that gives the problems. A feature
      `fields_json`, where there is one, is the row as its user wrote it.
    vocabulary: of the model; tokenized features of `provider` must use it.
    max_prompt_tokens: width of the prompt, at least 1.
    max_answer_tokens: width of the reference answer, without EOS, at least 1.
    prompt_field: feature with the prompt, as text or as ids.
    answer_field: feature with the answer, as text or as ids.
    extra_tokens: further text fields that rollouts read as token ids, such as
      a hint, and the most tokens that each may have.
    prompt_form: how a prompt becomes what the model reads, such as
      `chat.ChatPrompts`; None for its text alone. Lengths are of what is read.
    on_bad_row: what to do with a row that breaks a rule.
    dropped: split -> rows left out before `provider` saw them, by field and
      rule; several splits of one file all report the file's.
  """

  name: str
  provider: seqio.Task | seqio.Mixture
  vocabulary: seqio.Vocabulary
  max_prompt_tokens: int
  max_answer_tokens: int
  prompt_field: str = 'prompt'
  answer_field: str = 'answer'
  extra_tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
  prompt_form: chat.PromptForm | None = None
  on_bad_row: rows.OnBadRow = rows.refuse
  dropped: Callable[[str], Mapping[str, int]] = none_dropped

  def __post_init__(self) -> None:
    check_widths(
      max_prompt_tokens=self.max_prompt_tokens,
      max_answer_tokens=self.max_answer_tokens,
    )
    if self.prompt_form is None:
      chat.warn_if_bypassed(self.vocabulary)

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits."""
    return tuple(self.provider.splits)

  def read(self, split: str) -> tuple[tuple[rows.Row, ...], dict[str, int]]:
    """All problems of a split, always in the same order.

    Args:
      split: one of `splits`.

    Returns:
      The problems, and how many rows were left out, by field and rule.

    Raises:
      ValueError: there is no such split, or nothing in it.
      BadRowError: a row breaks a rule and `on_bad_row` does not accept that.
    """
    if split not in self.splits:
      raise ValueError(
        f'Task {self.name!r} has no split {split!r}; choose one of '
        f'{", ".join(self.splits)}.'
      )
    dropped = collections.Counter(self.dropped(split))
    kept = []
    source = [*examples.examples(self.provider, split=split)]
    places = [
      f'task {self.name!r}, split {split!r}, row {i}'
      for i in range(len(source))
    ]
    for example, where, prompt in zip(
      source, places, self._prompts(source, places)
    ):
      try:
        kept.append(self._row(example, where, prompt))
      except rows.BadRowError as bad_row:
        self.on_bad_row(bad_row)
        dropped[bad_row.key] += 1
    if not kept:
      raise ValueError(
        f'Split {split!r} of task {self.name!r} has no row (dropped: '
        f'{dict(dropped)}); give the task more problems.'
      )
    return tuple(kept), dict(dropped)

  def prompt_ids(
    self, texts: Sequence[str]
  ) -> list[Int[np.ndarray, 'tokens'] | ValueError]:
    """What the model reads of prompts.

    Args:
      texts: prompts as they are in the rows.

    Returns:
      For each its ids, or why it has none.
    """
    if self.prompt_form is not None:
      return self.prompt_form(texts)
    found: list[Int[np.ndarray, 'tokens'] | ValueError] = []
    for text in texts:
      try:
        found.append(vocabularies.encode(text, vocabulary=self.vocabulary))
      except ValueError as error:
        found.append(error)
    return found

  def _prompts(
    self, source: Sequence[Mapping[str, Any]], places: Sequence[str]
  ) -> list[_Prompt | rows.BadRowError]:
    """The prompt of each example, or what is wrong with it."""
    found: list[_Prompt | rows.BadRowError] = []
    for example, where in zip(source, places):
      try:
        found.append(
          examples.text_and_ids(
            example,
            self.prompt_field,
            where=where,
            vocabulary=self.vocabulary,
          )
        )
      except rows.BadRowError as bad_row:
        found.append(bad_row)
    if self.prompt_form is None:
      return found
    # All at once: a form may have to start a process.
    good = [i for i, one in enumerate(found) if isinstance(one, tuple)]
    texts = [one[0] for one in found if isinstance(one, tuple)]
    for i, text, ids in zip(good, texts, self.prompt_form(texts)):
      if not isinstance(ids, ValueError):
        found[i] = (text, ids)
      else:
        found[i] = rows.BadRowError(
          where=places[i],
          field=self.prompt_field,
          rule='cannot be put in its form',
          detail=str(ids).rstrip('.'),
        )
    return found

  def _row(
    self,
    example: Mapping[str, Any],
    where: str,
    prompt: _Prompt | rows.BadRowError,
  ) -> rows.Row:
    if isinstance(prompt, rows.BadRowError):
      raise prompt
    answer = examples.text_and_ids(
      example, self.answer_field, where=where, vocabulary=self.vocabulary
    )
    text = {'prompt': prompt[0], 'answer': answer[0]}
    ids = {'prompt': prompt[1], 'answer': answer[1]}
    for part, field, limit in (
      ('prompt', self.prompt_field, self.max_prompt_tokens),
      ('answer', self.answer_field, self.max_answer_tokens),
    ):
      rows.check_length(
        len(ids[part]),
        field,
        where=where,
        limit=limit,
        setting=f'max_{part}_tokens',
      )
    others = examples.other_fields(
      example, besides=(self.prompt_field, self.answer_field)
    )
    fields = others | text
    return rows.Row(
      fields=fields,
      prompt_ids=ids['prompt'],
      answer_ids=ids['answer'],
      extra_ids=self._extra(fields, where),
    )

  def _extra(
    self, fields: Mapping[str, Any], where: str
  ) -> dict[str, Int[np.ndarray, 'n']]:
    """Token ids of the further fields."""
    encode = functools.partial(vocabularies.encode, vocabulary=self.vocabulary)
    found = {}
    for field, limit in self.extra_tokens.items():
      text = rows.text_of(fields, field, where=where)
      ids = rows.ids_of(text, field, where=where, encode=encode)
      setting = f'extra_tokens[{field!r}]'
      rows.check_length(
        len(ids), field, where=where, limit=limit, setting=setting
      )
      found[field] = ids
    return found


def check_widths(*, max_prompt_tokens: int, max_answer_tokens: int) -> None:
  """Refuses widths that hold nothing.

  Args:
    max_prompt_tokens: at least 1.
    max_answer_tokens: at least 1.

  Raises:
    ValueError: one of them is below 1.
  """
  for setting, value in (
    ('max_prompt_tokens', max_prompt_tokens),
    ('max_answer_tokens', max_answer_tokens),
  ):
    if value < 1:
      raise ValueError(
        f'{setting}={value} leaves no room for a token; choose at least 1.'
      )
