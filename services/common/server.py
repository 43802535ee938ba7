"""Running a service's HTTP door: bind first, say where, drain on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from rgopd.common.errors import ConfigError, RgopdError
from rgopd.common.http import ServiceState
from rgopd.common.loading import LoadWatch
from rgopd.common.open_run import open_run
from rgopd.common.root import check_root
from rgopd.common.settings import ServiceSettings
from rgopd.common.streams import Streams

log = logging.getLogger(__name__)

_DESCRIPTORS = 1 << 16

GO_S = 5.0
"""How long a process that is stuck while it loads may take to leave by itself."""


def bind(host: str, port: int) -> socket.socket:
    """A bound TCP socket.

    Raises:
        ConfigError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Head and body of an answer are two writes: without this the second waits 40 ms for the client's delayed ACK.
    # asyncio sets it itself, but only on sockets that name their protocol.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} on {host} is in use; stop what listens there, choose another with --set port=N, "
                "or let the system choose with --set port=0"
            ) from error
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from error
    return sock


def open_streams(settings: ServiceSettings) -> Streams | None:
    """The run's streams, or None with an empty redis_url."""
    if not settings.redis_url:
        return None
    return open_run(
        settings.redis_url,
        settings.run_id,
        blob_url=settings.blob_url,
        check_s=60.0,
        lease_ms=settings.lease_ms,
        max_attempts=settings.max_attempts,
    )


def consumer_name(service: str) -> str:
    """A name no other live worker has."""
    return f"{service}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Content-Length: 76\r\nConnection: close\r\n\r\n"
    b'{"title":"Service Unavailable","status":503,"detail":"too many connections"}'
)


def bounded_protocol(most: int) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol that answers 503 to connections beyond `most`, and keeps serving the others.

    A process that has no descriptor left can neither load weights, nor write a checkpoint, nor start a check.
    """

    class Bounded(AutoHTTPProtocol):  # type: ignore[valid-type,misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.write(_FULL)
                transport.close()

    return Bounded


def raise_descriptor_limit() -> int:
    """As many descriptors as this process may have; returns the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


class _Server(uvicorn.Server):
    """uvicorn that loads while it answers probes, and drains before it exits."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServiceState,
        load: Callable[[], None],
        drain: Callable[[], None],
        url: str,
        load_quiet_s: float,
    ) -> None:
        super().__init__(config)
        self.state = state
        self.load = load
        self.drain = drain
        self.url = url
        self.exit_code = 0
        self.watch = LoadWatch(self._progress, self._give_up, state.repos, load_quiet_s)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.watch.start()
        threading.Thread(target=self._load_then_tell, name="load", daemon=True).start()

    def _progress(self, text: str) -> None:
        self.state.progress = text

    def _give_up(self, why: str) -> None:
        """The thread that loads cannot be ended, so the process is."""
        self.state.reason = why
        log.critical("cannot start: %s", why)
        sys.stderr.write(f"cannot start: {why}\n")
        self.exit_code = 1
        self.should_exit = True
        time.sleep(GO_S)
        os._exit(1)

    def _load_then_tell(self) -> None:
        try:
            self.load()
            self.watch.stop()
        except Exception as error:
            self.watch.stop()
            self.state.reason = str(error)
            log.critical("cannot start: %s", error, exc_info=not isinstance(error, RgopdError))
            sys.stderr.write(f"cannot start: {error}\n")
            self.exit_code = 1
            self.should_exit = True
            return
        self.state.ready = True
        sys.stdout.write(f"{self.url}\n")
        sys.stdout.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.state.draining:  # asked twice: leave now
            super().handle_exit(sig, frame)
            return
        self.state.draining = True
        log.info("draining", extra={"signal": signal.Signals(sig).name})
        threading.Thread(target=self._drain_then_exit, name="drain", daemon=True).start()

    def _drain_then_exit(self) -> None:
        try:
            self.drain()
        finally:
            self.should_exit = True


def run_http(
    name: str,
    app: FastAPI,
    settings: ServiceSettings,
    state: ServiceState,
    *,
    sock: socket.socket,
    load: Callable[[], None],
    drain: Callable[[], None],
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
    ssl_ca_certs: str | None = None,
    path: str = "",
) -> int:
    """Serve until SIGTERM or SIGINT; prints the one ready line; returns the exit code.

    Args:
        sock: from `bind`, called before anything is loaded, so that a port in use is told at once.
        load: loads the model or probes the sandbox, and starts the stream worker; runs in a thread while /healthz
            already answers. When it returns, `state.ready` is set; when it raises, the process exits with 1.
        drain: finishes what the service holds; runs in a thread while HTTP still answers.
        path: goes behind the address in the ready line.
    """
    check_root(name, settings.host, settings.allow_root)
    descriptors = raise_descriptor_limit()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        timeout_keep_alive=30,
        http=bounded_protocol(descriptors // 2),
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        ssl_ca_certs=ssl_ca_certs,
    )
    host, port = sock.getsockname()[:2]
    scheme = "https" if ssl_certfile else "http"
    url = f"rgopd {name} ready at {scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"
    server = _Server(config, state, load, drain, url, settings.load_quiet_s)
    server.run(sockets=[sock])
    return server.exit_code or int(state.broken)
