"""Connecting to Redis: one place for retries, time-outs and the error a person reads.

Every command of a client waits out what passes by itself: a server that restarts, loads its file, fails over, cuts
the connection, or has no memory left. So no caller needs a loop of its own around Redis.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MaxConnectionsError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)
from redis.retry import Retry

from rgopd.common.errors import ConfigError, Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

TRANSIENT = (
    ConnectionError,
    TimeoutError,
    socket.timeout,
    BusyLoadingError,
    ReadOnlyError,
    OutOfMemoryError,
    ClusterDownError,
    TryAgainError,
)
"""Errors after which the same call may succeed: the server restarts, loads its file, fails over, or is full."""

_PASSING_CODES = ("MISCONF", "NOREPLICAS")
"""The same, for codes that the client library has no class for: the disk below is full, replicas are missing."""

_HOPELESS = (AuthenticationError, AuthorizationError, MaxConnectionsError)

TELL_EVERY_S = 15.0


def passes_by(error: Exception) -> bool:
    """Whether the same command may succeed later without anybody changing a setting."""
    if isinstance(error, _HOPELESS):
        return False
    return isinstance(error, TRANSIENT) or (isinstance(error, ResponseError) and str(error).startswith(_PASSING_CODES))


class Patience(Retry):
    """Retry with back-off (20 ms to 1 s) for `seconds`, however many attempts that is, and say so in the log.

    All connections of a client share one object, so that `hurry` reaches those that are waiting.
    """

    def __init__(self, seconds: float, where: str) -> None:
        errors = (*TRANSIENT, ResponseError)  # `passes_by` decides about the rest of the ResponseErrors
        super().__init__(ExponentialBackoff(cap=1.0, base=0.02), retries=1 << 30, supported_errors=errors)
        self.seconds = seconds
        self.where = where

    def __deepcopy__(self, memo: dict[int, Any]) -> Patience:
        return self

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def hurry(self, seconds: float = 1.0) -> None:
        """From now on wait no longer than this: the process is leaving."""
        self.seconds = min(self.seconds, seconds)

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """See `redis.retry.Retry`; bounded by time instead of by a count."""
        started = time.monotonic()
        failures = 0
        next_word = TELL_EVERY_S
        while True:
            try:
                return do()
            except self._supported_errors as error:
                if not passes_by(error) or (is_retryable is not None and not is_retryable(error)):
                    raise
                failures += 1
                fail(error, failures) if with_failure_count else fail(error)
                waited = time.monotonic() - started
                if waited >= self.seconds:
                    raise
                if waited >= next_word:
                    log.warning("Redis at %s: %s; waiting for it for %.0f s", self.where, advice(error), waited)
                    next_word = waited + TELL_EVERY_S
                time.sleep(self._backoff.compute(min(failures, 16)))


def advice(error: Exception) -> str:
    """The error with what to do about it, where the server's own words do not say."""
    if isinstance(error, OutOfMemoryError):
        return (
            f"{error} (it is full: raise its maxmemory, for the embedded one up.maxmemory_mb; or make steps smaller "
            "with sampling.prompts_per_step)"
        )
    if isinstance(error, ReadOnlyError):
        return f"{error} (it became a replica: point redis_url at the primary)"
    return str(error)


def connect(url: str, *, wait_s: float = 10.0, patience_s: float = 60.0) -> Redis:
    """A client for a Redis-protocol server, once it answers.

    Args:
        url: redis://, rediss:// (TLS) or unix:// URL, with an ACL user as redis://user:password@host.
        wait_s: how long to wait for the server to come up, in seconds.
        patience_s: how long every later command waits out an error that may pass (`passes_by`), in seconds.

    Raises:
        ConfigError: the URL cannot be read, or the password is refused.
        Unavailable: nothing answered within `wait_s`; a server that says that it loads its file is waited for.
    """
    patience = Patience(0.0, redact(url))
    try:
        client = Redis.from_url(
            url, socket_connect_timeout=5, socket_timeout=30, health_check_interval=15, retry=patience
        )
        soon = max(3.0, min(30.0, wait_s))  # what does not speak the protocol may say nothing at all
        first = Redis.from_url(url, socket_connect_timeout=min(5.0, soon), socket_timeout=soon, retry=patience)
    except ValueError as error:
        raise ConfigError(f"redis_url {redact(url)!r} cannot be read: {error}") from error
    deadline = time.monotonic() + wait_s
    next_word = time.monotonic() + 2.0
    while True:
        try:
            first.ping()
            first.close()
            patience.seconds = patience_s
            return client
        except (AuthenticationError, AuthorizationError) as error:
            raise ConfigError(f"{redact(url)} refused the credentials: {error}") from error
        except RedisError as error:
            if isinstance(error, ResponseError) and not passes_by(error):
                raise ConfigError(f"{redact(url)} cannot be used: {error}") from error
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ConfigError(
                    f"{redact(url)} shows a certificate that is not trusted here ({error}): name its authority with "
                    "?ssl_ca_certs=/path/to/ca.pem after the URL"
                ) from error
            if isinstance(error, BusyLoadingError):  # it reads its file: the bigger, the longer
                deadline = max(deadline, time.monotonic() + wait_s)
            if time.monotonic() >= deadline:
                tls = _about_tls(url, str(error))
                raise Unavailable(
                    f"no Redis answers at {redact(url)} ({error}){tls}; start one there or set redis_url to where it "
                    "runs; teacher and verifier can do without, with redis_url='': HTTP only"
                ) from error
            if time.monotonic() >= next_word:
                log.warning("waiting for Redis at %s: %s", redact(url), error)
                next_word += TELL_EVERY_S
            time.sleep(0.2)


def _about_tls(url: str, said: str) -> str:
    """A server asked with TLS that speaks none, or the other way round: a handshake breaks off."""
    said = said.lower()
    if url.startswith("rediss://") and any(
        w in said for w in ("wrong_version", "record layer", "timed out", "timeout")
    ):
        return ": where it speaks no TLS, write redis://"
    if url.startswith("redis://") and any(w in said for w in ("closed by server", "reset by peer", "protocol error")):
        return ": where it speaks TLS, write rediss://"
    return ""


def hurry(client: Redis) -> None:
    """The process is leaving: no command of this client waits more than a second for Redis any more."""
    retry = client.get_retry()
    if isinstance(retry, Patience):
        retry.hurry()


def redact(url: str) -> str:
    """The URL without its password, for logs and errors; of several with commas between, each."""
    if "," in url:
        return ",".join(map(redact, url.split(",")))
    scheme, separator, rest = url.partition("://")
    if "@" not in rest:
        return url
    return f"{scheme}{separator}***@{rest.rpartition('@')[2]}"
