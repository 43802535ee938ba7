"""Whether a Redis-protocol server will do, found out by using it as a run does."""

from __future__ import annotations

import os
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from rgopd.common.connection import advice, connect, redact
from rgopd.common.deliveries import Outcome
from rgopd.common.errors import ConfigError
from rgopd.common.open_run import server_urls
from rgopd.common.streams import GROUP, Streams

OLDEST = (6, 2)
"""XAUTOCLAIM, by which the messages of a worker that died are taken over."""


def check_servers(redis_url: str, wait_s: float = 3.0) -> str:
    """Every server that a `redis_url` names.

    Raises:
        Unavailable: nothing answers.
        ConfigError: it answers, and cannot be used; says what to do.
    """
    spread, named = server_urls(redis_url)
    return "; ".join(f"{redact(url)}: {check_server(url, wait_s)}" for url in [*spread, *named.values()])


def check_server(url: str, wait_s: float = 3.0) -> str:
    """One server; see `check_servers`."""
    client, where = connect(url, wait_s=wait_s, patience_s=wait_s), redact(url)
    try:
        _check_version(client, where)
        _round_trip(client)
        _check_policy(client, where)
    except NoPermissionError as error:
        raise ConfigError(
            f"{where}: this user may not do what a run does ({error}); give it `~rgopd:* +@all -@dangerous`, or "
            "another user"
        ) from error
    except RedisError as error:
        raise ConfigError(f"{where} cannot be used: {advice(error)}") from error
    finally:
        client.close()
    return "streams work"


def _check_version(client: Redis, where: str) -> None:
    try:
        found: Any = client.info("server")
    except ResponseError:  # INFO may be withheld; the round trip tells
        return
    version = str(found.get("redis_version", ""))
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
    if numbers and numbers < OLDEST:
        raise ConfigError(
            f"{where} is Redis {version}, and rgopd needs 6.2 or newer (or Valkey): upgrade it, or leave redis_url out"
        )


def _round_trip(client: Redis) -> None:
    streams = Streams(client, f"doctor-{os.getpid()}")
    key = streams.key("probe")
    try:
        streams.add("probe", b"x")
        [delivery] = streams.read("probe", "doctor", block_ms=1000)
        client.xautoclaim(key, GROUP, "doctor", min_idle_time=1 << 40)
        streams.complete(delivery, Outcome())
    finally:
        client.delete(key)


def _check_policy(client: Redis, where: str) -> None:
    try:
        found: Any = client.config_get("maxmemory-policy")
    except ResponseError:  # hosted ones withhold CONFIG
        return
    policy = found.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        raise ConfigError(
            f"{where}: maxmemory-policy is {policy}: a full server would drop messages and tensors; "
            "set maxmemory-policy noeviction"
        )
