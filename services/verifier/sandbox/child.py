"""From fork to the first instruction of the code under test: give up everything, then run. Never returns."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from typing import Any, NamedTuple

from rgopd.verifier.sandbox import candidate, checker, kernel, landlock, limits, namespaces, seccomp
from rgopd.verifier.sandbox.limits import Limits

MODES = ("calls", "main", "exec", "check")
READY = b"R"
_KEEP_STEPS = 64
_ALL_DESCRIPTORS = 1 << 20


class Confinement(NamedTuple):
    """How this zygote confines its children; the same for all of them.

    Attributes:
        rung: 1, 2 or 3 of the ladder.
        uid: the slot's uid for code under test; None: cannot change it.
        checker_uid: the slot's uid for test code.
        scratch: rung 3: the slot's writable folder.
        readable: folders the interpreter and tools need.
        has_proc: rungs 1 and 2: the zygote has its own /proc.
        landlock_abi: the kernel's.
        own_pid_namespace: pidfd of the zygote.
        watch_memory: no cgroup bounds the tree.
    """

    rung: int
    uid: int | None
    checker_uid: int | None
    scratch: str
    readable: tuple[str, ...]
    has_proc: bool = False
    landlock_abi: int = 0
    own_pid_namespace: int = -1
    watch_memory: bool = False

    @property
    def namespaced(self) -> bool:
        """Rungs 1 and 2."""
        return self.rung <= 2


class Order(NamedTuple):
    """What to run: `mode`, its limits, and whether it may start processes.

    `files`: a program and its tests share a working folder; `partner`: for the tests, a pidfd of the program's process.
    """

    number: int
    mode: str
    limits: Limits
    tool: bool
    argv: tuple[str, ...] = ()
    file: str = ""
    files: bool = False
    partner: int = -1


class Steps(NamedTuple):
    """How one kind of child is confined, as calls that are ready to be made.

    Attributes:
        rules: descriptor of the Landlock rules; -1: none.
        fresh: namespaces of its own; None: none.
        calls: made after those, while still privileged.
        filter: put on last.
    """

    rules: int
    fresh: namespaces.Fresh | None
    calls: list[kernel.Call]
    filter: seccomp.Filter


class Prepared:
    """Everything for a child's confinement that can be made before it is forked. A child pays for each page that it
    touches, with every function and every object, so what is left for it is a handful of system calls."""

    def __init__(self, how: Confinement) -> None:
        self.how = how
        own_files = how.namespaced or how.uid is not None
        may = {"signals": how.namespaced, "metadata": own_files}
        self._code = seccomp.Filter(seccomp.policy(processes=how.namespaced, **may))
        self._tool = seccomp.Filter(seccomp.policy(processes=True, **may))
        self._checker = seccomp.Filter(seccomp.policy(processes=False, signals=False, metadata=False))
        self._sharing: dict[bool, seccomp.Filter] = {}  # is it the checker's -> without links and special files
        self._own_files = own_files
        self._code_rules = self._checker_rules = self._sharing_rules = -1
        if not how.namespaced:
            self._code_rules = landlock.ruleset(_rung3_rules(how), how.landlock_abi)
            checker_rules = [(path, landlock.READ) for path in how.readable]
            self._checker_rules = landlock.ruleset(checker_rules, how.landlock_abi)
        self._capabilities = kernel.drop_capabilities() if how.rung == 2 else []
        self._steps: dict[tuple[bool, bool, bool, Limits], Steps] = {}

    def steps(self, order: Order) -> Steps:
        """For one order; most orders have the limits of an earlier one."""
        check = order.mode == "check"
        key = (check, order.tool, order.files, order.limits)
        if order.tool and self.how.rung == 3:  # depends on what runs at the moment
            return self._for_code(order)
        if key not in self._steps:
            if len(self._steps) >= _KEEP_STEPS:
                self._steps.clear()
            self._steps[key] = self._for_checker(order) if check else self._for_code(order)
        return self._steps[key]

    def _for_code(self, order: Order) -> Steps:
        how, fresh = self.how, None
        calls: list[kernel.Call] = [(os.setsid, ())]
        if how.namespaced:
            fresh = namespaces.Fresh(order.limits.file_mb, how.uid, how.has_proc, shared=order.files)
        else:
            calls.append((os.chdir, (how.scratch,)))
        calls += limits.calls(order.limits, address_space=not order.tool, processes=_process_limit(order, how))
        calls += [*_become(how.uid), *self._capabilities]
        if order.files:
            return Steps(self._code_rules, fresh, calls, self._without_links(check=False))
        return Steps(self._code_rules, fresh, calls, self._tool if order.tool else self._code)

    def _for_checker(self, order: Order) -> Steps:
        """Test code is the dataset's, not the model's: it gets a process, limits and a filter, no namespaces."""
        how = self.how
        calls = [*limits.calls(order.limits, processes=None)]
        if not order.files:
            calls += [*_become(how.checker_uid), *self._capabilities]
            return Steps(self._checker_rules, None, calls, self._checker)
        calls += [*_become(how.uid), *self._capabilities]  # temporary files are their owner's alone
        if not how.namespaced:
            calls.insert(0, (os.chdir, (how.scratch,)))
            if self._sharing_rules < 0:
                rules = [(path, rights & ~landlock.EXECUTE) for path, rights in _rung3_rules(how)]
                self._sharing_rules = landlock.ruleset(rules, how.landlock_abi)
        return Steps(self._sharing_rules, None, calls, self._without_links(check=True))

    def _without_links(self, *, check: bool) -> seccomp.Filter:
        """A filter for those who share a folder: a link or a special file there would lead the tests elsewhere."""
        if check not in self._sharing:
            processes = signals = self.how.namespaced and not check
            table = seccomp.policy(processes=processes, signals=signals, metadata=self._own_files)
            table.update(dict.fromkeys(table.keys() & seccomp.LINKS, seccomp.EPERM))
            self._sharing[check] = seccomp.Filter(table)
        return self._sharing[check]


def run(order: Order, fds: list[int], ready: int, steps: Steps) -> None:
    """In the forked child: confine, say READY, run, exit.

    Args:
        fds: become descriptors 0, 1, 2, ... in this order.
        ready: pipe to the zygote; gets READY, or the text of why confinement failed.
    """
    try:
        if order.partner >= 0:
            namespaces.join(order.partner)
        if steps.rules >= 0:
            landlock.restrict(steps.rules)
        ready = _arrange(fds, ready)
        if steps.fresh is not None:
            steps.fresh.enter()
        kernel.make(steps.calls)
        _die_with_the_zygote()
        steps.filter.install()
        os.write(ready, READY)
        os.close(ready)  # and with it the zygote's only way to be told anything
    except BaseException as error:  # noqa: BLE001 - an infrastructure error, and the one way to tell it
        os.write(ready, f"{type(error).__name__}: {error}".encode()[:500])
        os._exit(121)
    code = 1
    try:
        code = _start(order)
    except BaseException:  # noqa: BLE001 - SystemExit or worse must not unwind into the zygote's loop
        pass
    finally:
        os._exit(code)


def _start(order: Order) -> int:
    random.seed(0)
    if order.mode == "exec":
        return _execute(order)
    if order.mode == "check":
        return checker.main()
    payload: dict[str, Any] = json.loads(candidate.read_all(candidate.PAYLOAD))
    if order.mode == "main":
        os.close(candidate.PAYLOAD)
        return candidate.run_main(payload)
    sys.setrecursionlimit(max(1000, int(payload.get("recursion", 3000))))
    return candidate.run_calls(payload)


def _execute(order: Order) -> int:
    """Put the file where the command expects it, and become the command. 127 when there is no such program."""
    if order.file:
        fd = os.open(order.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
        view = memoryview(candidate.read_all(candidate.PAYLOAD))
        while view:
            view = view[os.write(fd, view) :]
        os.close(fd)
    os.close(candidate.PAYLOAD)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(order.argv[0], order.argv, environment())
    except OSError as error:
        os.write(2, f"{order.argv[0]}: {error}\n".encode())
    return 127


def environment() -> dict[str, str]:
    """All that tools see."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": os.getcwd(),
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OPENSSL_CONF": "/dev/null",  # node gives up where it may not read the system's
    }


