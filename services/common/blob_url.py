"""`blob_url`: where a run's blobs lie.

(empty)                                            in the run's own Redis, in one transaction with its streams
redis://host:6379/0                                in a Redis of their own
file:///shared/blobs                               on a file system that every machine of the run sees
s3://bucket/prefix?endpoint=https://host:9000      in an object store that speaks S3
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from redis import Redis

from rgopd.common.blobs import Blobs, RedisBlobs
from rgopd.common.connection import connect, redact
from rgopd.common.errors import ConfigError
from rgopd.common.explain import nearest
from rgopd.common.stores import Store, StoredBlobs

_S3_KEYS = ("endpoint", "region", "addressing")


def open_blobs(url: str, run_id: str, redis: Redis, *, ttl_s: int = 6 * 3600, patience_s: float = 60.0) -> Blobs:
    """A run's blobs at `blob_url`; `redis`: the run's own, for an empty one.

    Raises:
        ConfigError: a URL that cannot be read, or a client that is not installed.
    """
    return open_outside(url, run_id, ttl_s=ttl_s, patience_s=patience_s) if url else RedisBlobs(redis, run_id, ttl_s)


def open_outside(url: str, run_id: str, *, ttl_s: int = 6 * 3600, patience_s: float = 60.0) -> Blobs:
    """The same of a URL that is not empty."""
    if url.startswith(("redis://", "rediss://", "unix://")):
        client = connect(url, patience_s=patience_s)
        return RedisBlobs(client, run_id, ttl_s, where=redact(url), outside=True)
    return StoredBlobs(open_store(url), run_id, ttl_s, patience_s=patience_s)


def open_store(url: str) -> Store:
    """The store of a file:// or s3:// URL; nothing is tried yet.

    Raises:
        ConfigError: another scheme, a folder that is not absolute, no bucket, or secrets in the URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        from rgopd.common.file_store import FileStore

        if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
            raise ConfigError(f"blob_url {url!r}: write a folder as file:///its/absolute/path")
        return FileStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        return _s3(url)
    raise ConfigError(
        f"blob_url {redact(url)!r} cannot be read: leave it empty (the run's Redis), or write redis://host:6379/0, "
        "file:///folder or s3://bucket/prefix?endpoint=https://host"
    )


def _s3(url: str) -> Store:
    from rgopd.common.object_store import ObjectStore

    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError(
            f"blob_url {redact(url)!r}: secrets do not belong in the URL; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in the environment of every service"
        )
    if not parts.netloc:
        raise ConfigError(f"blob_url {url!r} names no bucket: write s3://bucket/prefix")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for key in given:
        if key not in _S3_KEYS:
            raise ConfigError(f"blob_url {url!r}: no parameter {key!r}{nearest(key, _S3_KEYS)}")
    endpoint, addressing = given.get("endpoint", ""), given.get("addressing", "path")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"blob_url {url!r}: write the endpoint with its scheme, e.g. endpoint=https://host:9000")
    if addressing not in ("path", "virtual"):
        raise ConfigError(f"blob_url {url!r}: addressing is path or virtual")
    return ObjectStore(
        parts.netloc,
        parts.path.strip("/"),
        endpoint=endpoint,
        region=given.get("region", ""),
        virtual_host=addressing == "virtual",
    )
