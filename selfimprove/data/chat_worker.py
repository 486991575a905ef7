"""The child side of `chat_template`: renders templates that strangers wrote.

A template is a program. Jinja's sandbox keeps it from the objects of Python,
and not from looping for hours or filling the memory; so this script, which is
no part of a training process, renders it under limits that the kernel keeps.

One JSON object comes in on stdin; when the template is compiled, a first line
goes out, and then one JSON line for each conversation.
It imports the standard library and Jinja only.
"""

from __future__ import annotations

import codecs
import datetime
import json
import random
import resource
import signal
import sys
import time
import unicodedata  # noqa: F401, for names of characters in templates.
from collections.abc import Callable
from typing import Any, NoReturn

_MAX_CHARACTERS = 10_000_000
_START_SECONDS = 60.0  # To begin with, on a busy machine.


def main() -> None:
  """Answers the request on stdin."""
  # Without a handler the kernel ends the process, whatever it is doing.
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  signal.setitimer(signal.ITIMER_REAL, _START_SECONDS)
  request = json.load(sys.stdin)
  sys.path[:] = request['path']
  environment = _environment(request['date'])
  _limit(request['memory_bytes'])
  signal.setitimer(signal.ITIMER_REAL, request['seconds'])
  made = _attempt(environment.from_string, request['template'])
  sys.stdout.write('compiled\n')
  sys.stdout.flush()
  for messages in request['conversations']:
    signal.setitimer(signal.ITIMER_REAL, request['seconds'])
    answer = made
    if 'value' in made:
      fields = request['fields'] | {'messages': messages}
      answer = _attempt(_text, made['value'], fields)
    sys.stdout.write(json.dumps(answer) + '\n')
    sys.stdout.flush()


def _environment(date: str | None) -> Any:
  """What chat templates are written for: as `transformers` sets it up."""
  import jinja2
  import jinja2.constants
  import jinja2.debug
  from jinja2 import ext, nodes, sandbox

  class Generation(ext.Extension):
    """The tag around what an assistant writes: here it is its content."""

    tags = {'generation'}  # noqa: RUF012, Jinja's way.

    def parse(self, parser: Any) -> Any:
      line = next(parser.stream).lineno
      body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
      call = self.call_method('_content')
      return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _content(self, caller: Callable[[], str]) -> str:
      return caller()

  def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
  ) -> str:
    # Unlike that of Jinja, which writes for HTML.
    return json.dumps(
      value,
      ensure_ascii=ensure_ascii,
      indent=indent,
      separators=separators,
      sort_keys=sort_keys,
    )

  def raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))

  def strftime_now(form: str) -> str:
    now = datetime.datetime.now()
    if date is not None:
      now = datetime.datetime.fromisoformat(date)
    return now.strftime(form)

  made = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[Generation, ext.loopcontrols],
  )
  made.filters['tojson'] = tojson
  names: dict[str, Any] = {
    'raise_exception': raise_exception,
    'strftime_now': strftime_now,
  }
  made.globals.update(names)
  return made


def _text(template: Any, fields: dict[str, Any]) -> str:
  text = template.render(**fields)
  if len(text) > _MAX_CHARACTERS:
    raise ValueError(f'it writes {len(text)} characters')
  return text


def _attempt(function: Callable[..., Any], *args: Any) -> dict[str, Any]:
  """What a function returns, or why it does not."""
  try:
    return {'value': function(*args)}
  except Exception as error:
    words = ' '.join(str(error).split())[:300]
    return {'error': type(error).__name__, 'message': words}


def _limit(memory_bytes: int) -> None:
  """Gives up what no template needs."""
  # What Python reads from files at first use, before they are out of reach.
  time.localtime()
  codecs.lookup('unicode_escape')
  random.seed(0)  # A random choice is the same in every run.
  limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
  limits[resource.RLIMIT_NOFILE] = 3  # None besides the standard streams.
  if sys.platform == 'linux':  # Others refuse limits of memory.
    limits[resource.RLIMIT_AS] = memory_bytes
  for name, most in limits.items():
    resource.setrlimit(name, (most, most))


if __name__ == '__main__':
  main()
