from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from rgopd.common import embedded
from rgopd.common.embedded import EmbeddedValkey, free_port
from rgopd.common.errors import Unavailable
from rgopd.common.fleeting import seen


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of its own choice that somebody else took before it could."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield int(sock.getsockname()[1])


def test_a_port_that_was_taken_meanwhile_is_left_for_another(
    tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "free_port", iter([taken, taken, free_port()]).__next__)
    server = EmbeddedValkey(tmp_path)
    assert server.port == taken
    server.start()
    try:
        assert server.port != taken
        with Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.stop()


def test_another_server_there_is_not_taken_for_it(
    tmp_path: Path, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = int(redis.connection_pool.connection_kwargs["port"])
    monkeypatch.setattr(embedded, "free_port", iter([theirs, free_port()]).__next__)
    server = EmbeddedValkey(tmp_path).start()
    assert server.port != theirs
    server.stop()
    assert redis.ping()


def test_a_port_that_was_asked_for_is_not_exchanged(tmp_path: Path, taken: int) -> None:
    with pytest.raises(Unavailable, match="in use"):
        EmbeddedValkey(tmp_path, taken).start()


def test_after_a_start_it_stays_where_others_look_for_it(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path).start()
    port = server.port
    server.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(Unavailable, match="in use"):
            server.start()
    assert server.start().port == port
    server.stop()


def test_free_ports_are_not_among_those_that_the_kernel_hands_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = tmp_path / "ip_local_port_range"
    monkeypatch.setattr(embedded, "_KERNELS_OWN", kernels)
    for text, below in (("32768\t60999\n", 30_000), ("20000 60999\n", 20_000)):
        kernels.write_text(text)
        ports = {free_port() for _ in range(50)}
        assert all(10_000 <= port < below for port in ports)
        assert len(ports) > 40, "by chance: two processes must not go through the same ones"
    kernels.write_text("1024 65535\n")
    assert free_port() > 0


def test_a_file_of_a_process_that_ended_after_it_was_opened_is_not_there() -> None:
    def look() -> str:
        raise ProcessLookupError(errno.ESRCH, "No such process")

    assert seen(look, "gone") == "gone"
