"""Starts boxes: the trusted side of the sandbox, a script of its own.

Run with the number of an inherited socket, it becomes a process that knows the
standard library alone, puts the rest of the machine out of its own sight, and
then forks a box for each request:

    launcher -- watcher -- guard (process 1 of its namespace) -- program

The guard ends when the host lets go of the leash, when the program ends or
when the time is up, and with process 1 the kernel kills all the others. Each
of them dies with its parent. What a box is to run comes through the box's own
channel: nothing of an earlier one is in the memory that is forked.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import random
import resource
import select
import shutil
import signal
import socket
import sys
import types
from typing import Any, NoReturn

_ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), '../..'))
if __name__ == '__main__':
  sys.path.append(_ROOT)

from selfimprove.rewards import sandbox_kernel as kernel  # noqa: E402
from selfimprove.rewards import sandbox_roles as roles  # noqa: E402
from selfimprove.rewards import sandbox_wire as wire  # noqa: E402

_SCRATCH = '/scratch'
_FIRST_USER = 0x70000000  # Plus a process number: a user that owns nothing.
_NOBODY = 65534
_THREADS = 32
_RUNNING = 8  # Launcher, watchers, guards: they can count as the box's own.
_ROLES = {
  'calls': roles.serve_calls,
  'script': roles.run_script,
  'examine': roles.examine,
  'inspect': roles.inspect,
}
# What programs import most, once for all boxes.
_PRELOADED = (
  'bisect', 'collections', 'copy', 'datetime', 'decimal', 'fractions',
  'functools', 'hashlib', 'heapq', 'itertools', 'json', 'math', 'operator',
  're', 'statistics', 'string', 'typing',
)  # fmt: skip


def main(descriptor: int) -> None:
  """Serves the host until it closes the connection.

  Args:
    descriptor: number of a socket. It brings first the settings (`isolation`,
      `parent`, `packages`, `readable`, `folder`) and takes `{'ready': True}`
      or `{'error': why}`; then it brings requests: a byte with the descriptors
      of leash, channel and perhaps peer, and `{'role': name, 'limits': {}}`.
      The leash says `{'up': True}` where the program's time begins, and then
      how it ended.
  """
  control = socket.socket(fileno=descriptor)
  settings = wire.receive(control)
  try:
    launcher = _Launcher(settings)
  except Exception as error:
    wire.send(control, {'error': f'{type(error).__name__}: {error}'[:300]})
    return
  wire.send(control, {'ready': True})
  while _serve(control, launcher):
    pass


def _serve(control: socket.socket, launcher: _Launcher) -> bool:
  _, descriptors, *_ = socket.recv_fds(control, 1, 3)
  if not descriptors:
    return False
  request = wire.receive(control)
  sockets = [socket.socket(fileno=number) for number in descriptors]
  if launcher.inside:
    control.close()
    launcher.guard(request, *sockets)
  if os.fork() == 0:
    control.close()
    launcher.watch(request, *sockets)
  for item in sockets:
    item.close()
  return True


class _Launcher:
  """How boxes are kept from the rest of the machine.

  Attributes:
    inside: whether this process is in the box already (bubblewrap).
  """

  def __init__(self, settings: dict[str, Any]) -> None:
    self._namespaces = settings['isolation'] == 'namespaces'
    self.inside = settings['isolation'] == 'bubblewrap'
    self._folder = settings['folder']
    self._root = os.geteuid() == 0 and not self.inside
    self._first_user = _first_user()
    # Limits on processes count those of a user; elsewhere it is the host's.
    self._own_user = self._root or self._namespaces or self.inside
    if self._namespaces:
      self._enter(settings['readable'])
    if not self.inside:
      kernel.die_with_parent(signal.SIGKILL)
      if os.getppid() != settings['parent']:
        raise RuntimeError('the process that started it has ended')
    sys.path.remove(_ROOT)
    sys.path.extend(settings['packages'])
    if not self.inside:
      signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Watchers end unseen.
      for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # Forks do not copy what the collector would touch.

  def watch(
    self,
    request: dict[str, Any],
    leash: socket.socket,
    *sockets: socket.socket,
  ) -> NoReturn:
    """Stays outside until the guard and all of its box are gone."""
    own = os.path.join(self._folder, str(os.getpid()))
    scratch = _SCRATCH if self._namespaces else own
    user = self._first_user + os.getpid() if self._first_user else _NOBODY
    try:
      signal.signal(signal.SIGCHLD, signal.SIG_DFL)
      if self._namespaces:
        kernel.unshare(kernel.MOUNT_NAMESPACE | kernel.PROCESS_NAMESPACES)
        _mount_scratch(request['limits']['scratch_bytes'])
      else:
        os.mkdir(scratch, 0o700)
      if self._root:
        os.chown(scratch, user, user)
      kernel.die_with_parent(signal.SIGKILL)
      guard = os.fork()
      if guard == 0:
        self.guard(request, leash, *sockets, scratch=scratch, user=user)
      for item in sockets:
        item.close()
      os.waitpid(guard, 0)
    except BaseException as error:
      _report(leash, {'failed': roles.told(error)})
    leash.close()  # All of the box is gone; many files may take a while.
    if not self._namespaces:
      shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)

  def guard(
    self,
    request: dict[str, Any],
    leash: socket.socket,
    *sockets: socket.socket,
    scratch: str = _SCRATCH,
    user: int = _NOBODY,
  ) -> NoReturn:
    """Starts the program and ends with it, or with its time, or the leash."""
    limits = request['limits']
    try:
      os.setsid()
      if self._root:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
      kernel.die_with_parent(signal.SIGKILL)  # After the change of user.
      kernel.adopt_orphans()
      os.chdir(scratch)
      ready, started = os.pipe()
      program = os.fork()
      if program == 0:
        role = _ROLES[request['role']]
        _become(role, limits, started, self._own_user, sockets)
      os.close(started)
      for item in sockets:
        item.close()
      if os.read(ready, 1) != b'.':
        raise RuntimeError('the program could not be confined')
      _report(leash, {'up': True})
      _report(leash, _await(program, leash, limits['wall_seconds']))
      if not self._namespaces:
        _kill_children()
    except BaseException as error:
      _report(leash, {'failed': roles.told(error)})
    os._exit(0)

  def _enter(self, readable: list[list[str]]) -> None:
    user, group = os.getuid(), os.getgid()
    try:
      if not self._root:
        raise PermissionError
      kernel.unshare(kernel.MOUNT_NAMESPACE)
    except PermissionError:
      self._root = False
      kernel.unshare(kernel.MOUNT_NAMESPACE | kernel.USER_NAMESPACE)
      _map_user(user, group)
    kernel.keep_mounts_private()
    _show_only(readable)


def _become(
  role: Any,
  limits: dict[str, Any],
  started: int,
  own_user: bool,
  sockets: tuple[socket.socket, ...],
) -> NoReturn:
  """Gives up what the program must not have, and turns into it."""
  with contextlib.suppress(BaseException):
    os.setsid()
    kept = sorted({started, *(item.fileno() for item in sockets)})
    for low, high in zip([2, *kept], [*kept, 1 << 16]):
      os.closerange(low + 1, high)
    _limit(limits, own_user)
    kernel.drop_privileges()
    kernel.filter_system_calls(processes=limits['processes'] > 1)
    _forget()
    os.write(started, b'.')
    os.close(started)
    channel, peer, *_ = (*sockets, None)
    role(channel, peer)
  os._exit(0)


def _limit(limits: dict[str, Any], own_user: bool) -> None:
  wanted = {
    'AS': limits['memory_bytes'],
    'CPU': limits['cpu_seconds'],
    'FSIZE': limits['file_bytes'],
    'NOFILE': limits['open_files'],
    'CORE': 0,
    'MEMLOCK': 0,
    'MSGQUEUE': 0,
  }
  if own_user:
    single = limits['processes'] == 1
    wanted['NPROC'] = (_THREADS if single else limits['processes']) + _RUNNING
  for name, value in wanted.items():
    kind = getattr(resource, f'RLIMIT_{name}')
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
      value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _forget() -> None:
  """A program sees a plain interpreter, the same in every box."""
  for name in [name for name in sys.modules if name.startswith('selfimprove')]:
    del sys.modules[name]
  sys.modules['__main__'] = types.ModuleType('__main__')
  sys.argv[:] = ['program']
  os.environ.update(HOME=os.getcwd(), TMPDIR=os.getcwd())
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  random.seed(0)


def _await(
  program: int, leash: socket.socket, seconds: float
) -> dict[str, Any]:
  with contextlib.closing(_Descriptor(os.pidfd_open(program))) as ended:
    seen, _, _ = select.select([leash, ended], [], [], seconds)
  if ended not in seen:
    return {'ended': None, 'late': leash not in seen}
  _, status = os.waitpid(program, 0)
  return {'ended': os.waitstatus_to_exitcode(status), 'late': False}


class _Descriptor:
  """A number that can be waited for and closed."""

  def __init__(self, number: int) -> None:
    self._number = number

  def fileno(self) -> int:
    return self._number

  def close(self) -> None:
    os.close(self._number)


def _report(leash: socket.socket, message: dict[str, Any]) -> None:
  with contextlib.suppress(OSError):
    wire.send(leash, message)


def _kill_children() -> None:
  """Ends whatever is below this process, as all orphans are given to it."""
  own = str(os.getpid())
  while True:
    children = [pid for pid, parent in _parents() if parent == own]
    for pid in children:
      os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
      while children:
        os.wait()
    if not children:
      return


def _parents() -> list[tuple[str, str]]:
  pairs = []
  for pid in filter(str.isdigit, os.listdir('/proc')):
    with contextlib.suppress(OSError), open(f'/proc/{pid}/stat') as file:
      pairs.append((pid, file.read().rpartition(')')[2].split()[1]))
  return pairs


def _first_user() -> int:
  """Where users begin that nobody is; 0 where there are none to change to."""
  with contextlib.suppress(OSError), open('/proc/self/uid_map') as file:
    for line in file:
      first, _, count = map(int, line.split())
      if first <= _FIRST_USER and first + count > _FIRST_USER + (1 << 23):
        return _FIRST_USER
  return 0


def _map_user(user: int, group: int) -> None:
  lines = {
    'setgroups': 'deny',
    'uid_map': f'{_NOBODY} {user} 1',
    'gid_map': f'{_NOBODY} {group} 1',
  }
  for name, line in lines.items():
    with open(f'/proc/self/{name}', 'w') as file:
      file.write(line)


def _mount_scratch(size: int) -> None:
  flags = kernel.NO_SUID | kernel.NO_DEVICES | kernel.NO_EXEC
  options = f'size={size},nr_inodes=4096,mode=1777'
  kernel.mount_tmpfs(_SCRATCH, flags=flags, options=options)


def _show_only(readable: list[list[str]]) -> None:
  """Puts an empty root with some read-only folders in place of the machine's.

  Args:
    readable: pairs of a path and what is shown there; a path that is a link
      has the target of the link, written `-> target`.
  """
  # The old root shows, at its place, what the new one covers here.
  base = next(path for path in ('/tmp', '/usr') if os.path.isdir(path))
  flags = kernel.NO_SUID | kernel.NO_DEVICES
  kernel.mount_tmpfs(base, flags=flags, options='size=1m,mode=755')
  os.mkdir(f'{base}/old')
  kernel.swap_root(base, f'{base}/old')
  for path, real in readable:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if real.startswith('-> '):
      os.symlink(real[3:], path)
      continue
    os.makedirs(path, exist_ok=True)
    kernel.bind_read_only(f'/old{real}', path)
  os.mkdir('/dev')
  os.mknod('/dev/null')
  kernel.bind_read_only('/old/dev/null', '/dev/null', devices=True)
  os.mkdir(_SCRATCH)
  kernel.unmount('/old')
  os.rmdir('/old')
  kernel.remount_read_only('/')


if __name__ == '__main__':
  main(int(sys.argv[1]))
