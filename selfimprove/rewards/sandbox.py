"""Boxes for programs that a model wrote: the host's side of the sandbox.

A `Sandbox` starts boxes; a `Box` is one process tree with nothing to reach and
little to use. What isolates what is in `docs/sandbox.md`. Isolation is tried
before it is relied upon: a level whose boxes can do what they must not is not
used, and without a level that holds nothing is run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from selfimprove.rewards import sandbox_wire as wire
from selfimprove.rewards.sandbox_limits import Limits

Level = Literal['namespaces', 'bubblewrap', 'limits']

_START_SECONDS = 30.0
_END_SECONDS = 10.0
_LAUNCHER = str(Path(__file__).with_name('sandbox_launcher.py'))
_LIBRARIES = ('/lib', '/lib64', '/usr/lib', '/usr/lib64')
# A box must not see these.
_HIDDEN = ('/etc/passwd', '/proc/self', '/sys/kernel', '/var/log', '/run')


class SandboxError(RuntimeError):
  """The sandbox does not work; says nothing about the program."""


class IsolationError(SandboxError):
  """The machine cannot isolate as strongly as was asked."""


class Box:
  """One running box; a context manager that leaves nothing running.

  Attributes:
    channel: to what runs in it; what comes out of it is not to be trusted.
  """

  def __init__(
    self,
    leash: socket.socket,
    channel: socket.socket,
    after: Callable[[], None] | None = None,
  ) -> None:
    self.channel = channel
    self._leash = leash
    self._after = after
    self._words: dict[str, Any] = {'failed': 'it ended without a word'}
    self._end: dict[str, Any] | None = None

  def wait_until_up(self) -> None:
    """Waits for the box to be set up: its program's time begins then.

    Raises:
      SandboxError: the box could not be set up, or not in 30 seconds.
    """
    if self._end is not None or 'up' in self._words:
      return
    self._leash.settimeout(_START_SECONDS)
    try:
      self._words |= wire.receive(self._leash)
    except EOFError:
      pass  # `end` says what is known.
    except OSError as error:
      raise SandboxError(f'A box does not start ({error}).') from None
    if 'up' not in self._words:
      self.end()

  def finish(self, seconds: float) -> dict[str, Any]:
    """Lets the program end by itself, and then ends the box.

    Args:
      seconds: how long to wait for it.

    Returns:
      What `end` returns.

    Raises:
      SandboxError: the box could not be set up, or does not end.
    """
    self.wait_until_up()
    self.channel.close()
    if self._end is None:
      select.select([self._leash], [], [], max(seconds, 0.0))
    return self.end()

  def end(self) -> dict[str, Any]:
    """Ends the box, if it has not ended, and waits until all of it is gone.

    Returns:
      `ended`: exit status of the program, negative for a signal, None where
      it was still running; `late`: whether its time was up.

    Raises:
      SandboxError: the box could not be set up, or does not end.
    """
    if self._end is None:
      self.channel.close()
      with contextlib.suppress(OSError):
        self._leash.shutdown(socket.SHUT_WR)
      self._leash.settimeout(_END_SECONDS)
      try:
        self._end = self._last_words()
      finally:
        self._leash.close()
        if self._after is not None:
          self._after()
    self._end.pop('up', None)
    if 'failed' in self._end:
      raise SandboxError(f'A box could not be set up: {self._end["failed"]}.')
    return self._end

  def _last_words(self) -> dict[str, Any]:
    words = self._words
    while True:
      try:
        words = {**words, **wire.receive(self._leash)}
        if 'ended' in words:
          words.pop('failed', None)
      except EOFError:
        return words
      except OSError as error:
        raise SandboxError(f'A box does not end ({error}).') from None

  def __enter__(self) -> Box:
    return self

  def __exit__(self, kind: Any, *_: object) -> None:
    with (
      contextlib.suppress(SandboxError) if kind else contextlib.nullcontext()
    ):
      self.end()


class Sandbox:
  """Starts boxes, from a launcher process that is started at first use.

  Attributes:
    isolation: `auto` takes the strongest level that the machine has and
      refuses to run anything where it has neither namespaces nor bubblewrap;
      `limits` asks for less: see `docs/sandbox.md`.
    limits: of each box.
    packages: folders that programs may import from, besides the standard
      library.
  """

  def __init__(
    self,
    *,
    isolation: Level | Literal['auto'] = 'auto',
    limits: Limits = Limits(),  # noqa: B008, frozen.
    packages: tuple[str, ...] = (),
  ) -> None:
    levels = ('auto', 'namespaces', 'bubblewrap', 'limits')
    if isolation not in levels:
      raise ValueError(
        f'isolation is {isolation!r}; use one of {", ".join(levels)}.'
      )
    if isolation in ('limits', 'bubblewrap') and limits.processes > 1:
      raise ValueError(
        f'processes is {limits.processes} with isolation={isolation!r}, which '
        "has no process that a program cannot kill; use 1, or 'namespaces'."
      )
    self.isolation: Level | Literal['auto'] = isolation
    self.limits = limits
    self.packages = packages
    self._launcher: _Launcher | None = None
    self._lock = threading.Lock()

  def level(self) -> Level:
    """The level in use.

    Returns:
      `namespaces`, `bubblewrap` or `limits`.

    Raises:
      IsolationError: the machine does not have what was asked for.
    """
    asked: list[Level] = ['namespaces', 'bubblewrap']
    if self.isolation != 'auto':
      asked = [self.isolation]
    elif self.limits.processes > 1:
      asked = ['namespaces']
    for level in asked:
      if weakness(level) is None:
        return level
    reasons = '; '.join(f'{level}: {weakness(level)}' for level in asked)
    raise IsolationError(
      f'This machine cannot isolate programs ({reasons}); allow user '
      "namespaces, install bubblewrap, or accept isolation='limits', which "
      'hides neither files nor the network from them.'
    )

  def prepare(self) -> None:
    """Finds the level and starts the launcher, which takes seconds.

    Raises:
      SandboxError: the sandbox does not work, or not as strongly as asked.
    """
    level = self.level()
    with self._lock:
      self._ready(level)

  def start(
    self,
    role: str,
    peer: socket.socket | None = None,
    *,
    spare_seconds: float = 0.0,
  ) -> Box:
    """A new box.

    Args:
      role: what runs in it, see `sandbox_roles`.
      peer: a socket to another box, which gets a copy.
      spare_seconds: that the box may live beyond `Limits.wall_seconds`, >= 0,
        if its end is the caller's to decide.

    Returns:
      The box, which may not be up yet.

    Raises:
      SandboxError: it cannot be started.
    """
    level = self.level()
    with self._lock:
      launcher = self._ready(level)
      if level == 'bubblewrap':
        self._launcher = None  # It is the box.
      return launcher.start(role, peer, spare_seconds)

  def _ready(self, level: Level) -> _Launcher:
    if self._launcher is None or not self._launcher.usable():
      self._launcher = _Launcher(level, self.packages, self.limits)
    return self._launcher

  def close(self) -> None:
    """Ends the launcher and all boxes; a later `start` starts another."""
    with self._lock:
      if self._launcher is not None:
        self._launcher.close()
      self._launcher = None

  def __reduce__(self) -> Any:
    return functools.partial(
      Sandbox,
      isolation=self.isolation,
      limits=self.limits,
      packages=self.packages,
    ), ()


class _Launcher:
  """The process that starts boxes, or with bubblewrap the box itself."""

  def __init__(
    self, level: Level, packages: tuple[str, ...], limits: Limits
  ) -> None:
    self._level = level
    self._limits = limits
    self._owner = os.getpid()
    command = [_interpreter(), '-P', '-s', '-S', '-B', _LAUNCHER]
    if level == 'bubblewrap':
      command = [*_bubblewrap(packages, limits), *command]
    self._folder = None
    if level == 'limits':
      self._folder = tempfile.mkdtemp(
        prefix=f'selfimprove-sandbox-{self._owner}-'
      )
      os.chmod(self._folder, 0o711)
    self._control, end = socket.socketpair()
    with end:
      self._process = subprocess.Popen(
        [*command, str(end.fileno())],
        pass_fds=[end.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Nothing of the host's environment; sets iterate alike in all boxes.
        env={'LANG': 'C.UTF-8', 'PYTHONHASHSEED': '0', 'PYTHONUTF8': '1'},
        cwd='/',
      )
    weakref.finalize(
      self, _stop, self._process, self._control, self._folder, self._owner
    )
    self._greet(level, packages)

  def usable(self) -> bool:
    return self._owner == os.getpid() and self._process.poll() is None

  def finish(self) -> None:
    """Waits for what ends by itself: bubblewrap with its box."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(_END_SECONDS)
    self.close()

  def close(self) -> None:
    _stop(self._process, self._control, self._folder, self._owner)

  def start(
    self, role: str, peer: socket.socket | None, spare_seconds: float = 0.0
  ) -> Box:
    leash, leash_end = socket.socketpair()
    channel, channel_end = socket.socketpair()
    limits = dataclasses.asdict(self._limits)
    limits['wall_seconds'] += spare_seconds
    request = {'role': role, 'limits': limits}
    with leash_end, channel_end:
      ends = [leash_end, channel_end, *([] if peer is None else [peer])]
      try:
        socket.send_fds(self._control, [b'.'], [end.fileno() for end in ends])
        wire.send(self._control, request)
      except OSError as error:
        leash.close()
        channel.close()
        raise SandboxError(
          f'The launcher of boxes is gone ({error}).'
        ) from None
    after = self.finish if self._level == 'bubblewrap' else None
    return Box(leash, channel, after)

  def _greet(self, level: Level, packages: tuple[str, ...]) -> None:
    settings = {
      'isolation': level,
      'parent': self._owner,
      'packages': list(packages),
      'readable': _readable(packages),
      'folder': self._folder or '/',
    }
    try:
      self._control.settimeout(_START_SECONDS)
      wire.send(self._control, settings)
      answer = wire.receive(self._control)
      self._control.settimeout(None)
    except (OSError, EOFError, wire.MessageError) as error:
      answer = {'error': f'it ended while starting ({error})'}
    if 'error' in answer:
      self.close()
      raise SandboxError(f'No launcher of boxes: {answer["error"]}.')


