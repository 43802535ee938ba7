"""Tensors and results by reference: bytes under (stage, rollout id), with expiry.

The first write wins. A stage may be run twice (a lease was lost, a message was delivered again); whoever
read the first result must never see it change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from redis import Redis

from rgopd.common.errors import TooLarge

MAX_BLOB_BYTES = 256 << 20


class Blobs:
    """Blobs of one run. `ttl_s` bounds what a run that died leaves behind."""

    def __init__(self, redis: Redis, run_id: str, ttl_s: int = 6 * 3600) -> None:
        self.redis = redis
        self.run_id = run_id
        self.ttl_s = ttl_s

    def key(self, stage: str, item_id: str) -> str:
        """The Redis key; the braces keep a run's keys in one cluster slot."""
        return f"rgopd:{{{self.run_id}}}:blob:{stage}:{item_id}"

    def put(self, stage: str, item_id: str, data: bytes) -> bool:
        """Store `data` unless something is there; True when this call stored it.

        Raises:
            TooLarge: over 256 MiB.
        """
        check_size(stage, item_id, data)
        return bool(self.redis.set(self.key(stage, item_id), data, nx=True, ex=self.ttl_s))

    def get(self, stage: str, item_id: str) -> bytes | None:
        """The bytes, or None when never written or expired."""
        data = self.redis.get(self.key(stage, item_id))
        return data if isinstance(data, bytes) else None

    def get_many(self, stage: str, item_ids: Sequence[str]) -> list[bytes | None]:
        """`get` for many ids in one round trip, in their order."""
        if not item_ids:
            return []
        found = self.redis.mget([self.key(stage, i) for i in item_ids])
        return [data if isinstance(data, bytes) else None for data in found]

    def delete(self, stage: str, item_ids: Iterable[str]) -> None:
        """Drop what is no longer needed, without blocking the server on large values."""
        keys = [self.key(stage, i) for i in item_ids]
        if keys:
            self.redis.unlink(*keys)


def check_size(stage: str, item_id: str, data: bytes) -> None:
    """Raise `TooLarge` for a blob over the limit."""
    if len(data) > MAX_BLOB_BYTES:
        raise TooLarge(f"{stage} of {item_id}: {len(data)} bytes is over the blob limit of {MAX_BLOB_BYTES}")
