"""What Redis holds of a run: queues, leases, workers, dead letters. Only commands that read.

The address is in the run's up.yaml, and may be another machine's loopback when the folder was mounted or copied from
there: what answers is believed only if it holds this run's own claim.
"""

from __future__ import annotations

import json
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from rgopd.common.connection import redact
from rgopd.common.open_run import server_urls
from rgopd.common.queues import queues, server_ms, stream_names
from rgopd.common.split import SplitStreams
from rgopd.common.streams import GROUP, Streams
from rgopd.common.teacher_client import score_stream

ALIVE_MS = 60_000
"""A worker asks its stream several times a second; one that did not for this long hangs or is gone."""
_AGAIN_S, _SCAN_S = 5.0, 10.0
MAX_LEASES, MAX_LETTERS = 200, 200


class RedisView:
    """One run's keys. `read` waits at most `timeout_s`, and not at all for a server that was just found away."""

    def __init__(self, folder: Path, url: str = "", timeout_s: float = 0.5) -> None:
        """`url`: instead of the one in the run's up.yaml."""
        self.folder = folder
        self.url = url
        self.timeout_s = timeout_s
        self._clients: list[Redis] = []
        self._address = ""
        self._try_at = 0.0
        self._trouble = ""
        self._names: list[str] = []
        self._scan_at = 0.0
        self._lock = threading.Lock()

    def read(self, *, full: bool = True) -> dict[str, Any]:
        """{"at", "trouble": why there is no more; "queues", "workers", "dead_count"; "leases" and "dead" if `full`}."""
        with self._lock:
            try:
                streams = self._streams()
                return {"at": redact(self._address), **self._facts(streams, full)} if streams else self._away()
            except RedisError as error:
                self._trouble, self._try_at = f"no answer: {error}", time.monotonic() + _AGAIN_S
                return self._away()

    def _away(self) -> dict[str, Any]:
        return {"at": redact(self._address), "trouble": self._trouble}

    def _streams(self) -> Streams | None:
        if time.monotonic() < self._try_at:
            return None
        up = _mapping(self.folder / "up.yaml").get("common", {})
        address = self.url or str(up.get("redis_url") or "")
        if not address:
            self._trouble = "this run's folder names no Redis (up.yaml)"
            return None
        spread, named = server_urls(address)
        if not self._clients or address != self._address:
            self.close()
            self._address, self._scan_at = address, 0.0
            self._clients = [self._client(url) for url in [*spread, *named.values()]]
        run = _mapping(self.folder / "run.json")
        name = str(run.get("run_id") or up.get("run_id") or self.folder.name)
        streams = Streams(self._clients[0], name)
        if len(self._clients) > 1:
            teachers = dict(zip(map(score_stream, named), self._clients[len(spread) :], strict=True))
            streams = SplitStreams(self._clients[: len(spread)], teachers, name)
        instance = str(run.get("instance", ""))
        if any(claim and instance and not claim.startswith(f"{instance}:") for claim in streams.claims()):
            self._trouble, self._try_at = "the server there holds another run of this name", time.monotonic() + _AGAIN_S
            return None
        return streams

    def _client(self, url: str) -> Redis:
        timeouts = {"socket_connect_timeout": self.timeout_s, "socket_timeout": self.timeout_s}
        return Redis.from_url(url, **timeouts, retry=Retry(NoBackoff(), 0))

    def _facts(self, streams: Streams, full: bool) -> dict[str, Any]:
        if time.monotonic() >= self._scan_at:  # a scan walks over all blobs, too
            self._names, self._scan_at = stream_names(streams), time.monotonic() + _SCAN_S
        found = queues(streams, self._names)
        workers = [
            {"stream": queue.stream, **vars(consumer), "alive": consumer.idle_ms < ALIVE_MS}
            for queue in found
            for consumer in streams.consumers(queue.stream)
        ]
        facts = {
            "trouble": "",
            "queues": [vars(queue) for queue in found],
            "workers": workers,
            "dead_count": sum(int(part.redis.xlen(part.key("dead"))) for part in streams.parts),
        }
        if full:
            leases = [
                lease
                for queue in found
                if queue.leased
                for part in streams.parts_of(queue.stream)
                for lease in self._leases(part, queue.stream, server_ms(part))
            ]
            facts["leases"] = sorted(leases, key=lambda lease: -lease["age_s"])[:MAX_LEASES]
            facts["dead"] = [
                {k: v for k, v in vars(letter).items() if k != "payload"} | {"bytes": len(letter.payload)}
                for letter in (streams.dead_letters(MAX_LETTERS) if facts["dead_count"] else [])
            ]
        return facts

    def _leases(self, streams: Streams, name: str, now_ms: int) -> list[dict[str, Any]]:
        pending: Any = streams.redis.xpending_range(streams.key(name), GROUP, "-", "+", MAX_LEASES)
        ids = [entry["message_id"].decode() for entry in pending]
        reasons: Any = streams.redis.hmget(streams.run_key(f"reasons:{name}"), ids) if ids else []
        return [
            {
                "stream": name,
                "id": entry_id,
                "holder": entry["consumer"].decode(),
                "renewed_s": entry["time_since_delivered"] / 1000,
                "age_s": (now_ms - int(entry_id.split("-")[0])) / 1000,
                "deliveries": int(entry["times_delivered"]),
                "reason": reason.decode(errors="replace") if reason else "",
            }
            for entry_id, entry, reason in zip(ids, pending, reasons, strict=True)
        ]

    def close(self) -> None:
        """Let the connection go."""
        for client in self._clients:
            client.close()
        self._clients = []


def _mapping(path: Path) -> dict[str, Any]:
    try:
        changed = path.stat().st_mtime_ns
    except OSError:  # absent
        return {}
    return _parsed(path, changed)


@lru_cache(maxsize=64)
def _parsed(path: Path, changed: int) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        loaded = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):  # absent, unreadable for us, or half written
        return {}
    return loaded if isinstance(loaded, dict) else {}
