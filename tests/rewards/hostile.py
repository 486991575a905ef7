"""Programs that want a verdict that they did not earn, or more than a box.

`UNEARNED` are programs for a test that wants squares; none of them gives any.
`ESCAPES` define `f`, which gives a list of what it could do and should not.
"""

from __future__ import annotations

import textwrap

_FORGED = """
import json, os, socket, gc, sys
def frames(*messages):
    out = b''
    for message in messages:
        body = json.dumps(message).encode()
        out += len(body).to_bytes(4, 'big') + body
    return out
FORGED = frames({'case': True, 'why': None}, {'end': True},
                ['value', True, None], {'ended': 0, 'late': False})
"""


def _program(text):
  return textwrap.dedent(text)


_UNEARNED = {
  'exits': 'import sys; sys.exit(0)',
  'exits at once': 'import os; os._exit(0)',
  'exits in the call': 'import sys\ndef f(x): sys.exit(0)',
  'exits at once in the call': 'import os\ndef f(x): os._exit(0)',
  'exits when it is collected': """
    class A:
        def __del__(self): raise SystemExit(0)
    def f(x):
        A()
        return True
    """,
  'exits at the end': """
    import atexit, os
    atexit.register(os._exit, 0)
    def f(x): return None
    """,
  'is not Python': 'def f(x) return x * x',
  'is nothing': '',
  'is zeros': '\0',
  'is half a character': "x = '\udcff'",
  'has a huge expression': 'x = ' + '(' * 50_000,
  'defines something else': 'def g(x): return x * x',
  'gives what equals all': """
    class A:
        __hash__ = None
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        def __bool__(self): return True
    def f(x): return A()
    """,
  'gives a number that equals all': """
    class A(int):
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        __hash__ = int.__hash__
    def f(x): return A(0)
    """,
  'gives a text that equals all': """
    class A(str):
        def __eq__(self, other): return True
        __hash__ = str.__hash__
    def f(x): return A('')
    """,
  'patches builtins': """
    import builtins, operator
    builtins.AssertionError = ZeroDivisionError
    builtins.compile = lambda *a, **k: None
    builtins.exec = lambda *a, **k: None
    builtins.isinstance = lambda *a: True
    operator.eq = lambda *a: True
    def f(x): return 0
    """,
  'patches json': """
    import json
    json.dumps = lambda *a, **k: '{"case": true, "why": null}'
    json.loads = lambda *a, **k: {'case': True}
    def f(x): return 0
    """,
  'patches unittest': """
    import unittest
    unittest.TestCase.assertEqual = lambda *a: None
    unittest.TestCase.run = lambda *a: None
    def f(x): return 0
    """,
  'ends the loop of the tests': 'def f(x): raise StopIteration',
  'ends the generator of the tests': 'def f(x): raise GeneratorExit',
  'raises what tests raise': 'def f(x): raise AssertionError',
  'interrupts': 'def f(x): raise KeyboardInterrupt',
  'prints verdicts': _FORGED
  + """
def f(x):
    print(FORGED, flush=True)
    print('ok 1\\nPASSED\\n1.0', flush=True)
    for number in range(64):
        try: os.write(number, FORGED)
        except OSError: pass
    return True
""",
  'prints verdicts while it loads': _FORGED
  + """
for number in range(64):
    try: os.write(number, FORGED * 3)
    except OSError: pass
def f(x): return True
""",
  'sends verdicts over all sockets': _FORGED
  + """
for item in gc.get_objects():
    if isinstance(item, socket.socket):
        try: item.sendall(FORGED)
        except OSError: pass
def f(x): return True
""",
  'looks through frames': """
    import sys, gc
    def f(x):
        frame = sys._getframe()
        while frame:
            for scope in (frame.f_locals, frame.f_globals):
                for name in list(scope):
                    if name in ('passed', 'cases', 'expected', 'tests'):
                        return scope[name]
            frame = frame.f_back
        found = [o for o in gc.get_objects() if isinstance(o, dict)
                 and 'tests' in o]
        return found and found[0]
    """,
  'looks for the tests in memory': """
    def f(x):
        try: return 'assert f' in open('/proc/self/mem', 'rb').read(1)
        except OSError: pass
        import os
        return dict(os.environ)
    """,
  'answers before it is asked': _FORGED
  + """
def f(x): return None
answer = frames(['value', None, None], ['value', True, None]) * 50
for number in range(3, 64):
    try: os.write(number, answer)
    except OSError: pass
""",
  'closes all descriptors': """
    import os
    def f(x): os.closerange(0, 1000)
    """,
  'puts others in place of descriptors': """
    import os
    a, b = os.pipe()
    for number in range(3, 20):
        if number not in (a, b):
            try: os.dup2(a, number)
            except OSError: pass
    def f(x): return True
    """,
  'changes what it was given': """
    def f(x):
        class A(int):
            def __eq__(self, other): return True
        return [A(1)]
    """,
  'gives a huge text': "def f(x): return 'x' * (1 << 26)",
  'gives a huge number': 'def f(x): return 1 << (1 << 27)',
  'gives a deep list': """
    def f(x):
        top = []
        for _ in range(100_000): top = [top]
        return top
    """,
  'gives itself in a list': """
    def f(x):
        top = []
        top.append(top)
        return top
    """,
  'gives without end': """
    def f(x):
        while True: yield x
    """,
  'raises with a huge message': "def f(x): raise ValueError('x' * (1 << 26))",
  'raises what cannot be told': """
    class A(Exception):
        def __str__(self): raise SystemExit
        def __repr__(self): raise SystemExit
    def f(x): raise A
    """,
  'raises a huge name': """
    A = type('x' * (1 << 24), (Exception,), {})
    def f(x): raise A
    """,
  'is garbage': 'def f(x): return "\\ud800\\x00\\uffff" * 1000',
  'prints garbage': """
    import os
    def f(x):
        os.write(1, bytes(range(256)) * 1000)
        os.write(2, bytes(range(256)) * 1000)
    """,
  'recurses': """
    import sys
    sys.setrecursionlimit(1 << 30)
    def f(x): return [f(x)]
    """,
  'reads address 0': 'import ctypes\ndef f(x): return ctypes.string_at(0)',
  'aborts': 'import os\ndef f(x): os.abort()',
  'kills itself': 'import os\ndef f(x): os.kill(os.getpid(), 9)',
  'eats memory': """
    def f(x):
        parts = []
        while True: parts.append(bytearray(1 << 20))
    """,
  'asks for much memory': 'def f(x): return bytearray(1 << 40)',
}
UNEARNED = {name: _program(text) for name, text in _UNEARNED.items()}

