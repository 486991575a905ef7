"""The system calls of the sandbox that Python 3.11 has no name for (Linux).

Namespaces, mounts, capabilities and a filter of system calls, through the C
library. Imported by the launcher only, with the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

MOUNT_NAMESPACE = 0x00020000
USER_NAMESPACE = 0x10000000
PROCESS_NAMESPACES = 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
"""Processes, network, System V memory and queues, and the host's name."""

READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 32, 4096, 16384, 1 << 18
_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SYS_MOUNT_SETATTR = 442  # The same number on every architecture.

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP = 1, 22
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
  """Leaves the namespaces that `flags` name for new ones.

  Args:
    flags: sum of the constants of this module.

  Raises:
    OSError: the kernel refuses.
  """
  _checked(_libc.unshare(ctypes.c_int(flags)), 'unshare')


def mount_tmpfs(target: str, *, flags: int, options: str) -> None:
  """Mounts an empty file system in memory.

  Args:
    target: folder that exists.
    flags: sum of the constants of this module.
    options: such as `size=1048576,mode=755`.

  Raises:
    OSError: the kernel refuses.
  """
  _mount('tmpfs', target, 'tmpfs', flags, options)


def keep_mounts_private() -> None:
  """Stops later mounts from being seen in other namespaces."""
  _mount(None, '/', None, _RECURSIVE | _PRIVATE, None)


def bind_read_only(source: str, target: str, *, devices: bool = False) -> None:
  """Shows a file or folder, with all that is mounted below it, read-only.

  Args:
    source: what is shown.
    target: file or folder that exists, where it is shown.
    devices: whether device files work.

  Raises:
    OSError: the kernel refuses, or is older than 5.12.
  """
  _mount(source, target, None, _BIND | _RECURSIVE, None)
  # struct mount_attr: what to set, what to clear, propagation, user namespace.
  flags = READ_ONLY | NO_SUID | (0 if devices else NO_DEVICES)
  attributes = struct.pack('=4Q', flags, 0, 0, 0)
  result = _libc.syscall(
    ctypes.c_long(_SYS_MOUNT_SETATTR),
    ctypes.c_int(_AT_FDCWD),
    target.encode(),
    ctypes.c_uint(_AT_RECURSIVE),
    attributes,
    ctypes.c_size_t(len(attributes)),
  )
  _checked(result, f'mount_setattr {target}')


def remount_read_only(target: str) -> None:
  """Makes a mount of this namespace read-only."""
  flags = _REMOUNT | _BIND | READ_ONLY | NO_SUID | NO_DEVICES
  _mount(None, target, None, flags, None)


def swap_root(new_root: str, old_root: str) -> None:
  """Makes `new_root` the root; the old one is then below it at `old_root`.

  Args:
    new_root: a mount point.
    old_root: folder in it.

  Raises:
    OSError: the kernel refuses.
  """
  number = _NUMBERS['pivot_root'][_column()]
  result = _libc.syscall(
    ctypes.c_long(number), new_root.encode(), old_root.encode()
  )
  _checked(result, 'pivot_root')
  os.chdir('/')


def unmount(target: str) -> None:
  """Takes a mount and all below it out of sight."""
  _checked(_libc.umount2(target.encode(), _DETACH), f'umount {target}')


def die_with_parent(signal_number: int) -> None:
  """Asks for a signal when the parent ends.

  The kernel forgets it when the user changes: to be called after that.
  """
  result = _libc.prctl(
    _PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0
  )
  _checked(result, 'prctl')


def adopt_orphans() -> None:
  """Makes this process the parent of descendants that lose theirs."""
  _checked(
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0), 'prctl'
  )


def drop_privileges() -> None:
  """Gives up all capabilities, and gaining any by running a program."""
  _checked(
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0), 'prctl'
  )
  header = struct.pack('=Ii', _CAPABILITY_VERSION_3, 0)
  _checked(_libc.capset(header, bytes(24)), 'capset')