def _arrange(fds: list[int], ready: int) -> int:
    """Put fds at 0.., `ready` after them, close all else. Above first, so that no number is overwritten early."""
    base = 24  # above all of the zygote's, below the size at which the table of descriptors grows
    wanted = [*fds, ready]
    for number, fd in enumerate(wanted):
        os.dup2(fd, base + number)
    for number in range(len(wanted)):
        os.dup2(base + number, number)
    os.closerange(len(wanted), _ALL_DESCRIPTORS)
    return len(fds)


def _process_limit(order: Order, how: Confinement) -> int | None:
    """RLIMIT_NPROC counts all processes and threads of a uid."""
    if how.rung < 3 or how.uid is not None:
        return order.limits.processes
    if not order.tool:
        return None  # threads only, and each needs 8 MB of the address space; the uid is the service's own
    return _tasks_of_this_uid() + order.limits.processes


def _tasks_of_this_uid() -> int:
    total, uid = 0, os.getuid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    total += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return total


def _become(uid: int | None) -> list[kernel.Call]:
    if uid is None:
        return []
    return [(os.setgroups, ([],)), (os.setresgid, (uid, uid, uid)), (os.setresuid, (uid, uid, uid))]


_DIE_WITH_PARENT = kernel.prctl_call(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with_the_zygote() -> None:
    parent = os.getppid()
    kernel.make([_DIE_WITH_PARENT])  # cleared by setuid, so after it
    if os.getppid() != parent:
        os._exit(122)


def _rung3_rules(how: Confinement) -> list[tuple[str, int]]:
    rules = [(path, landlock.READ_EXECUTE) for path in how.readable]
    rules += [(how.scratch, landlock.everything(how.landlock_abi))]
    rules += [(f"/dev/{name}", landlock.READ_FILE | landlock.WRITE_FILE) for name in ("null", "zero", "full")]
    return [*rules, ("/dev/urandom", landlock.READ_FILE), ("/dev/random", landlock.READ_FILE)]
