"""Redis that restarts, cuts connections, is full, or becomes a replica: commands wait, then say why."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError, OutOfMemoryError, ResponseError

from rgopd.common.connection import connect, hurry, redact
from rgopd.common.deliveries import Outcome
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.errors import ConfigError, Unavailable
from rgopd.common.streams import Streams
from tests.chaos.proxy import Proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """One that tests may hurt."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.stop()


@pytest.fixture
def client(server: EmbeddedValkey) -> Iterator[Redis]:
    client = connect(server.url, patience_s=120)
    yield client
    client.close()


def later(action: Callable[[], object], seconds: float = 0.4) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def admin(server: EmbeddedValkey) -> Redis:
    return Redis.from_url(server.url)


def test_a_restart_loses_nothing_and_is_waited_out(server: EmbeddedValkey, client: Redis, run_id: str) -> None:
    streams = Streams(client, run_id)
    streams.ensure("verify")
    streams.add("verify", b"before")
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    added: list[str] = []
    waiting = threading.Thread(target=lambda: added.append(streams.add("verify", b"during")))
    waiting.start()
    time.sleep(0.3)
    server.start()
    waiting.join(200)
    assert len(added) == 1
    payloads = {d.payload for d in streams.read("verify", "a", count=10, block_ms=5)}
    assert payloads == {b"before", b"during"}


def test_a_full_server_is_waited_for(server: EmbeddedValkey, client: Redis, run_id: str) -> None:
    streams = Streams(client, run_id)
    streams.ensure("verify")
    streams.add("verify", b"job")
    [delivery] = streams.read("verify", "a", block_ms=5)
    admin(server).config_set("maxmemory", "1kb")
    started = time.monotonic()
    timer = later(lambda: admin(server).config_set("maxmemory", 0))
    streams.complete(delivery, Outcome(blobs={("verdict", "r"): b"ok"}))  # MULTI, SET, XACK
    assert time.monotonic() - started > 0.3
    admin(server).config_set("maxmemory", "1kb")
    again = later(lambda: admin(server).config_set("maxmemory", 0))
    streams.add("verify", b"next")  # a script
    timer.join()
    again.join()
    assert streams.blobs.get("verdict", "r") == b"ok"
    assert streams.depth("verify")["backlog"] == 1


def test_a_server_that_stays_full_says_what_to_do(
    server: EmbeddedValkey, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rgopd.common.connection.TELL_EVERY_S", 0.2)
    client = connect(server.url, patience_s=0.8)
    admin(server).config_set("maxmemory", "1kb")
    try:
        with caplog.at_level(logging.WARNING), pytest.raises(OutOfMemoryError):
            client.set("x", "y")
    finally:
        admin(server).config_set("maxmemory", 0)
        client.close()
    assert "up.maxmemory_mb" in caplog.text


def test_a_replica_is_waited_out(server: EmbeddedValkey, client: Redis) -> None:
    admin(server).replicaof("127.0.0.1", 1)
    timer = later(lambda: admin(server).replicaof("NO", "ONE"))
    client.set("written", "1")
    timer.join()
    assert client.get("written") == b"1"


def test_cut_connections_are_made_again(server: EmbeddedValkey, run_id: str) -> None:
    proxy = Proxy(server.port)
    client = connect(proxy.url, patience_s=120)
    streams = Streams(client, run_id)
    streams.ensure("verify")
    for number in range(20):
        streams.add("verify", str(number).encode())
        proxy.cut()
    proxy.block()
    timer = later(proxy.unblock)
    seen = {d.payload for d in streams.read("verify", "a", count=100, block_ms=5)}
    timer.join()
    client.close()
    proxy.close()
    assert seen == {str(n).encode() for n in range(20)}  # a message may come twice, none may be missing


def test_real_mistakes_are_not_waited_for(client: Redis) -> None:
    client.set("text", "x")
    started = time.monotonic()
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        client.xlen("text")
    assert time.monotonic() - started < 60


def test_hurry_ends_the_waiting(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path).start()
    client = connect(server.url, patience_s=600)
    server.stop()
    later(lambda: hurry(client), 0.3)
    started = time.monotonic()
    with pytest.raises(ConnectionError):
        client.get("x")
    client.close()
    assert time.monotonic() - started < 300


def test_wrong_credentials_and_nobody_there_are_told_apart(server: EmbeddedValkey) -> None:
    port = server.port
    admin(server).execute_command("ACL", "SETUSER", "rgopd", "on", ">right", "~rgopd:*", "+@all")
    with pytest.raises(ConfigError, match="refused the credentials") as refused:
        connect(f"redis://rgopd:wrong-secret@127.0.0.1:{port}/0", wait_s=0.1)
    assert "wrong-secret" not in str(refused.value)
    connect(f"redis://rgopd:right@127.0.0.1:{port}/0", wait_s=1).close()
    with pytest.raises(Unavailable, match="no Redis answers at redis://"):
        connect("redis://:secret@127.0.0.1:1/0", wait_s=0.1)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:1/0", "redis://***@host:1/0"),
        ("rediss://user:p@ss@host/0", "rediss://***@host/0"),
        ("redis://host/0", "redis://host/0"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_two_servers_never_share_an_append_only_file(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path).start()
    with pytest.raises(Unavailable, match="another server still uses"):
        EmbeddedValkey(tmp_path).start(timeout_s=0.3)
    server.stop()
    EmbeddedValkey(tmp_path).start().stop()
