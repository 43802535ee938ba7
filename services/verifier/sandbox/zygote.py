"""A warm interpreter that forks one confined child per order, enforces its clock, and reaps it whole.

It never sees programs, inputs or outputs: they pass by in memfds and pipes between the supervisor and the child,
so nothing of one check is left in the memory that the next check's child inherits. It talks to the supervisor over
a SEQPACKET socket, one JSON object a packet; when that socket closes it dies, and its pid namespace with it.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from rgopd.verifier.sandbox import candidate, child, kernel, landlock, namespaces
from rgopd.verifier.sandbox.child import Confinement, Order, Prepared
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.sandbox.watch import Watch, descendants

# What programs import most, and no more: every page of the zygote is copied into, and torn down with, each child.
PREIMPORT = "bisect collections collections.abc functools heapq itertools json math operator random re string typing"
_TICK_MS = 20
_SETTLED_S = 5.0


class Running:
    """A live child."""

    def __init__(self, order: Order, pid: int, ready: int, watch: Watch) -> None:
        self.order = order
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.ready = ready
        self.started = time.monotonic()
        self.killed = ""
        self.watch = watch


class OomScore:
    """This process's oom_score_adj, raised for the moment of a fork: when a cgroup runs out of memory, the child goes
    first, and not this. Cheaper than to let every child open its own."""

    def __init__(self) -> None:
        self._fd = -1
        try:
            with open("/proc/self/oom_score_adj") as file:
                self._own = file.read().encode()
            self._fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            self.raise_()
            self.restore()
        except OSError:  # no /proc, or no right to come back
            self._fd = -1

    def raise_(self) -> None:
        """What is forked now is expendable."""
        if self._fd >= 0:
            os.pwrite(self._fd, b"1000", 0)

    def restore(self) -> None:
        """As it was."""
        if self._fd >= 0:
            os.pwrite(self._fd, self._own, 0)


class Zygote:
    """The loop. One order at a time is usual; with a checker there are two."""

    def __init__(self, control: socket.socket, how: Confinement) -> None:
        self.control = control
        self.how = how
        self.prepared = Prepared(how)
        self.running: dict[int, Running] = {}
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        self.oom_score = OomScore()
        self.enforced = 0.0

    def serve(self) -> None:
        """Until the supervisor closes the socket."""
        while True:
            events = self.poll.poll(_TICK_MS if self.running else None)
            for fd, _ in events:
                if fd == self.control.fileno():
                    if not self._receive():
                        self._end_all()
                        return
                elif (run := self._by_pidfd(fd)) is not None:
                    self._reap(run)
            if not events or time.monotonic() - self.enforced > _TICK_MS / 1000:
                self._enforce()

    def _receive(self) -> bool:
        packet, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 16)
        if not packet:
            return False
        message = json.loads(packet)
        if "kill" in message:
            run = self.running.get(message["kill"])
            if run is not None:
                self._kill(run, message["why"])
            return True
        try:
            self._spawn(message, fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _spawn(self, message: dict[str, Any], fds: list[int]) -> None:
        order = Order(
            number=message["spawn"],
            mode=message["mode"],
            limits=Limits(*message["limits"]),
            tool=message.get("tool", False),
            argv=tuple(message.get("argv", ())),
            file=message.get("file", ""),
            files=message.get("files", False),
            partner=self._settled(message["with"]) if "with" in message else -1,
        )
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        try:
            if self.how.uid is not None and order.mode != "check":
                for fd in fds[1:3]:
                    os.fchown(fd, self.how.uid, -1)  # so that /dev/stdout can be opened by name
            steps = self.prepared.steps(order)
            pid = self._fork(order)
            if pid == 0:
                child.run(order, fds, ready_write, steps)
        except OSError as error:
            os.close(ready_read)
            self._report(order.number, {"setup_failed": f"cannot fork: {error}"})
            return
        finally:
            os.close(ready_write)
        # Python code on rung 3 cannot fork, and its own address space is bounded: nothing to sum up
        summed = self.how.watch_memory and (self.how.namespaced or order.tool)
        run = Running(order, pid, ready_read, Watch(summed, self.how.scratch))
        self.poll.register(run.pidfd, select.POLLIN)
        self.running[order.number] = run

    def _settled(self, number: int) -> int:
        """The pidfd of a process, once it is in the namespaces that it is to have; -1 where there are none."""
        run = self.running.get(number)
        if run is None or not self.how.namespaced:
            return -1
        select.select([run.ready], [], [], _SETTLED_S)  # it says so, or its end of the pipe closes
        return run.pidfd

    def _fork(self, order: Order) -> int:
        pid = -1
        self.oom_score.raise_()
        try:
            pid = self._fork_now(order)
            return pid
        finally:
            if pid:
                self.oom_score.restore()

    def _fork_now(self, order: Order) -> int:
        if not self.how.namespaced or order.mode == "check":
            return os.fork()
        kernel.unshare(kernel.CLONE_NEWPID)  # of what is forked next
        try:
            pid = os.fork()
        except OSError:
            kernel.setns(self.how.own_pid_namespace, kernel.CLONE_NEWPID)
            raise
        if pid:  # the child, pid 1 there, stays
            kernel.setns(self.how.own_pid_namespace, kernel.CLONE_NEWPID)
        return pid

    def _by_pidfd(self, fd: int) -> Running | None:
        return next((run for run in self.running.values() if run.pidfd == fd), None)

    def _enforce(self) -> None:
        self.enforced = now = time.monotonic()
        for run in self.running.values():
            beside = [other.pid for other in self.running.values() if other is not run]
            if not run.killed and (why := run.watch.over(run.pid, run.order.limits, now - run.started, beside)):
                self._kill(run, why)

    def _kill(self, run: Running, why: str) -> None:
        run.killed = run.killed or why
        try:
            signal.pidfd_send_signal(run.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _reap(self, run: Running) -> None:
        wall = time.monotonic() - run.started
        _, status, usage = os.wait4(run.pid, 0)
        self.poll.unregister(run.pidfd)
        os.close(run.pidfd)
        said = os.read(run.ready, 600)
        os.close(run.ready)
        del self.running[run.order.number]
        outcome = {
            "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "wall_s": wall,
            "starved_s": run.watch.starved_s,
            "killed": run.killed,
        }
        if said != child.READY and run.killed != "done":  # its partner had already decided
            outcome["setup_failed"] = said.decode(errors="replace") or "the child died before it was confined"
        if not self.how.namespaced and run.order.tool:  # Python code on rung 3 cannot fork
            self._sweep()
        self._report(run.order.number, outcome)

    def _sweep(self) -> None:
        """Rung 3: kill and reap what the child left behind; as a subreaper, this process inherits all of it."""
        running = {run.pid for run in self.running.values()}
        while True:
            left = [pid for pid in _children() if pid not in running]
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            for pid in left:
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    pass

    def _report(self, number: int, outcome: dict[str, Any]) -> None:
        self.control.send(json.dumps({"exit": number, **outcome}).encode())

    def _end_all(self) -> None:
        for run in list(self.running.values()):
            self._kill(run, "shutdown")
            os.waitpid(run.pid, 0)
        if not self.how.namespaced:
            self.running.clear()
            self._sweep()


def _children() -> list[int]:
    """Direct children, dead or alive (rung 3: the host's /proc)."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # a kernel without that file
        return descendants()


def main(control_fd: int) -> int:
    """Entry of the exec'd interpreter: build the world of the rung, then serve.

    The first packet says how: rung, uid, checker_uid, scratch, readable, preimport, package_folder.
    """
    control = socket.socket(fileno=control_fd)
    setup: dict[str, Any] = json.loads(control.recv(1 << 16))
    if setup["package_folder"]:
        sys.path.append(setup["package_folder"])
    for name in (*PREIMPORT.split(), *setup["preimport"]):
        __import__(name)
    builtins.exit = _sitebuiltins.Quitter("exit", "")  # site, which is not run, would add these
    builtins.quit = _sitebuiltins.Quitter("quit", "")
    _prepare_standard_streams()
    os.umask(0o022)
    how = Confinement(
        rung=setup["rung"],
        uid=setup["uid"],
        checker_uid=setup["checker_uid"],
        scratch=setup["scratch"],
        readable=tuple(setup["readable"]),
        watch_memory=setup["watch_memory"],
    )
    if how.namespaced:
        return _serve_in_namespaces(control, how)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    _serve(control, how._replace(landlock_abi=landlock.abi()))
    return 0


def _prepare_standard_streams() -> None:
    """Make sys.stdin, sys.stdout and sys.stderr as children will have them: on a file and two pipes."""
    data, (reader, writer) = os.memfd_create("stdin"), os.pipe()
    saved = [os.dup(number) for number in range(3)]
    for number, fd in enumerate((data, writer, writer)):
        os.dup2(fd, number)
    candidate.reopen_standard_streams()
    for number, fd in enumerate(saved):
        os.dup2(fd, number)
    for fd in (data, reader, writer, *saved):
        os.close(fd)


def _serve_in_namespaces(control: socket.socket, how: Confinement) -> int:
    if how.rung == 2:
        how = _enter_user_namespace(how)
    kernel.unshare(namespaces.ZYGOTE_FLAGS)
    socket.sethostname("sandbox")
    pid = os.fork()
    if pid:
        control.close()
        os.waitpid(pid, 0)
        return 0
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    sources, links = namespaces.open_sources(how.readable)  # now: descriptors of another mount namespace do not bind
    has_proc = namespaces.build_root(sources, links)
    for source in sources:
        os.close(source.fd)
    own = os.pidfd_open(os.getpid())
    _serve(control, how._replace(has_proc=has_proc, own_pid_namespace=own))
    os._exit(0)


def _enter_user_namespace(how: Confinement) -> Confinement:
    """As root (rung 1 refused): first become the slot's uid, for which limits count. Then one uid maps to one."""
    if how.uid is not None:
        os.setgroups([])
        os.setresgid(how.uid, how.uid, how.uid)
        os.setresuid(how.uid, how.uid, how.uid)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or /proc/self/uid_map belongs to root
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return how._replace(uid=None, checker_uid=None)


def _serve(control: socket.socket, how: Confinement) -> None:
    sys.path[:] = [path for path in sys.path if path not in ("", os.getcwd())]
    gc.collect()
    gc.freeze()  # so that collections in children do not touch, and copy, inherited pages
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)  # every child inherits it
    zygote = Zygote(control, how)
    control.send(json.dumps({"ready": how.rung, "proc": how.has_proc, "landlock": how.landlock_abi}).encode())
    zygote.serve()