def _stop(
  process: subprocess.Popen[bytes],
  control: socket.socket,
  folder: str | None,
  owner: int,
) -> None:
  control.close()
  if os.getpid() == owner:  # A fork must not end what the original uses.
    process.kill()
    process.wait()
    if folder is not None:
      shutil.rmtree(folder, ignore_errors=True)


def _interpreter() -> str:
  # That of an environment reads files of its own at its start.
  return getattr(sys, '_base_executable', None) or sys.executable


def _readable(packages: tuple[str, ...]) -> list[list[str]]:
  """What a box can see: paths, and what is shown there."""
  shown: list[list[str]] = []
  folders = [os.path.join(sys.base_prefix, 'lib'), *packages]
  for path in sorted({os.path.realpath(folder) for folder in folders}):
    shown.append([path, path])
  for path in _LIBRARIES:
    if os.path.islink(path):
      shown.append([path, f'-> {os.readlink(path)}'])
    elif os.path.isdir(path):
      shown.append([path, path])
  kept: list[list[str]] = []
  for path, real in sorted(shown):
    if not any(path == top or path.startswith(f'{top}/') for top, _ in kept):
      kept.append([path, real])
  return kept


def _bubblewrap(packages: tuple[str, ...], limits: Limits) -> list[str]:
  command = shutil.which('bwrap')
  if command is None:
    raise SandboxError('`bwrap` is not installed')
  options = [
    *('--unshare-all', '--unshare-user', '--die-with-parent', '--new-session'),
    *('--cap-drop', 'ALL', '--uid', '65534', '--gid', '65534'),
    *('--hostname', 'box', '--dev-bind', '/dev/null', '/dev/null'),
  ]
  # A box of bubblewrap starts an interpreter, which has to find itself.
  sources = Path(_LAUNCHER).parent
  own = [
    os.path.realpath(_interpreter()),
    *map(str, sorted(sources.glob('sandbox_*.py'))),
    *(str(folder / '__init__.py') for folder in (sources, sources.parent)),
  ]
  for path, real in [*_readable(packages), *([path, path] for path in own)]:
    if real.startswith('-> '):
      options += ['--symlink', real[3:], path]
    else:
      options += ['--ro-bind', real, path]
  options += ['--size', str(limits.scratch_bytes), '--tmpfs', '/scratch']
  return [command, *options, '--chdir', '/scratch', '--remount-ro', '/', '--']


