"""`rgopd doctor --cluster`: a deployment looked at from one of its containers, through Redis and HTTP."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import Field
from redis import Redis

from rgopd.cli.checks import Check, Failed
from rgopd.common.errors import ConfigError
from rgopd.common.open_run import open_run, redact_all
from rgopd.common.queues import stream_names
from rgopd.common.settings import Settings
from rgopd.common.streams import GENERATE, SCORE, VERIFY, Streams

ALIVE_MS = 60_000
"""A worker asks its stream several times a second; one that did not for this long hangs or is gone."""


class ClusterSettings(Settings):
    """Where to look: RGOPD_REDIS_URL, RGOPD_RUN_ID, RGOPD_TOKEN, as every service's container has them."""

    token: str = Field("", repr=False)


def cluster_checks(settings: ClusterSettings, urls: Sequence[str]) -> Iterator[tuple[str, Check]]:
    """The checks of one deployment.

    Args:
        urls: "teacher=http://teacher:8001" and so on; every address behind the name is asked.

    Raises:
        ConfigError: no redis_url, or a URL that is not NAME=URL.
    """
    if not settings.redis_url:
        raise ConfigError("doctor --cluster needs the run's Redis: set RGOPD_REDIS_URL, or run it inside a container")
    streams = open_run(settings.redis_url, settings.run_id, blob_url=settings.blob_url)
    for number, (part, url) in enumerate(zip(streams.parts, redact_all(settings.redis_url), strict=True)):
        yield "redis", partial(_check_part, streams, part, number, url)
    if settings.blob_url:
        yield "blobs", lambda: check_store(streams)
    for stream in (GENERATE, VERIFY, *_score_streams(streams)):
        yield f"stream {stream}", _of_stream(streams, stream)
    yield "dead letters", lambda: check_dead_letters(streams)
    yield "policy", lambda: check_policy(streams)
    for text in urls:
        name, separator, url = text.partition("=")
        if not separator or not urlsplit(url).hostname:
            raise ConfigError(f"--url {text!r}: write it as name=http://host:port, e.g. teacher=http://teacher:8001")
        yield name, _of_service(url, settings.token)


def _check_part(streams: Streams, part: Streams, number: int, url: str) -> str:
    """One of a run's servers: it is fit, and is to the trainer what it is to us."""
    found = check_server(part.redis)
    place: Any = part.redis.get(part.run_key("place")) if len(streams.parts) > 1 else None
    here = f"{number} of {len(streams.parts)}"
    if place is not None and place.decode() != here:
        raise Failed(
            f"{url} is server {here} of this redis_url (from 0), and {place.decode()} of the trainer's: give every "
            "process the same servers in the same order"
        )
    return f"{url}: {found}"


def check_server(client: Redis) -> str:
    """Version, durability, and room."""
    info: Any = client.info()
    if tuple(map(int, info["redis_version"].split(".")[:2])) < (6, 2):
        raise Failed(f"Redis {info['redis_version']} has no XAUTOCLAIM: use 6.2 or newer, or Valkey")
    if not info.get("aof_enabled"):
        raise Failed("no append-only file: what is in flight is lost with the server; set appendonly yes")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise Failed(f"maxmemory-policy is {policy}: a full server would drop tensors; set noeviction")
    used, limit = int(info["used_memory"]), int(info.get("maxmemory") or 0)
    if limit and used > 0.8 * limit:
        raise Failed(f"{used >> 20} of {limit >> 20} MiB are used: raise maxmemory or lower prompts_per_step")
    return f"{info['redis_version']}, append-only file on, {used >> 20} of {limit >> 20 or 'unlimited'} MiB used"


def check_store(streams: Streams) -> str:
    """The blob store works from here, and is the trainer's."""
    found = streams.blobs.check()
    *claimed, owner = streams.claims()
    if any(token not in (None, owner) for token in claimed):
        raise Failed(
            f"{streams.blobs.where} is not the store that the trainer writes to, or it came back empty: mount the same "
            "file system (or name the same bucket) on every machine"
        )
    return found


def _score_streams(streams: Streams) -> list[str]:
    """The default teacher's and those of named ones; not the default's where all prompts name theirs."""
    named = [name for name in stream_names(streams) if name.startswith(f"{SCORE}_")]
    unused = named and not streams.consumers(SCORE) and not streams.depth(SCORE)["backlog"]
    return named if unused else [SCORE, *named]


def _of_stream(streams: Streams, stream: str) -> Callable[[], str]:
    return lambda: check_stream(streams, stream)


def check_stream(streams: Streams, stream: str) -> str:
    """Somebody reads it."""
    consumers = streams.consumers(stream)
    alive = [c for c in consumers if c.idle_ms < ALIVE_MS]
    stuck = [c.name for c in consumers if c.leased and c.idle_ms >= ALIVE_MS]
    depth = streams.depth(stream)
    if not alive:
        raise Failed(f"nobody reads it ({depth['backlog']} messages wait): is the service up, with this RGOPD_RUN_ID?")
    if stuck:
        raise Failed(f"{', '.join(stuck)} hold messages and do not ask for more: hung, or about to be taken over")
    return f"{len(alive)} workers, {depth['backlog']} messages of which {depth['leased']} are leased"


def check_dead_letters(streams: Streams) -> str:
    """None, or why the first was given up."""
    letters = streams.dead_letters(count=1)
    if letters:
        raise Failed(f"there are some; the oldest is of {letters[0].stream!r}: {letters[0].reason[:300]}")
    return "none"


def check_policy(streams: Streams) -> str:
    """The newest policy version can be read from here, whole."""
    from rgopd.common.policies import PolicyStore, digest

    policy = PolicyStore(streams).latest()
    if policy is None:
        return "none yet: the trainer has not started"
    folder = Path(policy.path)
    if not folder.is_dir():
        raise Failed(f"version {policy.version} is announced at {folder}, which is not here: mount the run's volume")
    if digest(folder) != policy.sha256:
        raise Failed(f"version {policy.version} at {folder} is not what was announced: another volume, or a torn copy")
    return f"version {policy.version} at {folder}, checksum right"


def _of_service(url: str, token: str) -> Callable[[], str]:
    return lambda: check_service(url, token)


def check_service(url: str, token: str) -> str:
    """Every address behind the name is ready, and all replicas serve the same."""
    parts = urlsplit(url)
    port = parts.port or 80
    assert parts.hostname is not None
    found = socket.getaddrinfo(parts.hostname, port, socket.AF_INET, socket.SOCK_STREAM)
    addresses = sorted({str(entry[4][0]) for entry in found})
    infos = [_info(f"{parts.scheme}://{address}:{port}", token) for address in addresses]
    for key in ("model", "revision", "schema_version", "version"):
        values = {str(info[key]) for info in infos if key in info}
        if len(values) > 1:
            raise Failed(f"replicas differ in {key}: {', '.join(sorted(values))}; finish the roll-out")
    isolation = infos[0].get("isolation", {})
    what = f"rung {isolation['rung']}" if isolation else str(infos[0].get("model", infos[0].get("student", "")))
    return f"{len(addresses)} addresses ready, {what}"


def _info(base: str, token: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        ready = httpx.get(f"{base}/readyz", timeout=5)
        if ready.status_code != 200:
            raise Failed(f"{base} is not ready: {ready.text[:300]}")
        info = httpx.get(f"{base}/info", headers=headers, timeout=5)
    except httpx.HTTPError as error:
        raise Failed(f"{base} does not answer: {error}") from error
    if info.status_code != 200:
        raise Failed(f"{base}/info answers {info.status_code}: {info.text[:200]}")
    return dict(info.json())
