from __future__ import annotations

import socket

import pytest

from rgopd.common.connection import connect, redact
from rgopd.common.errors import ConfigError, Unavailable
from rgopd.common.server import bind, open_streams
from rgopd.common.settings import ServiceSettings


def test_a_port_in_use_is_an_error_that_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} on 127.0.0.1 is in use; .*--set port=0"):
            bind("127.0.0.1", port)


def test_accepted_connections_do_not_wait_for_delayed_acks() -> None:
    """The two writes of an answer would otherwise cost 40 ms on every kept connection."""
    with bind("127.0.0.1", 0) as server:
        server.listen()
        with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_another_machines_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        bind("203.0.113.1", 0)


def test_no_redis_is_an_error_that_names_the_place_without_the_password() -> None:
    with pytest.raises(Unavailable, match=r"no Redis answers at redis://\*\*\*@127.0.0.1:1/0") as error:
        connect("redis://user:hunter2@127.0.0.1:1/0", wait_s=0)
    assert "hunter2" not in str(error.value)


def test_an_unreadable_url_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        connect("http://localhost")


def test_redact_leaves_plain_urls_alone() -> None:
    assert redact("redis://localhost:6379/0") == "redis://localhost:6379/0"


def test_an_empty_redis_url_means_http_only() -> None:
    assert open_streams(ServiceSettings()) is None