def filter_system_calls(*, processes: bool) -> bool:
  """Refuses (EPERM) the system calls that a program under test has no use for.

  Sockets but pairs of them, mounts, namespaces, keys, tracing and signalling
  other processes, also as owners of a descriptor, shared memory that no limit
  counts, changing the limits of others, being spared when the parent ends.

  Args:
    processes: whether to allow new processes, programs and signals.

  Returns:
    Whether there is a filter: False on other machines than x86-64 and ARM64.
  """
  if platform.machine() not in _MACHINES:
    return False
  code = _filter(processes)
  buffer = ctypes.create_string_buffer(code)
  # struct sock_fprog: how many instructions of 8 bytes, and where.
  program = struct.pack('@HP', len(code) // 8, ctypes.addressof(buffer))
  result = _libc.prctl(
    _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), program, 0, 0
  )
  _checked(result, 'seccomp')
  return True


def _mount(
  source: str | None,
  target: str,
  kind: str | None,
  flags: int,
  options: str | None,
) -> None:
  texts = [
    None if text is None else text.encode()
    for text in (source, target, kind, options)
  ]
  source_, target_, kind_, options_ = texts
  result = _libc.mount(source_, target_, kind_, ctypes.c_ulong(flags), options_)
  _checked(result, f'mount {target}')


def _checked(result: int, what: str) -> None:
  if result == -1:
    error = ctypes.get_errno()
    raise OSError(error, f'{what}: {os.strerror(error)}')


# Machine -> its audit name, and the column of its numbers below.
_MACHINES = {'x86_64': (0xC000003E, 0), 'aarch64': (0xC00000B7, 1)}

