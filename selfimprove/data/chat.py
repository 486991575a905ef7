"""Prompts and corrections as turns of a conversation with a chat model.

A prompt is the first turn of a user. What is put behind an attempt is what the
template of the checkpoint writes from there to the next attempt: found by
writing whole conversations, so that a sample is, token by token, what the
template would have made of it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from selfimprove.data import chat_template, vocabularies
from selfimprove.data.chat_template import ChatTemplate, ChatTemplateError

Ids = Int[np.ndarray, 'tokens']

_PLACE = '{prompt}'
# Conversations that tell what a template writes between two attempts. The
# thinking of an earlier turn is what templates are known to take out again.
_ASKED = ('What is 2 + 3?', 'Name a fruit.\n\nOnly one, and why: 1) "a" \\b')
_ATTEMPTED = (
  '5',
  '<think>\nA pear?\n</think>\n\nAn apple.\nYes: $\\frac{1}{2}$',
)


class MissingChatTemplateWarning(UserWarning):
  """A template was asked for, and the checkpoint has none."""


class BypassedChatTemplateWarning(UserWarning):
  """The checkpoint has a template, and prompts do not go through it."""


class ClockInChatTemplateWarning(UserWarning):
  """The template writes the day, so that prompts are others tomorrow."""


class PromptForm(Protocol):
  """How a prompt becomes what the model reads."""

  def __call__(self, texts: Sequence[str]) -> list[Ids | ValueError]:
    """Returns for each text its ids, or why it has none."""

  def instruction(self, text: str) -> Ids:
    """Returns what stands between the end of an attempt and the next one."""

  def closing(self) -> Ids:
    """Returns the ids that end an attempt; perhaps none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatPrompts:
  """The form of prompts for a chat model.

  Attributes:
    folder: of the checkpoint, or its name on the hub.
    vocabulary: that of the checkpoint.
    prompt_format: what the user says, with `{prompt}` where the text goes.
    system: what stands before the conversation; None for nothing.
    template_file: of a template to use in place of that of the checkpoint.
    template_name: which one, where the checkpoint has several.
    variables: settings of the template, such as `enable_thinking`.
    date: ISO day that the template takes for today; None for that of the clock.
  """

  folder: str | os.PathLike[str]
  vocabulary: vocabularies.Vocabulary
  prompt_format: str = _PLACE
  system: str | None = None
  template_file: str | os.PathLike[str] | None = None
  template_name: str = 'default'
  variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  date: str | None = None

  def __post_init__(self) -> None:
    if _PLACE not in self.prompt_format:
      raise ValueError(
        f'prompt_format={self.prompt_format!r} has no {_PLACE}, so all prompts '
        f'would be the same; write {_PLACE} where the prompt goes.'
      )
    if self.template is None:
      _warn_missing(self.folder)
    elif self.template.reads_clock:
      warnings.warn(
        f'The chat template {self.template.path} writes the day of the clock '
        'into prompts, so that a run cannot be repeated tomorrow; set the date '
        'of chat.ChatPrompts.',
        ClockInChatTemplateWarning,
        stacklevel=2,
      )
    self._whole([self._asked(_ASKED[0])])

  @functools.cached_property
  def template(self) -> ChatTemplate | None:
    """The template that is used; None if there is none."""
    if self.template_file is None:
      found = chat_template.find(self.folder, name=self.template_name)
    else:
      found = chat_template.read(
        self.template_file, variables=chat_template.special_tokens(self.folder)
      )
    if found is None:
      return None
    variables = {**found.variables, **self.variables}
    return dataclasses.replace(found, variables=variables, date=self.date)

  @property
  def _path(self) -> str | None:
    return None if self.template is None else self.template.path

  def __call__(self, texts: Sequence[str]) -> list[Ids | ValueError]:
    """Returns for each text its ids, or why it has none."""
    if self.template is None:
      system = () if self.system is None else (self.system,)
      written: Sequence[str | ChatTemplateError] = [
        '\n\n'.join((*system, self._told(text))) for text in texts
      ]
    else:
      written = self.template.render([self._asked(text) for text in texts])
    return [self._ids(text) for text in written]

  def instruction(self, text: str) -> Ids:
    """What stands between the end of an attempt and the next one.

    Args:
      text: with which the user asks for another attempt.

    Returns:
      Ids; they depend neither on the problem nor on the attempts.

    Raises:
      ChatTemplateError: the template makes of a conversation that goes on
        something else than a continuation.
    """
    if self.template is None:
      return vocabularies.encode(text, vocabulary=self.vocabulary)
    return self._divided(self._between(text))[1]

  def closing(self) -> Ids:
    """The id with which the template ends an attempt; none without template.

    Returns:
      One id, or none.

    Raises:
      ChatTemplateError: the template ends attempts with no special token.
    """
    if self.template is None:
      return np.zeros((0,), np.int32)
    said = {'role': 'assistant', 'content': _ATTEMPTED[0]}
    again = {'role': 'user', 'content': 'Why?'}
    (text,) = self._whole([[*self._asked('Which?'), said, again]])
    return self._divided(text.rpartition(_ATTEMPTED[0])[2])[0]

  def _divided(self, between: str) -> tuple[Ids, Ids]:
    """The end of an attempt, and what follows it."""
    ids = vocabularies.encode(between, vocabulary=self.vocabulary)
    special: Mapping[str, int] = getattr(self.vocabulary, 'added_tokens', {})
    # White space may be such a token too, and says nothing.
    ends = [t for t, i in special.items() if [i] == ids[:1] and t.strip()]
    if len(ids) < 2 or not ends or not between.startswith(ends[0]):
      raise ChatTemplateError(
        f'The chat template {self._path} goes on behind an attempt with '
        f'{between[:40]!r}, which does not begin with a special token, so that '
        'a model cannot say where its turn ends; use a template whose turns '
        'end with one.'
      )
    return ids[:1], ids[1:]

  def _between(self, text: str) -> str:
    """The text from the end of an attempt to the beginning of the next."""
    found: set[str] = set()
    for before, attempt, after in self._continued(text):
      if not after.startswith(before + attempt):
        raise ChatTemplateError(self._rewrites(before + attempt, after))
      found.add(after[len(before + attempt) :])
    if len(found) > 1:
      one, other, *_ = sorted(found)
      raise ChatTemplateError(self._rewrites(one, other))
    return found.pop()

  def _continued(self, text: str) -> Iterator[tuple[str, str, str]]:
    """A conversation, an attempt, and the conversation behind it."""
    steps, attempts = [], []
    for asked, *tried in itertools.product(_ASKED, _ATTEMPTED, _ATTEMPTED):
      messages = self._asked(asked)
      for attempt in tried:
        steps.append(messages)
        attempts.append(attempt)
        said = {'role': 'assistant', 'content': attempt}
        messages = [*messages, said, {'role': 'user', 'content': text}]
        steps.append(messages)
    texts = self._whole(steps)
    return zip(texts[::2], attempts, texts[1::2])

  def _whole(self, conversations: Sequence[Any]) -> list[str]:
    """Texts of conversations that a usable template can write."""
    texts = []
    found = self.template.render(conversations) if self.template else ()
    for text in found:
      if isinstance(text, ChatTemplateError):
        raise text
      texts.append(text)
    return texts

  def _rewrites(self, before: str, after: str) -> str:
    pairs = enumerate(zip(before, after))
    same = next((i for i, (a, b) in pairs if a != b), len(before))
    start = max(same - 16, 0)
    return (
      f'The chat template {self._path} rewrites earlier turns when a '
      f'conversation goes on: {before[start : same + 24]!r} becomes '
      f'{after[start : same + 24]!r}, which is not what the model has read; '
      'give chat.ChatPrompts a template_file that leaves them as they are.'
    )

  def _asked(self, text: str) -> list[dict[str, str]]:
    asked = [{'role': 'user', 'content': self._told(text)}]
    if self.system is None:
      return asked
    return [{'role': 'system', 'content': self.system}, *asked]

  def _told(self, text: str) -> str:
    # Not `format`: formulas are full of braces.
    return self.prompt_format.replace(_PLACE, text)

  def _ids(self, text: str | ChatTemplateError) -> Ids | ValueError:
    if isinstance(text, ChatTemplateError):
      return text
    try:
      return vocabularies.encode(text, vocabulary=self.vocabulary)
    except ValueError as error:
      return error