@functools.cache
def weakness(level: Level) -> str | None:
  """Why a level does not hold on this machine, tried once per process.

  Args:
    level: which.

  Returns:
    None where it holds.
  """
  if not sys.platform.startswith('linux'):
    return 'it needs Linux'
  try:
    facts = _inspected(level)
  except SandboxError as error:
    return str(error).rstrip('.')
  found = [
    *(f'it sees {path}' for path in _seen(facts) if level != 'limits'),
    *(f'it writes {path}' for path in facts['writes'] if level != 'limits'),
    *(['it cannot write to its scratch folder'] * (not facts['scratch'])),
    *(['its user cannot read the standard library'] * (not facts['library'])),
    *(['it can open sockets'] * facts['socket']),
    *(['it can start processes'] * facts['forks']),
    *(['it can signal other processes'] * bool(facts['others'])),
    *(['it runs as root'] * (facts['user'] == 0)),
  ]
  return ' and '.join(found) or None


def _seen(facts: dict[str, Any]) -> list[str]:
  own = [path for path, _ in _readable(())]
  own += ['/dev', '/scratch', _LAUNCHER, os.path.realpath(_interpreter())]
  known = {path.split('/')[1] for path in own}
  more = [f'/{name}' for name in facts['root'] if name not in known]
  return [*facts['seen'], *more]


def _inspected(level: Level) -> dict[str, Any]:
  launcher = _Launcher(level, (), Limits())
  try:
    with (
      launcher.start('inspect', None) as box,
      tempfile.NamedTemporaryFile() as file,
    ):
      box.channel.settimeout(_START_SECONDS)
      wire.send(box.channel, [file.name, *_HIDDEN])
      return wire.receive(box.channel)
  except (OSError, EOFError, wire.MessageError) as error:
    raise SandboxError(f'a box does not answer ({error})') from None
  finally:
    launcher.close()