_SLOW = {
  'computes without end': 'def f(x):\n  while True: pass',
  'sleeps without end': 'import time\ndef f(x): time.sleep(10**6)',
  'loads without end': 'while True: pass',
  'ignores signals': """
    import signal, time
    for number in range(1, 65):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
    def f(x):
        while True: time.sleep(1)
    """,
  'prints without end': """
    def f(x):
        while True: print('x' * 4096)
    """,
  'sends without end': """
    import os
    def f(x):
        while True: os.write(3, b'x' * 4096)
    """,
  'sends a message without end': """
    import os, time
    def f(x):
        for number in range(3, 20):
            try: os.write(number, bytes([0, 1, 0, 0]))
            except OSError: pass
        time.sleep(10**6)
    """,
  'computes in C without end': """
    import re
    def f(x): return re.match('(a|a)*$', 'a' * 64 + 'b')
    """,
  'stops itself': """
    import os, signal, time
    def f(x):
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(10**6)
    """,
}
SLOW = {name: _program(text) for name, text in _SLOW.items()}

_TRIES = """
import ctypes, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def tried(**actions):
    done = []
    for name, action in actions.items():
        try:
            if action() != -1: done.append(name)
        except (OSError, AttributeError): pass
    return done
"""

_ESCAPES = {
  'reads files of the host': """
def f(_):
    paths = ['/etc/passwd', '/etc/shadow', '/etc/hostname', '/proc/1/environ',
             '/proc/self/mem', '/proc/self/environ', '/sys/kernel', '/home',
             '/old', '/'.join(['', 'root', '.ssh']), '/var/log', '/run',
             '/dev/mem', '/dev/vda', '/dev/kmsg', '/dev/tty', CANARY]
    return [path for path in paths if tried(read=lambda: os.stat(path))]
""",
  'leaves by links': """
def f(_):
    os.symlink('/etc/passwd', 'link')
    os.symlink('/proc/1/root', 'root')
    os.symlink('../' * 20 + 'etc', 'up')
    return tried(
        link=lambda: open('link').read(),
        root=lambda: os.listdir('root'),
        up=lambda: os.listdir('up'),
        hard=lambda: os.link(os.__file__, 'hard'),
        write=lambda: open('link', 'a'),
    )
""",
  'writes elsewhere': """
def f(_):
    folders = ['/', '/tmp', '/root', '/home', '/usr', '/usr/lib', '/lib',
               '/var/tmp', '/dev', '/dev/shm', sys.prefix,
               os.path.dirname(os.__file__)]
    done = [folder for folder in folders
            if tried(write=lambda: open(folder + '/x-from-a-box', 'w'))]
    return done + tried(
        change=lambda: open(os.__file__, 'a'),
        home=lambda: os.remove(os.__file__),
        mode=lambda: os.chmod(os.__file__, 0o777),
        device=lambda: os.mknod('device', 0o020666, os.makedev(1, 1)),
    )
""",
  'opens sockets': """
def f(_):
    def to(family, address):
        with socket.socket(family, socket.SOCK_STREAM) as s: s.connect(address)
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return tried(
        inet=lambda: to(socket.AF_INET, ('127.0.0.1', 22)),
        inet6=lambda: to(socket.AF_INET6, ('::1', 22)),
        unix=lambda: to(socket.AF_UNIX, '/run/docker.sock'),
        abstract=lambda: to(socket.AF_UNIX, '\\0dbus'),
        make=lambda: socket.socket(socket.AF_INET).close(),
        udp=lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        netlink=lambda: socket.socket(16, socket.SOCK_RAW).close(),
        packet=lambda: socket.socket(17, socket.SOCK_RAW).close(),
        listen=lambda: a.bind('\\0mine'),
        send=lambda: a.sendto(b'x', '/dev/log'),
        again=lambda: a.connect('/dev/log'),
    )
""",
  'signals others': """
def f(_):
    done = tried(
        parent=lambda: os.kill(os.getppid(), 9),
        everybody=lambda: os.kill(-1, 9),
        group=lambda: os.kill(0, 9),
        first=lambda: os.kill(1, 9),
        stop=lambda: os.kill(1, signal.SIGSTOP),
    )
    return done + [n for n in range(2, 1000) if n != os.getpid()
                   and tried(kill=lambda: os.kill(n, 9))]
""",
  'has others signalled by a descriptor': """
import fcntl, struct
def f(_):
    a, b = socket.socketpair()
    own, high = os.getpid(), 1 << 32
    return tried(
        own=lambda: fcntl.fcntl(a, 8, own),
        group=lambda: fcntl.fcntl(a, 8, -os.getpgid(0)),
        parent=lambda: fcntl.fcntl(a, 8, os.getppid() or own),
        which=lambda: fcntl.fcntl(a, 10, 9),
        own_ex=lambda: fcntl.fcntl(a, 15, struct.pack('ii', 1, own)),
        control=lambda: fcntl.ioctl(a, 0x8901, struct.pack('i', own)),
        control_group=lambda: fcntl.ioctl(a, 0x8902, struct.pack('i', own)),
        wide=lambda: libc.fcntl(a.fileno(), ctypes.c_ulong(high | 8), own),
    )
""",
  'gains privileges': """
def f(_):
    return tried(
        user=lambda: os.setuid(0),
        group=lambda: os.setgid(0),
        groups=lambda: os.setgroups([0]),
        root=lambda: os.chroot('.'),
        mount=lambda: libc.mount(b'tmpfs', b'.', b'tmpfs', 0, None),
        remount=lambda: libc.mount(None, b'/', None, 32 | 4096, None),
        unmount=lambda: libc.umount2(b'/', 2),
        unshare=lambda: libc.unshare(0x10000000),
        processes=lambda: libc.unshare(0x20000000),
        clone=lambda: libc.syscall(56, 0x10000011, 0, 0, 0, 0),
        clone3=lambda: libc.syscall(435, 0, 0),
        trace=lambda: libc.ptrace(0, 0, 0, 0),
        attach=lambda: libc.ptrace(16, 1, 0, 0),
        keys=lambda: libc.syscall(250, 0, -3, 0),
        survive=lambda: libc.prctl(1, 0, 0, 0, 0),
        programs=lambda: libc.syscall(321, 0, 0, 0),
        ring=lambda: libc.syscall(425, 1, 0),
        name=lambda: socket.sethostname('x'),
        nice=lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
    )
""",
  'raises its limits': """
import resource
def f(_):
    done = []
    for name in ('AS', 'CPU', 'FSIZE', 'NOFILE', 'CORE', 'MEMLOCK'):
        kind = getattr(resource, 'RLIMIT_' + name)
        soft, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY: done.append(name)
        try: resource.setrlimit(kind, (hard + 1, hard + 1))
        except (OSError, ValueError): continue
        done.append(name)
    return done + tried(other=lambda: resource.prlimit(
        os.getppid() or 1, resource.RLIMIT_CPU, (0, 0)))
""",
  'starts processes': """
import subprocess
def f(_):
    return tried(
        fork=lambda: os.fork() or os._exit(0),
        spawn=lambda: subprocess.run([sys.executable or '/bin/sh']),
        shell=lambda: 0 if os.system('true') == 0 else -1,
        execute=lambda: os.execv('/lib64/ld-linux-x86-64.so.2', ['x']),
    )
""",
  'takes memory that is not counted': """
def f(_):
    return tried(
        shared=lambda: libc.shmget(0, 1 << 20, 0o1666),
        file=lambda: os.memfd_create('x'),
        queue=lambda: libc.mq_open(b'/x', 0o102, 0o666, None),
        semaphores=lambda: libc.semget(0, 1, 0o1666),
    )
""",
  'fills its disk': """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def f(_):
    written = 0
    for number in range(100):
        try:
            with open(f'file{number}', 'wb') as file:
                while True: written += file.write(bytes(1 << 20))
        except OSError: pass
    made = 0
    try:
        while True:
            os.mkdir(f'folder{made}')
            made += 1
    except OSError: pass
    return [n for n in (written >> 20, made) if n > 5000 or n == written]
""",
  'starts threads without end': """
import threading, time
def f(_):
    threading.stack_size(1 << 18)
    started = 0
    try:
        for _ in range(1000):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            started += 1
    except RuntimeError: pass
    return [started] if started > 50 else []
""",
  'opens files without end': """
def f(_):
    opened = []
    try:
        while True: opened.append(open('x', 'w'))
    except OSError: pass
    return [len(opened)] if len(opened) > 64 else []
""",
}
ESCAPES = {name: _TRIES + text for name, text in _ESCAPES.items()}

FORK_BOMB = """
import os
def f(x):
    made = 0
    while True:
        try:
            if os.fork() == 0: made = 0
            else: made += 1
        except OSError: pass
"""

DAEMONS = """
import ctypes, os, time
def f(name):
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)
                ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
                time.sleep(600)
            os._exit(0)
    time.sleep(0.2)
    return 'done'
"""