def instruction(
  *,
  text: str,
  vocabulary: vocabularies.Vocabulary,
  form: PromptForm | None = None,
) -> Ids:
  """The ids behind the end of an attempt that ask for another one.

  Args:
    text: with which the user asks.
    vocabulary: of the model.
    form: of the prompts; None for plain text.

  Returns:
    int32 ids, at least one.

  Raises:
    ValueError: the text is empty, or the form cannot be continued.
  """
  if not text:
    raise ValueError('The instruction is empty; write what the model is told.')
  if form is None:
    return vocabularies.encode(text, vocabulary=vocabulary)
  return form.instruction(text)


def closing(*, form: PromptForm | None = None) -> Ids:
  """The ids that the form puts behind an attempt that did not end itself.

  Args:
    form: of the prompts; None for plain text, which puts none.

  Returns:
    int32 ids, perhaps none.
  """
  return np.zeros((0,), np.int32) if form is None else form.closing()


def warn_if_bypassed(vocabulary: vocabularies.Vocabulary) -> None:
  """Says by name that plain prompts are given to a chat model.

  Args:
    vocabulary: of the model; the checkpoint is that of its `folder`.
  """
  folder = getattr(vocabulary, 'folder', None)
  if folder is not None and chat_template.exists(folder):
    warnings.warn(
      f'The checkpoint {os.fspath(folder)} has a chat template, and prompts '
      'are given to it as plain text; add gin_configs/tasks/chat.gin behind '
      'the task, unless that is meant.',
      BypassedChatTemplateWarning,
      stacklevel=2,
    )


def _warn_missing(folder: str | os.PathLike[str]) -> None:
  warnings.warn(
    f'The checkpoint {os.fspath(folder)} has no chat template, so prompts are '
    'given to it as plain text; name a template_file for chat.ChatPrompts, or '
    'leave gin_configs/tasks/chat.gin out.',
    MissingChatTemplateWarning,
    stacklevel=3,
  )
