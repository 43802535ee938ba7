"""A TCP proxy whose connections can be cut: the network between a run and its Redis."""

from __future__ import annotations

import socket
import threading


class Proxy:
    """Listens on loopback and forwards to `port`; each direction of a connection has a thread."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.cuts = 0
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """What goes into redis_url."""
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> int:
        """Reset every connection, in the middle of whatever it carries; returns how many there were."""
        with self._lock:
            pairs = list(self._pairs)
            self._pairs.clear()
        for pair in pairs:
            for end in pair:
                _close(end)
        self.cuts += len(pairs)
        return len(pairs)

    def block(self) -> None:
        """Cut, and refuse new connections until `unblock`."""
        self._open.clear()
        self.cut()

    def unblock(self) -> None:
        """Let them in again."""
        self._open.set()

    def close(self) -> None:
        """Stop."""
        _close(self.listener)
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if not self._open.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:  # the server is down just now: the client sees a reset
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._pairs.add((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink, (near, far)), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            _close(end)


def _close(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
