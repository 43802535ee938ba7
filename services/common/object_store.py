"""Blobs in an S3-compatible object store, through `obstore` (the object_store crate).

A put of S3 is whole or not at all, and readers see it at once; `If-None-Match: *` makes the first write win.
Credentials come from the environment (AWS_ACCESS_KEY_ID and so on), a web identity, or the machine's own role; never
from the URL, which is written to run folders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from rgopd.common.errors import ConfigError
from rgopd.common.stores import Entry, StoreTrouble

if TYPE_CHECKING:
    from obstore.store import S3Store

T = TypeVar("T")

_NO_BUCKET = "NoSuchBucket"
_REFUSED = (
    "403 Forbidden",
    "401 Unauthorized",
    "/latest/api/token",
    "/latest/meta-data",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
)


class ObjectStore:
    """A `Store` in a bucket.

    Args:
        bucket, prefix: where.
        endpoint: URL of an S3-compatible server; empty: AWS, or AWS_ENDPOINT_URL.
        region: empty: AWS_REGION, else us-east-1.
        virtual_host: the bucket is part of the host's name instead of the path.
    """

    lag_s = 0.0

    def __init__(
        self, bucket: str, prefix: str = "", *, endpoint: str = "", region: str = "", virtual_host: bool = False
    ) -> None:
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise ConfigError("blob_url s3://… needs a client: pip install 'rgopd[s3]'") from error
        settings: dict[str, Any] = {"virtual_hosted_style_request": virtual_host}
        if endpoint:
            settings["endpoint"] = endpoint
        if region:
            settings["region"] = region
        self.where = f"s3://{bucket}/{prefix}" + (f" at {endpoint}" if endpoint else "")
        self._store: S3Store = S3Store(
            bucket,
            prefix=prefix or None,
            client_options={
                "allow_http": True,
                "timeout": timedelta(seconds=60),
                "connect_timeout": timedelta(seconds=5),
            },
            # Short: whoever calls waits with a word in the log.
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=10)},
            **settings,
        )

    def create(self, name: str, data: bytes) -> bool:
        """See `Store`."""
        from obstore.exceptions import AlreadyExistsError

        try:
            self._said(lambda: self._store.put(name, data, mode="create", use_multipart=False))
        except AlreadyExistsError:
            return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        """See `Store`."""
        self._said(lambda: self._store.put(name, data, use_multipart=False))

    def read(self, name: str) -> bytes | None:
        """See `Store`."""
        try:
            return self._said(lambda: bytes(self._store.get(name).bytes()))
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """See `Store`."""
        try:
            self._said(lambda: self._store.head(name))
        except FileNotFoundError:
            return False
        return True

    def entries(self, prefix: str, *, aged: bool = False) -> Iterator[Entry]:
        """See `Store`; a thousand a request."""
        now = self._now() if aged else None
        for page in self._said(lambda: list(self._store.list(prefix, chunk_size=1000))):
            for found in page:
                age_s = (now - found["last_modified"]).total_seconds() if now is not None else 0.0
                yield Entry(found["path"], age_s)

    def _now(self) -> Any:
        """The store's clock."""
        name = f"rgopd/.probe/{uuid4().hex}"
        self.replace(name, b"")
        try:
            return self._said(lambda: self._store.head(name))["last_modified"]
        finally:
            self.delete([name])

    def delete(self, names: Sequence[str]) -> None:
        """See `Store`; a thousand a request."""
        if names:
            with contextlib.suppress(FileNotFoundError):
                self._said(lambda: self._store.delete(list(names)))

    def prune(self, prefix: str) -> None:
        """See `Store`; there are no folders."""

    def verify(self) -> None:
        """See `Store`; the probe that follows shows all there is to see."""

    def _said(self, call: Callable[[], T]) -> T:
        """The call, its error as a `StoreTrouble` of one line; a missing or taken name as it is."""
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            return call()
        except AlreadyExistsError:
            raise
        except (BaseError, OSError) as error:
            text = str(error)
            if _NO_BUCKET in text:
                raise StoreTrouble("there is no such bucket; make it, or correct the name", hopeless=True) from error
            if isinstance(error, FileNotFoundError):
                raise
            line = text.partition("\n")[0].strip()
            if any(word in text for word in _REFUSED):
                raise StoreTrouble(
                    "it refuses these credentials, or there are none: set AWS_ACCESS_KEY_ID and "
                    f"AWS_SECRET_ACCESS_KEY, or give the machine a role ({line[:200]})",
                    hopeless=True,
                ) from error
            raise StoreTrouble(line[:300]) from error
