"""Opening a run's streams and blobs, as `redis_url` and `blob_url` say."""

from __future__ import annotations

import re
from typing import Any

from redis import Redis

from rgopd.common.blob_url import open_blobs, open_outside
from rgopd.common.connection import connect, redact
from rgopd.common.errors import ConfigError
from rgopd.common.split import SplitStreams
from rgopd.common.streams import Streams
from rgopd.common.teacher_client import score_stream

_NAMED = re.compile(r"^([A-Za-z0-9_]{1,64})=(.+)$")


def server_urls(redis_url: str) -> tuple[list[str], dict[str, str]]:
    """The servers of a `redis_url`: those that groups are spread over, and those of named teachers.

    Raises:
        ConfigError: none is without a name, or one is named twice.
    """
    spread: list[str] = []
    named: dict[str, str] = {}
    for text in filter(None, (part.strip() for part in redis_url.split(","))):
        if (found := _NAMED.fullmatch(text)) is None:
            spread.append(text)
        elif found[1] in named:
            raise ConfigError(f"redis_url names two servers for teacher {found[1]!r}; give it one")
        else:
            named[found[1]] = found[2]
    if not spread:
        raise ConfigError("redis_url names servers of teachers alone; put the run's own before them")
    if len(set(spread)) < len(spread):
        raise ConfigError("redis_url names a server twice: groups would be counted twice")
    return spread, named


def connect_all(redis_url: str, **waits: float) -> list[Redis]:
    """A client of each server of a `redis_url`, those without a name first."""
    spread, named = server_urls(redis_url)
    return [connect(url, **waits) for url in [*spread, *(named[name] for name in sorted(named))]]


def open_run(
    redis_url: str,
    run_id: str,
    *,
    blob_url: str = "",
    wait_s: float = 10.0,
    patience_s: float = 60.0,
    check_s: float = 0.0,
    **options: Any,
) -> Streams:
    """A run's streams.

    Args:
        redis_url, blob_url: the settings.
        wait_s, patience_s: see `connect`.
        check_s: try the blob store first, for so long; 0: not.
        options: of `Streams`.

    Raises:
        ConfigError: a URL that cannot be read, or refused credentials.
        Unavailable: a server does not answer.
    """
    spread, named = server_urls(redis_url)
    servers = [connect(url, wait_s=wait_s, patience_s=patience_s) for url in spread]
    teachers = {score_stream(name): connect(url, wait_s=wait_s, patience_s=patience_s) for name, url in named.items()}
    blobs = open_outside(blob_url, run_id, patience_s=patience_s) if blob_url else None
    if blobs is not None and check_s:
        blobs.check(wait_s=check_s)
    if len(servers) == 1 and not teachers:
        return Streams(servers[0], run_id, blobs=blobs or open_blobs("", run_id, servers[0]), **options)
    return SplitStreams(servers, teachers, run_id, blobs=blobs, **options)


def redact_all(redis_url: str) -> list[str]:
    """The servers of a `redis_url` in the order of `Streams.parts`, without their passwords."""
    spread, named = server_urls(redis_url)
    return [redact(url) for url in [*spread, *(named[name] for name in sorted(named))]]
