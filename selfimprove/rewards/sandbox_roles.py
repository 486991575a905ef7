"""What runs inside a box: a program, or the tests that examine one.

The two never share an interpreter. Tests hold stand-ins for the functions of
the program; a call sends its arguments as plain data (`sandbox_wire`) to the
program's box, and what comes back is made anew there as plain data, whose `==`
is Python's own. Nothing that the program patches or prints reaches the tests.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import resource
import socket
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from selfimprove.rewards import sandbox_wire as wire


def serve_calls(channel: socket.socket, peer: socket.socket) -> None:
  """Loads a program and answers calls of its functions until nobody asks.

  Args:
    channel: brings `{'sources': [...]}`; the first that compiles is run.
    peer: brings the requests of `_Program`, takes the answers.
  """
  sources = wire.receive(channel)['sources']
  channel.close()
  module = types.ModuleType('program')
  sys.modules['program'] = module
  answer = _answered(lambda: _execute(sources, module.__dict__))
  objects: list[Any] = []
  while True:
    _send_answer(peer, answer)
    request = wire.receive(peer)
    answer = _answered(
      functools.partial(_act, request, module.__dict__, objects)
    )


def run_script(channel: socket.socket, peer: None) -> None:
  """Runs a program as a script; its output goes into the channel.

  Args:
    channel: brings `{'sources': [...], 'stdin': text}`.
    peer: not used.
  """
  del peer
  content = wire.receive(channel)
  _replace_stdin(content['stdin'].encode('utf-8', 'surrogatepass'))
  os.dup2(channel.fileno(), 1)
  channel.close()
  sys.stdin = _stream(0, 'r')
  sys.stdout = _stream(1, 'w')
  module = types.ModuleType('__main__')
  sys.modules['__main__'] = module
  code = 0
  try:
    _execute(content['sources'], module.__dict__)
    _join_threads()
  except SystemExit as end:
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
  except BaseException:
    code = 1
  sys.stdout.flush()
  os._exit(code & 0xFF)


def examine(channel: socket.socket, peer: socket.socket) -> None:
  """Runs tests on the program at the other end and reports each.

  Args:
    channel: brings `setup` (a text that is run first), `tests` (texts), `names`
      (what the program is to define) and `counted` (whether the tests count
      their cases, `with __case__():`, or are one each); takes `{'case': passed,
      'why': text}` per case, then `{'end': True}`; or `{'row': why}` where the
      tests themselves cannot be run.
    peer: where the program answers.
  """
  content = wire.receive(channel)
  program = _Program(peer)
  tests = _Tests(channel, program)
  try:
    program.load()
    wanted = {name: program.find(name) for name in content['names']}
    namespace = {'__name__': 'tests', '__case__': tests.case, **wanted}
    exec(compile(content['setup'], '<setup>', 'exec'), namespace)
    namespace |= wanted  # Whatever of the same name the setup defined.
    for test in content['tests']:
      code = compile(test, '<test>', 'exec')
      tests.run(code, namespace, counted=content['counted'])
    wire.send(channel, {'end': True})
  except _UnsupportedError as error:
    wire.send(channel, {'row': str(error)[:500]})
  except Exception as error:
    wire.send(channel, {'row': told(error)})


def inspect(channel: socket.socket, peer: None) -> None:
  """Tries what a box must refuse, and says what it could do.

  Args:
    channel: brings a list of paths; takes a dictionary of what was found.
    peer: not used.
  """
  del peer
  paths = wire.receive(channel)
  facts = {
    'seen': [path for path in paths if os.path.lexists(path)],
    'root': sorted(os.listdir('/')),
    'user': os.getuid(),
    'writes': [path for path in ('/', sys.prefix) if _writes(path)],
    'scratch': _writes('.'),
    'socket': _works(lambda: socket.socket(socket.AF_INET).close()),
    'memory': resource.getrlimit(resource.RLIMIT_AS)[0],
    'others': [pid for pid in range(1, 400) if _signals(pid)],
    'forks': _works(_fork),
    'library': _works(lambda: importlib.import_module('colorsys')),
  }
  wire.send(channel, facts)


def told(error: BaseException) -> str:
  """Type and message of an error, in at most 300 characters."""
  try:
    message = str(error)
  except BaseException:
    message = 'without a message'
  return f'{type(error).__name__:.100}: {message:.200}'


class _UnsupportedError(BaseException):
  """A test asks for what cannot be sent; `except Exception` lets it pass."""


class _LostError(BaseException):
  """The program does not answer as programs do."""


class _Program:
  """The other end of the line, seen from the tests.

  Attributes:
    lost: why no answer of it counts any more; None while they do.
    used: whether a function of the program was called.
  """

  def __init__(self, peer: socket.socket) -> None:
    self._peer = peer
    self.lost: str | None = None
    self.used = False
    self.broken: str | None = None

  def load(self) -> None:
    try:
      self._answer([])
    except BaseException as error:
      self.broken = told(error)

  def find(self, name: str) -> _Remote:
    return _Remote(self, lambda: self.ask({'find': name}, []))

  def ask(self, request: dict[str, Any], args: list[Any]) -> Any:
    self.used = True
    if self.broken:
      raise _LostError(self.lose(f'the program did not load: {self.broken}'))
    if self.lost:
      raise _LostError(self.lost)
    try:
      wire.send(self._peer, request)
    except wire.MessageError as error:
      raise _UnsupportedError(f'arguments: {error}') from None
    except OSError:
      raise _LostError(self.lose('the program ended')) from None
    return self._answer(args)

  def lose(self, why: str) -> str:
    self.lost = self.lost or why
    return why

  def _answer(self, args: list[Any]) -> Any:
    try:
      answer = wire.receive(self._peer)
      kind, content, changed = answer
      if kind == 'value':
        self._change(args, changed)
        return wire.decode(content, self._remote)
      types_, message = list(map(str, content)), str(changed)[:300]
    except (EOFError, OSError):
      raise _LostError(self.lose('the program ended')) from None
    except (TypeError, ValueError) as error:
      raise _LostError(self.lose(f'its answer is {error}'[:300])) from None
    if kind != 'error':
      raise _LostError(self.lose(f'{kind!s:.50}: {message}'))
    raise _exception(types_)(message)

  def _remote(self, number: int) -> _Remote:
    return _Remote(self, number)

  def _change(self, args: list[Any], changed: Any) -> None:
    """Lists, dictionaries and sets that the function was given and changed."""
    for index, data in list(changed or []):
      old, new = args[index], wire.decode(data, self._remote)
      if type(old) is not type(new) or not isinstance(old, list | dict | set):
        raise ValueError('a change of an argument that cannot change')
      old.clear()
      old.extend(new) if isinstance(old, list) else old.update(new)


class _Remote:
  """An object of the program that tests can call, but not look into.

  Whatever would let the program decide a comparison is refused.
  """

  __slots__ = ('_number', '_program')

  def __init__(self, program: _Program, number: Any) -> None:
    object.__setattr__(self, '_program', program)
    object.__setattr__(self, '_number', number)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    request = {
      'call': _number(self),
      'args': [_sent(arg) for arg in args],
      'kwargs': {name: _sent(value) for name, value in kwargs.items()},
    }
    return _program(self).ask(request, list(args))

  def __getattr__(self, name: str) -> Any:
    if name.startswith('__'):
      raise AttributeError(name)
    return _program(self).ask({'get': _number(self), 'name': name}, [])

  def __setattr__(self, name: str, value: Any) -> None:
    request = {'set': _number(self), 'name': name, 'value': _sent(value)}
    _program(self).ask(request, [])

  def _refuse(self, *_: Any) -> Any:
    why = 'it returned an object that is not plain data'
    raise _LostError(_program(self).lose(why))

  __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
  __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = _refuse
  __hash__ = __index__ = __float__ = __int__ = __reduce_ex__ = _refuse


def _program(remote: _Remote) -> _Program:
  return object.__getattribute__(remote, '_program')


def _number(remote: _Remote) -> int:
  number = object.__getattribute__(remote, '_number')
  if callable(number):  # A name that was not looked up yet.
    number = _number(number())
    object.__setattr__(remote, '_number', number)
  return number


def _sent(value: Any) -> Any:
  def number(item: Any) -> int:
    if type(item) is _Remote:
      return _number(item)
    raise wire.NotPlainError(f'{type(item).__name__!r} is not plain data')

  try:
    return wire.encode(value, number)
  except wire.NotPlainError as error:
    raise _UnsupportedError(f'an argument cannot be sent: {error}') from None


class _Tests:
  """Runs cases and reports them one by one."""

  def __init__(self, channel: socket.socket, program: _Program) -> None:
    self._channel = channel
    self._program = program

  def run(
    self, code: types.CodeType, namespace: dict[str, Any], *, counted: bool
  ) -> None:
    """Runs a test that is a case itself, or that counts its own."""
    try:
      exec(code, namespace)
      why = self._program.lost
    except _UnsupportedError:
      raise
    except BaseException as error:
      if not self._program.used and not isinstance(error, AssertionError):
        raise RuntimeError(f'before any call: {told(error)}') from None
      why = self._program.lost or told(error)
    if why is not None or not counted:
      wire.send(self._channel, {'case': why is None, 'why': why})

  @contextlib.contextmanager
  def case(self) -> Any:
    """Runs one part of a test; its failure does not stop the others."""
    try:
      yield
      why = self._program.lost
    except _UnsupportedError:
      raise
    except BaseException as error:
      why = self._program.lost or told(error)
    wire.send(self._channel, {'case': why is None, 'why': why})


# What tests may expect. Not among them: those by which functions end a loop
# that called them (StopIteration), and those that end a process.
_EXCEPTIONS: Mapping[str, type[Exception]] = {
  kind.__name__: kind
  for kind in (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError,
    Exception, FileExistsError, FileNotFoundError, FloatingPointError,
    ImportError, IndexError, KeyError, LookupError, MemoryError,
    ModuleNotFoundError, NameError, NotImplementedError, OSError,
    OverflowError, PermissionError, RecursionError, RuntimeError, SyntaxError,
    TimeoutError, TypeError, UnboundLocalError, ValueError, ZeroDivisionError,
  )
}  # fmt: skip


def _exception(names: list[str]) -> type[Exception]:
  return next((_EXCEPTIONS[n] for n in names if n in _EXCEPTIONS), RuntimeError)


# The program's side.


def _execute(sources: list[str], namespace: dict[str, Any]) -> list[Any]:
  *others, last = sources
  for source in others:
    with contextlib.suppress(SyntaxError, ValueError):
      code = compile(source, '<program>', 'exec')
      break
  else:
    code = compile(last, '<program>', 'exec')
  exec(code, namespace)
  return ['value', None, None]


def _answered(function: Callable[[], list[Any]]) -> list[Any]:
  try:
    return function()
  except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
    return ['exit', [type(error).__name__], 'the program ended itself']
  except BaseException as error:
    names = [kind.__name__[:100] for kind in type(error).__mro__]
    return ['error', names, told(error).partition(': ')[2]]


def _send_answer(peer: socket.socket, answer: list[Any]) -> None:
  try:
    wire.send(peer, answer)
  except wire.MessageError as error:
    wire.send(peer, ['lost', [], str(error)])


def _act(
  request: dict[str, Any], namespace: dict[str, Any], objects: list[Any]
) -> list[Any]:
  def number(value: Any) -> int:
    objects.append(value)
    return len(objects) - 1

  def decode(data: Any) -> Any:
    return wire.decode(data, objects.__getitem__)

  if 'find' in request:
    name = request['find']
    if name not in namespace:
      raise NameError(f'the program defines no {name!r}')
    return ['value', {'t': 'object', 'v': number(namespace[name])}, None]
  if 'get' in request:
    value = getattr(objects[request['get']], request['name'])
    return ['value', wire.encode(value, number), None]
  if 'set' in request:
    target = objects[request['set']]
    setattr(target, request['name'], decode(request['value']))
    return ['value', None, None]
  args = decode(request['args'])
  kwargs = {key: decode(value) for key, value in request['kwargs'].items()}
  value = objects[request['call']](*args, **kwargs)
  changed = _changed(args, request['args'], number)
  return ['value', wire.encode(value, number), changed]


def _changed(
  args: list[Any], sent: list[Any], number: Callable[[Any], int]
) -> list[Any]:
  encoded = [
    (index, wire.encode(arg, number), before)
    for index, (arg, before) in enumerate(zip(args, sent))
    if type(arg) in (list, dict, set)
  ]
  return [[index, now] for index, now, before in encoded if now != before]


def _stream(number: int, mode: str) -> Any:
  return os.fdopen(
    number, mode, encoding='utf-8', errors='replace', closefd=False
  )


def _replace_stdin(content: bytes) -> None:
  with open('.stdin', 'wb+') as file:
    os.unlink('.stdin')
    file.write(content)
    file.seek(0)
    os.dup2(file.fileno(), 0)


def _join_threads() -> None:
  threading = sys.modules.get('threading')
  if threading is not None:
    main = threading.main_thread()
    for thread in threading.enumerate():
      if thread is not main and not thread.daemon:
        thread.join()


# What `inspect` tries.


def _works(action: Callable[[], Any]) -> bool:
  try:
    action()
  except (OSError, ImportError):
    return False
  return True


def _writes(folder: str) -> bool:
  path = os.path.join(folder, f'.written-by-{os.getpid()}')

  def write() -> None:
    with open(path, 'x'):
      os.unlink(path)

  return _works(write)


def _signals(pid: int) -> bool:
  return pid != os.getpid() and _works(lambda: os.kill(pid, 0))


def _fork() -> None:
  child = os.fork()
  if child == 0:
    os._exit(0)
  os.waitpid(child, 0)
