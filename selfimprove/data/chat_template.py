"""The chat template of a checkpoint, rendered as `transformers` renders it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from selfimprove import hub, json_object
from selfimprove.data import chat_worker

TEMPLATE_FILE = 'chat_template.jinja'
_CONFIG = 'tokenizer_config.json'
_OLDER_CONFIG = 'special_tokens_map.json'
_TOKENS = tuple(
  f'{name}_token' for name in ('bos', 'eos', 'unk', 'sep', 'pad', 'cls', 'mask')
)

Conversation = Sequence[Mapping[str, str]]
"""Messages: each with `role` and `content`."""


class ChatTemplateError(ValueError):
  """A template that does not write a conversation, or is not allowed to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatTemplate:
  """How a model is used to seeing a conversation.

  Attributes:
    source: Jinja; whoever wrote it is not trusted.
    path: of its file, for messages.
    variables: what it reads besides the messages: special tokens such as
      `bos_token`, and settings such as `enable_thinking`.
    date: ISO day that it takes for today; None for that of the clock.
    seconds: most for one conversation, > 0.
    memory_bytes: most for all of them.
  """

  source: str
  path: str
  variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  date: str | None = None
  seconds: float = 10.0
  memory_bytes: int = 2**30

  @property
  def reads_clock(self) -> bool:
    """Whether its texts may be others tomorrow."""
    return self.date is None and 'strftime_now' in self.source

  def render(
    self,
    conversations: Sequence[Conversation],
    *,
    add_generation_prompt: bool = True,
  ) -> list[str | ChatTemplateError]:
    """The texts of conversations.

    Args:
      conversations: any number.
      add_generation_prompt: whether it is the assistant's turn.

    Returns:
      For each its text, or why the template does not write it.

    Raises:
      ChatTemplateError: the template exceeds its time or its memory.
    """
    given = self._request(conversations, add_generation_prompt)
    return [self._read(answer) for answer in self._run(given, conversations)]

  def _request(
    self, conversations: Sequence[Conversation], add_generation_prompt: bool
  ) -> str:
    own = {
      'tools': None,
      'documents': None,
      'add_generation_prompt': add_generation_prompt,
    }
    return json.dumps(
      {
        'path': sys.path,
        'template': self.source,
        'fields': {**own, **self.variables},
        'date': self.date,
        'seconds': self.seconds,
        'memory_bytes': self.memory_bytes,
        'conversations': [list(map(dict, c)) for c in conversations],
      }
    )

  def _run(
    self, request: str, conversations: Sequence[Conversation]
  ) -> list[dict[str, Any]]:
    few = len(conversations) < _FEW
    status, lines, complaint = (_few_answers if few else _answers)(request)
    if status == 0 and len(lines) == len(conversations):
      return [json.loads(line) for line in lines]
    why = f'ended its process with status {status} {complaint}'.rstrip()
    if status == -signal.SIGALRM:
      why = f'took more than {self.seconds:g} seconds'
    raise ChatTemplateError(
      f'The chat template {self.path} {why} on conversation {len(lines)}; use '
      'another template.'
    )

  def _read(self, answer: Mapping[str, Any]) -> str | ChatTemplateError:
    if 'value' in answer:
      return answer['value']
    why = f'{answer["error"]}: {answer["message"]}'.rstrip(': ').rstrip('.')
    return ChatTemplateError(
      f'The chat template {self.path} does not write this conversation '
      f'({why}); change the conversation or use another template.'
    )


def find(
  folder: str | os.PathLike[str], *, name: str = 'default'
) -> ChatTemplate | None:
  """The chat template of a checkpoint.

  Args:
    folder: of the checkpoint, or its name on the hub.
    name: which one, where it has several.

  Returns:
    The template with the special tokens of the checkpoint; None if it has none.

  Raises:
    ValueError: it has several and none of that name, or a file is no JSON.
  """
  folder = hub.local_folder(folder)
  found = _templates(folder)
  if not found:
    return None
  if name not in found:
    raise ValueError(
      f'{folder} has no chat template {name!r}, only '
      f'{sorted(found)}; name one of these.'
    )
  path, source = found[name]
  return ChatTemplate(
    source=source, path=path, variables=special_tokens(folder)
  )


def read(
  path: str | os.PathLike[str], *, variables: Mapping[str, Any]
) -> ChatTemplate:
  """A chat template of one's own.

  Args:
    path: of the file.
    variables: what it reads besides the messages.

  Returns:
    The template.

  Raises:
    FileNotFoundError: there is no such file.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'There is no chat template {os.fspath(path)}; name a Jinja file.'
    )
  return ChatTemplate(
    source=json_object.text(path), path=os.fspath(path), variables=variables
  )


def exists(folder: str | os.PathLike[str]) -> bool:
  """Whether a checkpoint has a chat template.

  Args:
    folder: of the checkpoint, or its name on the hub.

  Returns:
    Whether it has any.
  """
  return bool(_templates(hub.local_folder(folder)))


def special_tokens(folder: str | os.PathLike[str]) -> dict[str, str]:
  """What a checkpoint calls its special tokens.

  Args:
    folder: of the checkpoint, or its name on the hub.

  Returns:
    Name, such as `bos_token`, -> text.
  """
  folder = hub.local_folder(folder)
  fields = _fields(folder, _CONFIG)
  if 'added_tokens_decoder' not in fields:
    fields |= _fields(folder, _OLDER_CONFIG)
  found = {name: fields.get(name) for name in _TOKENS}
  plain = {
    name: token.get('content') if isinstance(token, Mapping) else token
    for name, token in found.items()
  }
  return {name: t for name, t in plain.items() if isinstance(t, str)}


def _templates(folder: str | os.PathLike[str]) -> dict[str, tuple[str, str]]:
  """Name -> path and source; files of their own come before the config."""
  files = {'default': os.path.join(folder, TEMPLATE_FILE)}
  more = os.path.join(folder, hub.TEMPLATES_FOLDER)
  for file in sorted(os.listdir(more)) if os.path.isdir(more) else ():
    if file.endswith('.jinja'):
      files[file.removesuffix('.jinja')] = os.path.join(more, file)
  found = {
    n: (p, json_object.text(p)) for n, p in files.items() if os.path.isfile(p)
  }
  if found:
    return found
  path = os.path.join(folder, _CONFIG)
  given = _fields(folder, _CONFIG).get('chat_template')
  if isinstance(given, str):
    given = [{'name': 'default', 'template': given}]
  try:
    return {one['name']: (path, str(one['template'])) for one in given or ()}
  except (TypeError, KeyError):
    raise ValueError(
      f'{path} has a chat_template that is neither a text nor a list of '
      'objects with `name` and `template`; correct it.'
    ) from None


def _fields(folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
  path = os.path.join(folder, name)
  return json_object.read(path) if os.path.isfile(path) else {}


_FEW = 32


def _answers(request: str) -> tuple[int, list[str], str]:
  """Status of a process that renders, what it answers and what it complains."""
  # Isolated: neither the environment nor the working folder is its business.
  done = subprocess.run(
    [sys.executable, '-I', chat_worker.__file__],
    input=request,
    capture_output=True,
    text=True,
    encoding='ascii',
    errors='backslashreplace',
    env={k: v for k, v in os.environ.items() if k == 'TZ'},
    check=False,
  )
  complaint = done.stderr.strip().splitlines()[-1:]
  return done.returncode, done.stdout.splitlines(), ' '.join(complaint)


# What a configuration asks again whenever it builds an object anew.
_few_answers = functools.lru_cache(maxsize=64)(_answers)