_NUMBERS = {
  'accept': (43, 202),
  'accept4': (288, 242),
  'acct': (163, 89),
  'add_key': (248, 217),
  'bind': (49, 200),
  'bpf': (321, 280),
  'chroot': (161, 51),
  'connect': (42, 203),
  'delete_module': (176, 106),
  'fanotify_init': (300, 262),
  'finit_module': (313, 273),
  'fsmount': (432, 432),
  'fsopen': (430, 430),
  'fspick': (433, 433),
  'init_module': (175, 105),
  'io_uring_enter': (426, 426),
  'io_uring_register': (427, 427),
  'io_uring_setup': (425, 425),
  'ioprio_set': (251, 30),
  'kcmp': (312, 272),
  'kexec_file_load': (320, 294),
  'kexec_load': (246, 104),
  'keyctl': (250, 219),
  'listen': (50, 201),
  'memfd_create': (319, 279),
  'memfd_secret': (447, 447),
  'migrate_pages': (256, 238),
  'mount': (165, 40),
  'mount_setattr': (442, 442),
  'move_mount': (429, 429),
  'move_pages': (279, 239),
  'mq_open': (240, 180),
  'msgget': (68, 186),
  'name_to_handle_at': (303, 264),
  'open_by_handle_at': (304, 265),
  'open_tree': (428, 428),
  'perf_event_open': (298, 241),
  'personality': (135, 92),
  'pidfd_getfd': (438, 438),
  'pidfd_open': (434, 434),
  'pidfd_send_signal': (424, 424),
  'pivot_root': (155, 41),
  'process_madvise': (440, 440),
  'process_vm_readv': (310, 270),
  'process_vm_writev': (311, 271),
  'ptrace': (101, 117),
  'quotactl': (179, 60),
  'reboot': (169, 142),
  'request_key': (249, 218),
  'rt_sigqueueinfo': (129, 138),
  'rt_tgsigqueueinfo': (297, 240),
  'sched_setaffinity': (203, 122),
  'sched_setattr': (314, 274),
  'sched_setscheduler': (144, 119),
  'semget': (64, 190),
  'sendmmsg': (307, 269),
  'sendmsg': (46, 211),
  'setns': (308, 268),
  'setpriority': (141, 140),
  'shmat': (30, 196),
  'shmget': (29, 194),
  'socket': (41, 198),
  'swapon': (167, 224),
  'syslog': (103, 116),
  'tkill': (200, 130),
  'umount2': (166, 39),
  'unshare': (272, 97),
  'userfaultfd': (323, 282),
}
_NO_NUMBER = 0xFFFFFFFF
# Refused where no further processes are wanted; ARM64 forks by `clone` only.
_PROCESS_NUMBERS = {
  'execve': (59, 221),
  'execveat': (322, 281),
  'fork': (57, _NO_NUMBER),
  'vfork': (58, _NO_NUMBER),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_KILL, _TGKILL = (62, 129), (234, 131)
_PRCTL, _PRLIMIT = (157, 167), (302, 261)
# Who is sent which signal when a descriptor is ready: anybody of the user.
_FCNTL, _IOCTL = (72, 25), (16, 29)
_SET_OWN, _SET_SIGNAL, _SET_OWN_EX = 8, 10, 15
_FIO_SET_OWN, _SIO_SET_GROUP = 0x8901, 0x8902
_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020000  # All CLONE_NEW*.
_X32 = 0x40000000  # The other set of numbers that x86-64 kernels answer to.

_LOAD, _JUMP_EQUAL, _JUMP_BITS, _JUMP_FROM, _RETURN = 0x20, 0x15, 0x45, 0x35, 6
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_ARCHITECTURE, _NUMBER, _ARGUMENTS = 4, 0, 16  # Places in struct seccomp_data.


def _column() -> int:
  return _MACHINES[platform.machine()][1]


def _filter(processes: bool) -> bytes:
  """A program for the kernel's packet filter: a check after the other."""
  audit, column = _MACHINES[platform.machine()]
  refuse = _instruction(_RETURN, _ERRNO | _EPERM)
  code = [
    _instruction(_LOAD, _ARCHITECTURE),
    _instruction(_JUMP_EQUAL, audit, yes=1),
    refuse,
    _instruction(_LOAD, _NUMBER),
    _instruction(_JUMP_FROM, _X32, no=1),
    refuse,
  ]
  refused = {**_NUMBERS, **({} if processes else _PROCESS_NUMBERS)}
  for number in (numbers[column] for numbers in refused.values()):
    code += [_instruction(_JUMP_EQUAL, number, no=1), refuse]
  # The C library falls back to `clone`, whose flags can be seen here.
  unknown = _instruction(_RETURN, _ERRNO | _ENOSYS)
  code += [_instruction(_JUMP_EQUAL, _CLONE3[column], no=1), unknown]
  own = os.getpid()
  bits, equal = _JUMP_BITS, _JUMP_EQUAL
  code += _on_argument(_CLONE[column], bits, _CLONE_NAMESPACES, refused=True)
  code += _on_argument(_PRCTL[column], equal, _PR_SET_PDEATHSIG, refused=True)
  code += _on_argument(_PRLIMIT[column], equal, 0, refused=False)
  for call, commands in (
    (_FCNTL, (_SET_OWN, _SET_SIGNAL, _SET_OWN_EX)),
    (_IOCTL, (_FIO_SET_OWN, _SIO_SET_GROUP)),
  ):
    for command in commands:
      code += _on_argument(call[column], equal, command, refused=True, index=1)
  if not processes:
    code += _on_argument(_CLONE[column], bits, _CLONE_THREAD, refused=False)
    code += _on_argument(_KILL[column], equal, own, refused=False)
    code += _on_argument(_TGKILL[column], equal, own, refused=False)
  return b''.join([*code, _instruction(_RETURN, _ALLOW)])


def _on_argument(
  number: int, test: int, value: int, *, refused: bool, index: int = 0
) -> list[bytes]:
  """Refuses one call where the test of an argument (32 bits) is `refused`."""
  return [
    _instruction(_JUMP_EQUAL, number, no=4),
    _instruction(_LOAD, _ARGUMENTS + 8 * index),
    _instruction(test, value, yes=0 if refused else 1, no=1 if refused else 0),
    _instruction(_RETURN, _ERRNO | _EPERM),
    _instruction(_LOAD, _NUMBER),
  ]


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
  return struct.pack('=HBBI', code, yes, no, value)
