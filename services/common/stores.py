"""Blob stores outside of Redis: a shared file system (`file:///path`) or an S3-compatible object store (`s3://…`).

What Redis gives for nothing is done here: a checksum with every blob (a damaged one is as good as none, and is made
again), waiting for a store that is away, expiry, and a mark that says whose a run's blobs are.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import quote

from rgopd.common.blobs import Blobs, check_size
from rgopd.common.connection import TELL_EVERY_S
from rgopd.common.errors import ConfigError, StoreDown, Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

ROOT = "rgopd"
_OWNER = "owner"
_OWNER_TTL_S = 7 * 86_400
_HEAD = struct.Struct("<4sQ16s")
_MAGIC = b"RGB1"
_THREADS = 16
_ONE_BY_ONE = 16
"""More names than this are looked up by listing their folder."""


@dataclass(frozen=True)
class Entry:
    """One object of a store. `age_s` is by the store's own clock: those of the machines may differ."""

    name: str
    age_s: float


class Store(Protocol):
    """Named bytes, each written whole or not at all. Methods raise what `StoreTrouble` means by the store's errors.

    Attributes:
        where: the store in words, without secrets.
        lag_s: how long a reader may not see what was written before, in seconds.
    """

    where: str
    lag_s: float

    def create(self, name: str, data: bytes) -> bool:
        """Write, unless the name is taken; True when this call wrote it."""

    def replace(self, name: str, data: bytes) -> None:
        """Write, whatever is there."""

    def read(self, name: str) -> bytes | None:
        """The bytes, or None."""

    def exists(self, name: str) -> bool:
        """Whether the name is taken."""

    def entries(self, prefix: str, *, aged: bool = False) -> Iterator[Entry]:
        """Everything below a prefix that ends between two slashes; ages only where asked for (they may cost)."""

    def delete(self, names: Sequence[str]) -> None:
        """Remove those that are there."""

    def prune(self, prefix: str) -> None:
        """Remove what is left where everything was deleted: empty folders."""

    def verify(self) -> None:
        """Raise ConfigError where the store is not what it must be."""


class StoreTrouble(Exception):
    """A store's error, in one line. `hopeless`: no waiting helps where it is met at start-up."""

    def __init__(self, text: str, *, hopeless: bool = False) -> None:
        super().__init__(text)
        self.hopeless = hopeless


