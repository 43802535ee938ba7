# ruff: noqa: E501 - programs under test, one a line
"""Programs that want out of the sandbox, or to use it up."""

from __future__ import annotations

from tests.attacks.case import FAILED, Case, escape, raw_syscall, resource

_NEW_USER = 0x10000000
_SMALL = {"cpu_s": 1, "wall_s": 3}


def escapes(canary: str, port: int, abstract: str, pid: int) -> list[Case]:
    """Attempts against a canary folder (world-writable, holds `secret`), listeners and the supervisor's pid."""
    return [
        escape("tcp-loopback", f"got = socket.create_connection(('127.0.0.1', {port}), 1)"),
        escape("tcp-any-family", "got = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)"),
        escape("udp", f"got = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"),
        escape("metadata-address", "got = socket.create_connection(('169.254.169.254', 80), 1)"),
        escape("dns", "got = socket.getaddrinfo('example.com', 80)"),
        escape("abstract-socket", f"s = socket.socket(socket.AF_UNIX)\ns.connect({abstract!r})\ngot = True"),
        escape(
            "datagram-pair-to-abstract-socket",
            f"a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\ngot = a.sendto(b'x', {abstract!r})",
        ),
        escape("netlink", "got = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)"),
        escape("bind-a-pair", f"a, b = socket.socketpair()\na.bind({abstract + '2'!r})\ngot = True"),
        escape("read-canary", f"got = 'token' in open({canary + '/secret'!r}).read()"),
        escape("read-shadow", "got = open('/etc/shadow').read()"),
        escape("read-through-proc-root", f"got = open('/proc/{pid}/root{canary}/secret').read()"),
        escape("read-through-init-root", f"got = open('/proc/1/root{canary}/secret').read()"),
        escape("supervisor-environ", f"got = open('/proc/{pid}/environ', 'rb').read()"),
        escape("supervisor-memory", f"got = open('/proc/{pid}/mem', 'r+b')"),
        escape("parent-memory", "got = open(f'/proc/{os.getppid()}/mem', 'r+b').read(1)"),
        escape("write-canary", f"got = open({canary + '/written'!r}, 'w').write('x')"),
        escape("write-usr", "got = open('/usr/rgopd-attack', 'w').write('x')"),
        escape("write-python", "got = open(os.__file__, 'a').write('x')"),
        escape("symlink-out", f"os.symlink({canary + '/secret'!r}, 'link')\ngot = 'token' in open('link').read()"),
        escape("symlinked-folder-out", f"os.symlink({canary!r}, 'dir')\ngot = open('dir/written', 'w').write('x')"),
        escape("hardlink-out", f"os.link({canary + '/secret'!r}, 'hard')\ngot = open('hard').read()"),
        escape("rename-out", f"open('mine', 'w').write('x')\nos.rename('mine', {canary + '/written'!r})\ngot = True"),
        escape("chmod-canary", f"os.chmod({canary!r}, 0)\ngot = True"),
        escape("fchmod-canary", f"os.fchmod(os.open({canary!r}, os.O_RDONLY), 0)\ngot = True"),
        escape("touch-canary", f"os.utime({canary!r}, (0, 0))\ngot = True"),
        escape("attribute-canary", f"os.setxattr({canary!r}, 'user.x', b'1')\ngot = True"),
        escape("unlink-canary", f"os.unlink({canary + '/secret'!r})\ngot = True"),
        escape("dot-dot", "got = 'token' in open('../' * 30 + " + repr(canary.lstrip("/") + "/secret") + ").read()"),
        escape("make-device", "os.mknod('disk', 0o60666, os.makedev(254, 0))\ngot = open('disk', 'rb').read(1)"),
        escape(
            "open-disk", "got = any(open('/dev/' + n, 'rb').read(1) for n in ('vda', 'sda', 'mem', 'kmsg', 'nvme0n1'))"
        ),
        escape("sysfs", "got = open('/sys/kernel/uevent_helper', 'w').write('/x')"),
        escape("sysctl", "got = open('/proc/sys/kernel/core_pattern', 'w').write('|/x')"),
        escape("sysrq", "got = open('/proc/sysrq-trigger', 'w').write('h')"),
        escape("cgroup-write", "got = open('/sys/fs/cgroup/memory/memory.limit_in_bytes', 'w').write('-1')"),
        escape("cgroup-release-agent", "got = open('/sys/fs/cgroup/memory/release_agent', 'w').write('/x')"),
        escape("kill-supervisor", f"os.kill({pid}, 9)\ngot = True"),
        escape("kill-parent", "p = os.getppid()\nif p:\n    os.kill(p, 9)\ngot = p"),
        escape("queue-signal", f"got = libc.sigqueue({pid}, 9, 0) == 0"),
        escape(
            "signal-by-descriptor", f"r, w = os.pipe()\nimport fcntl\nfcntl.fcntl(r, fcntl.F_SETOWN, {pid})\ngot = True"
        ),
        escape("renice-supervisor", f"os.setpriority(os.PRIO_PROCESS, {pid}, 19)\ngot = True"),
        escape(
            "limit-supervisor", f"import resource\nresource.prlimit({pid}, resource.RLIMIT_NOFILE, (0, 0))\ngot = True"
        ),
        escape("pin-supervisor", f"os.sched_setaffinity({pid}, {{0}})\ngot = True"),
        escape("become-root", "os.setuid(0)\ngot = True"),
        escape("become-root-by-setresuid", "os.setresuid(0, 0, 0)\ngot = True"),
        escape("setgroups", "os.setgroups([0])\ngot = True"),
        escape("raise-limits", "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))\ngot = True"),
        escape(
            "raise-process-limit",
            "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (10**5, 10**5))\ngot = True",
        ),
        escape(
            "setuid-binaries",
            "import subprocess\ngot = any(b'uid=0' in subprocess.run(c, capture_output=True, input=b'id\\n', timeout=2).stdout"
            " for c in (['su', '-c', 'id'], ['sudo', '-n', 'id'], ['unshare', '-r', 'id']) if __import__('shutil').which(c[0]))",
        ),
        escape("own-setuid-file", "open('s', 'w').write('x')\nos.chmod('s', 0o4755)\ngot = os.stat('s').st_uid == 0"),
        escape("chroot", "os.mkdir('r')\nos.chroot('r')\ngot = True"),
        escape("hostname", "socket.sethostname('owned')\ngot = True"),
        escape("set-clock", "time.clock_settime(time.CLOCK_REALTIME, 0)\ngot = True"),
        escape("unshare-user", f"got = libc.unshare({_NEW_USER}) == 0"),
        escape("mount", "got = libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0"),
        escape("umount", "got = libc.umount2(b'/usr', 2) == 0 or libc.umount2(b'/proc', 2) == 0"),
        escape("ptrace-parent", "got = libc.ptrace(16, os.getppid() or 1, 0, 0) == 0"),
        escape("shared-memory", "got = libc.shmget(0x1234, 4096, 0o1666) >= 0"),
        escape("message-queue", "got = libc.msgget(0x1234, 0o1666) >= 0"),
        raw_syscall("socket", 41, 198, "2, 1, 0"),
        raw_syscall("socket-x32", 41 | 0x40000000, 198, "2, 1, 0"),
        raw_syscall("mount", 165, 40, "b'none', b'/tmp', b'tmpfs', 0, 0"),
        raw_syscall("unshare", 272, 97, f"{_NEW_USER}"),
        raw_syscall("setns", 308, 268, "3, 0"),
        raw_syscall("bpf", 321, 280, "0, ctypes.create_string_buffer(128), 128"),
        raw_syscall("keyctl", 250, 219, "0, -3, 1"),
        raw_syscall("add-key", 248, 217, "b'user', b'k', b'x', 1, -3"),
        raw_syscall("io-uring-setup", 425, 425, "8, ctypes.create_string_buffer(256)"),
        raw_syscall("userfaultfd", 323, 282, "1"),
        raw_syscall("perf-event-open", 298, 241, "ctypes.create_string_buffer(128), 0, -1, -1, 0"),
        raw_syscall("process-vm-readv", 310, 270, f"{pid}, 0, 0, 0, 0, 0"),
        raw_syscall("process-vm-writev", 311, 271, f"{pid}, 0, 0, 0, 0, 0"),
        raw_syscall("pidfd-open", 434, 434, f"{pid}, 0"),
        raw_syscall("pidfd-getfd", 438, 438, "3, 0, 0"),
        raw_syscall("clone3-new-user", 435, 435, "(ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17), 88"),
        raw_syscall("clone-new-user", 56, 220, f"{_NEW_USER | 17}, 0, 0, 0, 0"),
        raw_syscall("memfd", 319, 279, "b'x', 0"),
        raw_syscall("open-by-handle", 304, 265, "-100, ctypes.create_string_buffer(64), 0"),
        raw_syscall("init-module", 175, 105, "b'', 0, b''"),
        raw_syscall("kexec-load", 246, 104, "0, 0, 0, 0"),
        raw_syscall("reboot", 169, 142, "0xfee1dead, 672274793, 0, 0"),
        raw_syscall("swapoff", 168, 225, "b'/x'"),
        raw_syscall("personality", 135, 92, "0x0040000"),
        raw_syscall("seccomp", 317, 277, "1, 0, 0"),
        raw_syscall("fanotify", 300, 262, "0, 0"),
        raw_syscall("quotactl", 179, 60, "0, 0, 0, 0"),
        raw_syscall("landlock-add", 445, 445, "0, 1, 0, 0"),
    ]


