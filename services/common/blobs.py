"""Tensors and results by reference: bytes under (stage, rollout id), with expiry.

The first write wins. A stage may be run twice (a lease was lost, a message was delivered again); whoever
read the first result must never see it change.

They lie in the run's Redis, or where `blob_url` says: `stores.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import islice

from redis import Redis

from rgopd.common.connection import hurry
from rgopd.common.errors import TooLarge

MAX_BLOB_BYTES = 256 << 20


class Blobs(ABC):
    """Blobs of one run.

    Attributes:
        run_id: the run.
        ttl_s: bounds what a run that died leaves behind, in seconds.
        where: the store in words, for errors; without secrets.
        outside: whether they lie elsewhere than the run's streams: then no transaction spans both.
    """

    run_id: str
    ttl_s: int
    where: str
    outside: bool

    @abstractmethod
    def put(self, stage: str, item_id: str, data: bytes) -> bool:
        """Store `data` unless something is there; True when this call stored it.

        Raises:
            TooLarge: over 256 MiB.
        """

    @abstractmethod
    def get(self, stage: str, item_id: str, *, announced: bool = False) -> bytes | None:
        """The bytes, or None when never written, expired or damaged.

        announced: somebody said that it is there: a store whose readers may lag behind its writers is waited for.
        """

    @abstractmethod
    def get_many(self, stage: str, item_ids: Sequence[str], *, announced: bool = False) -> list[bytes | None]:
        """`get` for many ids at once, in their order."""

    @abstractmethod
    def present(self, stage: str, item_ids: Sequence[str]) -> list[bool]:
        """Which of them are there, in their order."""

    @abstractmethod
    def delete(self, stage: str, item_ids: Iterable[str]) -> None:
        """Drop what is no longer needed."""

    def beside(self, redis: Redis, item_id: str) -> RedisBlobs | None:
        """Where a transaction of this server can store an item's blobs, if it can."""
        return None

    @abstractmethod
    def purge(self) -> int:
        """Delete all of this run; how many there were."""

    @abstractmethod
    def expire(self) -> int:
        """Delete what is older than `ttl_s`, of whatever run, where the store does not do so by itself."""

    @abstractmethod
    def owner(self) -> str | None:
        """The token of the trainer that holds this run's blobs; None: nobody, or the store came back empty."""

    @abstractmethod
    def own(self, token: str) -> None:
        """Hold this run's blobs."""

    @abstractmethod
    def check(self, wait_s: float = 10.0) -> str:
        """Try the store with a blob of its own, and say what was found.

        Raises:
            ConfigError: it cannot work as it is set.
            Unavailable: it does not answer within `wait_s`.
        """

    @abstractmethod
    def hurry(self) -> None:
        """The process is leaving: wait no longer than a second for a store that is away."""


class RedisBlobs(Blobs):
    """Blobs in Redis: in the run's own server, or (`outside`) in one of their own."""

    def __init__(
        self, redis: Redis, run_id: str, ttl_s: int = 6 * 3600, *, where: str = "Redis", outside: bool = False
    ) -> None:
        self.redis = redis
        self.run_id = run_id
        self.ttl_s = ttl_s
        self.where = where
        self.outside = outside

    def key(self, stage: str, item_id: str) -> str:
        """The Redis key; the braces keep a run's keys in one cluster slot."""
        return f"rgopd:{{{self.run_id}}}:blob:{stage}:{item_id}"

    def put(self, stage: str, item_id: str, data: bytes) -> bool:
        """See `Blobs`."""
        check_size(stage, item_id, data)
        return bool(self.redis.set(self.key(stage, item_id), data, nx=True, ex=self.ttl_s))

    def get(self, stage: str, item_id: str, *, announced: bool = False) -> bytes | None:
        """See `Blobs`; Redis never lags."""
        data = self.redis.get(self.key(stage, item_id))
        return data if isinstance(data, bytes) else None

    def get_many(self, stage: str, item_ids: Sequence[str], *, announced: bool = False) -> list[bytes | None]:
        """See `Blobs`; one round trip."""
        if not item_ids:
            return []
        found = self.redis.mget([self.key(stage, i) for i in item_ids])
        return [data if isinstance(data, bytes) else None for data in found]

    def present(self, stage: str, item_ids: Sequence[str]) -> list[bool]:
        """See `Blobs`; one round trip."""
        if not item_ids:
            return []
        pipe = self.redis.pipeline(transaction=False)
        for item in item_ids:
            pipe.exists(self.key(stage, item))
        return [bool(found) for found in pipe.execute()]

    def delete(self, stage: str, item_ids: Iterable[str]) -> None:
        """See `Blobs`; without blocking the server on large values."""
        keys = [self.key(stage, i) for i in item_ids]
        if keys:
            self.redis.unlink(*keys)

    def beside(self, redis: Redis, item_id: str) -> RedisBlobs | None:
        """See `Blobs`."""
        return self if redis is self.redis and not self.outside else None

    def purge(self) -> int:
        """See `Blobs`."""
        found = iter(self.redis.scan_iter(match=f"rgopd:{{{self.run_id}}}:*", count=1000))
        deleted = 0
        while keys := list(islice(found, 500)):
            deleted += int(self.redis.unlink(*keys))
        return deleted

    def expire(self) -> int:
        """Redis does it."""
        return 0

    def owner(self) -> str | None:
        """See `Blobs`; the key is that of the claim on the run."""
        token = self.redis.get(f"rgopd:{{{self.run_id}}}:claim")
        return token.decode() if isinstance(token, bytes) else None

    def own(self, token: str) -> None:
        """See `Blobs`."""
        self.redis.set(f"rgopd:{{{self.run_id}}}:claim", token, ex=max(self.ttl_s, 7 * 86_400))

    def check(self, wait_s: float = 10.0) -> str:
        """See `Blobs`; connecting has checked it."""
        self.redis.ping()
        return f"{self.where} answers"

    def hurry(self) -> None:
        """See `Blobs`."""
        hurry(self.redis)


def check_size(stage: str, item_id: str, data: bytes) -> None:
    """Raise `TooLarge` for a blob over the limit."""
    if len(data) > MAX_BLOB_BYTES:
        raise TooLarge(f"{stage} of {item_id}: {len(data)} bytes is over the blob limit of {MAX_BLOB_BYTES}")