class StoredBlobs(Blobs):
    """Blobs of one run in a `Store`. Safe to share between threads.

    Args:
        store: where they lie.
        run_id: the run.
        ttl_s: older ones may be deleted by anybody's `expire`.
        patience_s: how long every call waits out a store that is away, in seconds.
    """

    def __init__(self, store: Store, run_id: str, ttl_s: int = 6 * 3600, *, patience_s: float = 60.0) -> None:
        self.store = store
        self.run_id = run_id
        self.ttl_s = ttl_s
        self.patience_s = patience_s
        self.where = store.where
        self.outside = True
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")
        self._next_expiry = 0.0

    def name(self, stage: str, item_id: str) -> str:
        """The object's name."""
        return f"{ROOT}/{self.run_id}/{stage}/{quote(item_id, safe='')}"

    def put(self, stage: str, item_id: str, data: bytes) -> bool:
        """See `Blobs`."""
        check_size(stage, item_id, data)
        name, framed = self.name(stage, item_id), frame(data)
        return self._patiently(lambda: self.store.create(name, framed))

    def get(self, stage: str, item_id: str, *, announced: bool = False) -> bytes | None:
        """See `Blobs`."""
        name = self.name(stage, item_id)
        deadline = time.monotonic() + self.store.lag_s
        while True:
            found = self._patiently(lambda: self.store.read(name))
            data = None if found is None else unframe(found)
            if data is not None or (found is None and not announced):
                return data
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        if found is not None:  # the name must be free for a whole one: the first write wins
            log.warning("blob %s in %s is damaged (%d bytes): deleted, it is made again", name, self.where, len(found))
            self._patiently(lambda: self.store.delete([name]))
        return None

    def get_many(self, stage: str, item_ids: Sequence[str], *, announced: bool = False) -> list[bytes | None]:
        """See `Blobs`; sixteen at a time."""
        if len(item_ids) < 2:
            return [self.get(stage, item, announced=announced) for item in item_ids]
        return list(self._pool.map(lambda item: self.get(stage, item, announced=announced), item_ids))

    def present(self, stage: str, item_ids: Sequence[str]) -> list[bool]:
        """See `Blobs`; many are looked up in one listing."""
        names = [self.name(stage, item) for item in item_ids]
        if len(names) <= _ONE_BY_ONE:
            return [self._patiently(lambda n=name: self.store.exists(n)) for name in names]  # type: ignore[misc]
        prefix = f"{ROOT}/{self.run_id}/{stage}"
        there = self._patiently(lambda: {entry.name for entry in self.store.entries(prefix)})
        return [name in there for name in names]

    def delete(self, stage: str, item_ids: Iterable[str]) -> None:
        """See `Blobs`."""
        self._delete([self.name(stage, item) for item in item_ids])

    def purge(self) -> int:
        """See `Blobs`."""
        names = self._patiently(lambda: [e.name for e in self.store.entries(f"{ROOT}/{self.run_id}")])
        self._delete(names)
        self._patiently(lambda: self.store.prune(f"{ROOT}/{self.run_id}"))
        return len(names)

    def expire(self) -> int:
        """See `Blobs`; does nothing within a twelfth of `ttl_s` after it did."""
        if time.monotonic() < self._next_expiry:
            return 0
        self._next_expiry = time.monotonic() + self.ttl_s / 12
        names = self._patiently(lambda: [e.name for e in self.store.entries(ROOT, aged=True) if self._expired(e)])
        self._delete(names)
        if names:
            log.info("deleted %d expired blobs from %s", len(names), self.where)
        return len(names)

    def _expired(self, entry: Entry) -> bool:
        return entry.age_s > (_OWNER_TTL_S if entry.name.endswith(f"/{_OWNER}") else self.ttl_s)

    def owner(self) -> str | None:
        """See `Blobs`."""
        found = self._patiently(lambda: self.store.read(self._mark))
        data = None if found is None else unframe(found)
        return None if data is None else data.decode()

    def own(self, token: str) -> None:
        """See `Blobs`."""
        self._patiently(lambda: self.store.replace(self._mark, frame(token.encode())))

    @property
    def _mark(self) -> str:
        return f"{ROOT}/{self.run_id}/{_OWNER}"

    def check(self, wait_s: float = 10.0) -> str:
        """See `Blobs`: writes, reads, lists and deletes a blob, and tries to write it twice."""
        name = f"{ROOT}/.probe/{uuid.uuid4().hex}"
        started = time.monotonic()
        self.store.verify()
        while True:
            try:
                self._probe(name)
                return f"{self.where}: write, read, list and delete in {1e3 * (time.monotonic() - started):.0f} ms"
            except StoreTrouble as trouble:
                if trouble.hopeless:
                    raise ConfigError(f"blob_url {self.where}: {trouble}") from trouble
                if time.monotonic() - started >= wait_s:
                    raise Unavailable(
                        f"no blob store answers at {self.where}; start it, or correct blob_url (empty: blobs lie in "
                        f"the run's Redis): {str(trouble)[:200]}"
                    ) from trouble
                time.sleep(0.2)

    def _probe(self, name: str) -> None:
        self.store.create(name, frame(b"probe"))
        if self.store.create(name, frame(b"other")) or unframe(self.store.read(name) or b"") != b"probe":
            self.store.delete([name])
            raise StoreTrouble(
                "it overwrites what it was asked to create; conditional writes are needed", hopeless=True
            )
        listed = [entry.name for entry in self.store.entries(f"{ROOT}/.probe", aged=True)]
        self.store.delete([name])
        if name not in listed or self.store.exists(name):
            raise StoreTrouble("what was written is not listed, or what was deleted is still there")

    def hurry(self) -> None:
        """See `Blobs`."""
        self.patience_s = min(self.patience_s, 1.0)

    def _delete(self, names: Sequence[str]) -> None:
        size = max(1, min(1000, -(-len(names) // _THREADS)))
        chunks = [names[start : start + size] for start in range(0, len(names), size)]
        list(self._pool.map(lambda chunk: self._patiently(lambda: self.store.delete(chunk)), chunks))

    def _patiently(self, call: Callable[[], T]) -> T:
        started = time.monotonic()
        pause_s, next_word = 0.02, TELL_EVERY_S
        while True:
            try:
                return call()
            except StoreTrouble as trouble:
                waited = time.monotonic() - started
                if waited >= self.patience_s:
                    raise StoreDown(f"the blob store at {self.where} is away: {trouble}") from trouble
                if waited >= next_word:
                    log.warning("blob store at %s: %s; waiting for it for %.0f s", self.where, trouble, waited)
                    next_word = waited + TELL_EVERY_S
                time.sleep(pause_s)
                pause_s = min(1.0, pause_s * 2)


def frame(data: bytes) -> bytes:
    """The bytes with their length and digest before them."""
    return _HEAD.pack(_MAGIC, len(data), _digest(data)) + data


def unframe(framed: bytes) -> bytes | None:
    """The bytes of a frame; None where it is cut, or not what was written."""
    if len(framed) < _HEAD.size:
        return None
    magic, length, digest = _HEAD.unpack_from(framed)
    data = framed[_HEAD.size :]
    return data if magic == _MAGIC and len(data) == length and _digest(data) == digest else None


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
