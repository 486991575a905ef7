"""The chat template of a checkpoint, rendered as `transformers` renders it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

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
      ChatTemplateError: the template ends its process, takes too long on many
        conversations, or writes far more than it is given.
    """
    answers: list[dict[str, Any]] = []
    slow = 0
    while left := conversations[len(answers) :]:
      request = self._request(left, add_generation_prompt)
      ask = _few_answers if len(left) < _FEW else _answers
      try:
        answers += map(json.loads, ask(request, len(left)))
      except _EndedError as ended:
        answers += map(json.loads, ended.lines)
        slow += 1
        if not ended.for_one or slow > _SLOW + len(answers) * _SLOW_SHARE:
          raise self._refusal(ended, len(answers)) from None
        why = f'it took more than {self.seconds:g} seconds'
        answers.append({'error': 'TimeoutError', 'message': why})
    return [self._read(answer) for answer in answers]

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

  def _refusal(self, ended: _EndedError, done: int) -> ChatTemplateError:
    why = ended.why
    if ended.status == -signal.SIGALRM:
      why = f'took more than {self.seconds:g} seconds'
    return ChatTemplateError(
      f'The chat template {self.path} {why} on conversation {done}; use '
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
  config, older = (os.path.join(folder, f) for f in (_CONFIG, _OLDER_CONFIG))
  fields = json_object.read_if_there(config)
  if 'added_tokens_decoder' not in fields:
    fields |= json_object.read_if_there(older)
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
  given = json_object.read_if_there(path).get('chat_template')
  if isinstance(given, str):
    given = [{'name': 'default', 'template': given}]
  try:
    return {one['name']: (path, str(one['template'])) for one in given or ()}
  except (TypeError, KeyError):
    raise ValueError(
      f'{path} has a chat_template that is neither a text nor a list of '
      'objects with `name` and `template`; correct it.'
    ) from None


_FEW = 32
_COMPLAINT = 2**16
# Conversations that may take too long, and of many which share, before the
# template is taken for one that never ends.
_SLOW, _SLOW_SHARE = 4, 0.01
# The most that a process may answer, in bytes: room, room for each conversation
# (what a template puts around it), and how often it may repeat what is given.
_ROOM, _ROOM_EACH, _REPEATED = 2**25, 2**14, 8


class _EndedError(Exception):
  """A process that renders has not answered everything.

  Attributes:
    status: of the process.
    lines: its answers.
    for_one: whether the fault is that of the next conversation alone.
    why: what it did.
  """

  def __init__(
    self, *, status: int, lines: Sequence[bytes], for_one: bool, why: str
  ) -> None:
    super().__init__(why)
    self.status, self.lines = status, lines
    self.for_one, self.why = for_one, why


def _answers(request: str, count: int) -> tuple[bytes, ...]:
  """What a process that renders answers; raises `_EndedError`."""
  most = _ROOM + _ROOM_EACH * count + _REPEATED * len(request)
  # Isolated: neither the environment nor the working folder is its business.
  with subprocess.Popen(
    [sys.executable, '-I', chat_worker.__file__],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env={k: v for k, v in os.environ.items() if k == 'TZ'},
  ) as process:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
      # It reads everything before it answers.
      with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(request.encode('ascii'))
      lines = _lines(process.stdout, most)
      complaint = process.stderr.read(_COMPLAINT)
    finally:
      process.kill()  # It has ended, or has said too much.
  if lines is None:
    why = f'wrote more than {most} bytes'
    raise _EndedError(status=0, lines=(), for_one=False, why=why)
  status, begun = process.returncode, bool(lines)
  if status == 0 and len(lines) == count + 1:
    return tuple(lines[1:])
  last = complaint.decode('ascii', 'backslashreplace').strip().splitlines()[-1:]
  raise _EndedError(
    status=status,
    lines=lines[1:],
    for_one=begun and status == -signal.SIGALRM,
    why=f'ended its process with status {status} {"".join(last)}'.rstrip(),
  )


def _lines(pipe: IO[bytes], most: int) -> list[bytes] | None:
  """The whole lines of a pipe; None if they are more than so many bytes."""
  found = []
  while line := pipe.readline(most + 1):
    most -= len(line)
    if most < 0:
      return None
    if line.endswith(b'\n'):
      found.append(line)
  return found


# What a configuration asks again whenever it builds an object anew. An error is
# not kept: it may be that of a busy machine.
_few_answers = functools.lru_cache(maxsize=64)(_answers)