def resources(canary: str) -> list[Case]:
    """Using things up; the limits end it, and say so."""
    beat = canary + "/heartbeat"
    return [
        resource("spin", "while True: pass", limits={"cpu_s": 0.5, "wall_s": 10}, reason="CPU"),
        resource(
            "ignore-signals-and-spin",
            "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
            limits={"cpu_s": 0.5, "wall_s": 10},
            reason="CPU",
        ),
        resource("sleep", "import time\ntime.sleep(1000)", limits={"cpu_s": 1, "wall_s": 0.5}, reason="within"),
        resource("stop-self", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nimport time\ntime.sleep(99)", limits={"wall_s": 0.5}),
        resource("wait-for-input", "import sys, os\nr, w = os.pipe()\nos.read(r, 1)", limits={"wall_s": 0.5}, reason="within"),
        resource("memory", "x = bytearray(8 << 30)\nprint('done')", limits={"memory_mb": 128, **_SMALL}, reason="MemoryError"),
        resource("memory-slowly", "x = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))", limits={"memory_mb": 128, **_SMALL}),
        resource("memory-by-mmap", "import mmap\nm = [mmap.mmap(-1, 32 << 20) for _ in range(99)]\nfor x in m: x.write(b'x' * (32 << 20))\nprint('done')", limits={"memory_mb": 128, **_SMALL}),
        resource(
            "memory-by-many-processes",
            "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        x = bytearray(b'x' * (60 << 20)); time.sleep(30)\ntime.sleep(30)\nprint('done')",
            limits={"memory_mb": 128, "cpu_s": 3, "wall_s": 4},
        ),
        resource("disk", "f = open('big', 'wb')\nfor _ in range(10000): f.write(b'x' * (1 << 20))\nprint('done')", limits={"file_mb": 8, **_SMALL}),
        resource("disk-by-many-files", "for i in range(10000):\n    open(f'f{i}', 'wb').write(b'x' * (1 << 20))\nprint('done')", limits={"file_mb": 8, "cpu_s": 3, "wall_s": 6}),
        resource("inodes", "import os\nfor i in range(10**7): os.mkdir(f'd{i}')\nprint('done')", limits={"cpu_s": 2, "wall_s": 6}),
        resource("sparse-file", "f = open('s', 'wb')\nf.truncate(1 << 40)\nprint('done')", limits=_SMALL),
        resource("output-without-end", "import os\nwhile True: os.write(1, b'x' * 65536)", limits={"cpu_s": 5, "wall_s": 10}, reason="printed more"),
        resource("errors-without-end", "import os\nwhile True: os.write(2, b'x' * 65536)", limits={"cpu_s": 0.5, "wall_s": 5}),
        resource("one-long-line", "print('x' * (64 << 20))", limits=_SMALL),
        resource("fork-bomb", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", limits={"cpu_s": 0.5, "wall_s": 2}),
        resource("thread-bomb", "import threading, time\nfor _ in range(5000): threading.Thread(target=time.sleep, args=(99,)).start()\nprint('done')", limits=_SMALL),
        resource(
            "daemon",
            f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        for _ in range(200):\n            try: open({beat!r}, 'a').write('x')\n            except OSError: pass\n            time.sleep(0.05)\n    os._exit(0)\n",
            limits=_SMALL,
        ),
        resource("background-thread", "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()", limits={"wall_s": 0.5}),
        resource("deep-recursion", "import sys\nsys.setrecursionlimit(10**9)\nclass A: pass\ndef f(x): return [f(x)]\nf(1)\nprint('done')", limits={"cpu_s": 1, "wall_s": 6}),
        resource("c-stack-overflow", "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)\nprint('done')", limits=_SMALL),
        resource("null-write", "import ctypes\nctypes.memset(0, 0, 1)\nprint('done')", limits=_SMALL, reason="SIGSEGV"),
        resource("abort-with-core", "import os, resource\nos.abort()", limits=_SMALL),
        resource("many-descriptors", "fs = [open('/dev/null') for _ in range(100000)]\nprint('done')", limits=_SMALL),
        resource("integer-digits", "print(len(str(10 ** (10 ** 8))))\nprint('done')", limits=_SMALL),
        resource("regular-expression", "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')\nprint('done')", limits={"cpu_s": 0.5, "wall_s": 6}, reason="CPU"),
        resource("surrogates", "print('\\ud800')\nprint('done')", limits=_SMALL),
        resource("not-utf-8", "import os\nos.write(1, b'\\xff\\xfe\\x00done')", limits=_SMALL, reason="UTF-8"),
        resource("nul-bytes", "print('done\\0')", limits=_SMALL),
        resource("compiler-bomb", "x = " + "(" * 5000 + ")" * 5000 + "\nprint('done')", limits=_SMALL),
        resource("constant-folding-bomb", "x = (1 << 100) ** 50000\ny = 'x' * 4000 * 4000 * 4000\nprint('done')", limits={"memory_mb": 256, **_SMALL}),
    ]  # fmt: skip


_VALUES = {
    "huge-integer": "def f(): return 7 ** 300000\n",
    "huge-integer-as-json": "import os\nos.write(4, b'{\"a\":0,\"v\":null}\\n{\"a\":1,\"v\":' + b'9' * 100000 + b'}\\n')\ndef f(): return 0\n",
    "nests-deeply": "def f():\n    x = []\n    for _ in range(100000): x = [x]\n    return x\n",
    "nests-deeply-as-json": "import os\nos.write(4, b'{\"a\":0,\"v\":null}\\n{\"a\":1,\"v\":' + b'[' * 50000 + b']' * 50000 + b'}\\n')\ndef f(): return 0\n",
    "contains-itself": "def f():\n    x = []\n    x.append(x)\n    return x\n",
    "colliding-keys": "def f(): return {i * (2**61 - 1): 0 for i in range(40000)}\n",
    "colliding-tuples": "def f(): return {(i * (2**61 - 1),): 0 for i in range(20000)}\n",
    "too-long": "def f(): return 'x' * (64 << 20)\n",
    "endless-generator": "def f():\n    while True: yield 1\n",
    "lone-surrogates": "def f(): return '\\udcff' * 10\n",
    "malformed-answer": "import os\nos.write(4, b'\\xff{}[]\\n' * 100)\ndef f(): return 0\n",
    "unhashable-in-set": 'import os\nos.write(4, b\'{"a":0,"v":null}\\n{"a":1,"v":{"s":[[1],{"h":1}]}}\\n\')\ndef f(): return 0\n',
    "huge-exponent": 'import os\nos.write(4, b\'{"a":0,"v":null}\\n{"a":1,"v":{"D":"1e999999999"}}\\n\')\ndef f(): return 0\n',
    "huge-range": 'import os\nos.write(4, b\'{"a":0,"v":null}\\n{"a":1,"v":{"r":[0,1e999,1]}}\\n\')\ndef f(): return 0\n',
}  # fmt: skip

VALUES = [
    Case(
        f"value-{name}-{style}",
        {"kind": "code", "response": program, "limits": {"cpu_s": 1, "wall_s": 6}, **tests},
        FAILED,
    )
    for name, program in _VALUES.items()
    for style, tests in (
        ("asserts", {"tests": ["assert f() == 1"]}),
        ("check", {"test": "def check(g):\n    x = g()\n    assert x == 1\n", "entry_point": "f"}),
    )
]
