"""The small world of rungs 1 and 2: a read-only root made of a few bind mounts, and a fresh /tmp and /proc a check."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from rgopd.verifier.sandbox import kernel

ZYGOTE_FLAGS = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32")
_DEVICES = ("null", "zero", "full", "urandom")
_COPIES = ("/etc/ld.so.cache",)
_STAGE = "/tmp"  # covered by the new root while it is built


class Source(NamedTuple):
    """Something of the host that the sandbox may read: an open O_PATH descriptor, since the new root is
    built on a folder that may hold it."""

    fd: int
    target: str
    folder: bool


def open_sources(paths: Iterable[str]) -> tuple[list[Source], dict[str, str]]:
    """Open the system folders, the devices and `paths`; also returns the top-level symlinks (/bin -> usr/bin)."""
    sources: list[Source] = []
    links: dict[str, str] = {}
    for path in (*_SYSTEM, *paths):
        if os.path.islink(path):
            links[path] = os.readlink(path)
        elif os.path.exists(path) and not any(path == s.target or path.startswith(s.target + "/") for s in sources):
            sources.append(Source(os.open(path, os.O_PATH | os.O_CLOEXEC), path, os.path.isdir(path)))
    for name in _DEVICES:
        if os.path.exists(f"/dev/{name}"):
            sources.append(Source(os.open(f"/dev/{name}", os.O_PATH | os.O_CLOEXEC), f"/dev/{name}", False))
    return sources, links


def build_root(sources: list[Source], links: dict[str, str]) -> bool:
    """Build the root on a tmpfs and pivot into it; True when it has a /proc of this pid namespace.

    Needs a mount namespace and CAP_SYS_ADMIN over it.
    """
    copies = {path: _read(path) for path in _COPIES if os.path.exists(path)}
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("sandbox", _STAGE, "tmpfs", kernel.MS_NOSUID, "mode=0755,size=4m")
    for folder in ("dev", "tmp", "proc", "etc"):
        os.mkdir(f"{_STAGE}/{folder}", 0o755)
    for source in sources:
        _bind(source)
    for path, target in links.items():
        os.symlink(target, _STAGE + path)
    for path, content in copies.items():
        with open(_STAGE + path, "wb") as file:
            file.write(content)
    for name, target in {
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
        "shm": "/tmp",
        "random": "urandom",
    }.items():
        os.symlink(target, f"{_STAGE}/dev/{name}")
    # Before the old root goes: in a user namespace the kernel gives a new /proc only where a whole one is in sight.
    has_proc = mount_proc(f"{_STAGE}/proc", None)
    kernel.pivot_into(_STAGE)
    kernel.make_readonly("/", recursive=False)
    return has_proc


def mount_proc(target: str, options: str | None) -> bool:
    """A /proc of the current pid namespace; False where the kernel refuses (masked /proc of containers)."""
    try:
        kernel.make([_proc(target, options)])
    except OSError:
        return False
    return True


class Fresh:
    """What gives a child mount, IPC and UTS namespaces of its own, a /tmp and a /proc; its working folder is /tmp.

    Args:
        file_mb: size of the tmpfs, which bounds all the files of one check together.
        uid: owner of /tmp; None: whoever mounts it.
        zygote_has_proc: the inherited /proc shows the zygote and must be covered.
        shared: the tests will join; links in /tmp are not followed.
    """

    def __init__(self, file_mb: int, uid: int | None, zygote_has_proc: bool, *, shared: bool = False) -> None:
        owner = "" if uid is None else f",uid={uid},gid={uid}"
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | (kernel.MS_NOSYMFOLLOW if shared else 0)
        self._world = [
            kernel.unshare_call(kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS),
            kernel.mount_call("tmp", "/tmp", "tmpfs", flags, f"mode=0700,size={file_mb}m,nr_inodes=4096{owner}"),
            (os.chdir, ("/tmp",)),
        ]
        self._proc = [_proc("/proc", "subset=pid")]
        cover = kernel.mount_call("none", "/proc", "tmpfs", flags | kernel.MS_RDONLY, "size=0")
        self._without_proc = [cover] if zygote_has_proc else []

    def enter(self) -> None:
        """In the child, which is still privileged."""
        kernel.make(self._world)
        try:
            kernel.make(self._proc)
        except OSError:
            kernel.make(self._without_proc)


def join(pidfd: int) -> None:
    """Enter the mount namespace of a process: its files, its /proc. Stays outside where the process has ended."""
    try:
        kernel.setns(pidfd, kernel.CLONE_NEWNS)
        os.chdir("/tmp")
    except OSError:
        return


def _proc(target: str, options: str | None) -> kernel.Call:
    return kernel.mount_call("proc", target, "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, options)


def _bind(source: Source) -> None:
    target = _STAGE + source.target
    if source.folder:
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    flags = kernel.MS_BIND | (kernel.MS_REC if source.folder else 0)
    kernel.mount(f"/proc/self/fd/{source.fd}", target, None, flags)
    if source.folder:
        kernel.make_readonly(target)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
