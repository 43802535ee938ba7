"""The error tree. HTTP statuses follow RFC 9110, bodies RFC 9457; stream workers read `retryable`."""

from __future__ import annotations

import errno


class RgopdError(Exception):
    """Base of every error that rgopd raises on purpose.

    `status` is what the HTTP doors answer; `retryable` tells a stream worker whether another attempt
    can help; `kind` is the stable, machine-readable name used in problem documents, metrics and dead letters.
    """

    status = 500
    retryable = True
    kind = "internal"


class InvalidInput(RgopdError, ValueError):
    """The request is well formed but cannot be served as it stands; the text says what to change."""

    status = 422
    retryable = False
    kind = "invalid_input"


class RolloutGone(InvalidInput):
    """A job names a rollout that the blob store no longer holds. Only the trainer can have it made again."""

    kind = "rollout_gone"


class Malformed(InvalidInput):
    """Bytes that are not the promised format (truncated protobuf, broken JSON)."""

    status = 400
    kind = "malformed"


class Unauthorized(RgopdError):
    """No bearer token, or not the configured one."""

    status = 401
    retryable = False
    kind = "unauthorized"


class TooLarge(RgopdError):
    """Over a size limit; nothing was allocated for it."""

    status = 413
    retryable = False
    kind = "too_large"


class UnsupportedMediaType(RgopdError):
    """A Content-Type that no door speaks."""

    status = 415
    retryable = False
    kind = "unsupported_media_type"


class Overloaded(RgopdError):
    """The queue is full; try again after `retry_after` seconds."""

    status = 429
    kind = "overloaded"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(RgopdError):
    """Starting, draining, or a dependency is gone."""

    status = 503
    kind = "unavailable"


class ConfigError(RgopdError, ValueError):
    """A setting that cannot work; the text names the key and what would work."""

    retryable = False
    kind = "config"


class StoreDown(Unavailable):
    """The blob store did not answer for as long as one waits for it."""

    kind = "store_down"


_ADVICE = {
    errno.EACCES: "give this user the right to it, or name another place",
    errno.EPERM: "give this user the right to it, or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.ENOSPC: "free some space there, or name another place",
    errno.EDQUOT: "free some of your quota, or name another place",
    errno.ENOTDIR: "a file stands where a folder is needed: name another place",
    errno.EEXIST: "a file stands where a folder is needed: name another place",
    errno.EISDIR: "a folder stands where a file is needed: name the file",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


def told(error: OSError) -> str:
    """What the system refused, where, and what to do about it: one line."""
    where = f"{error.filename}: " if error.filename else ""
    advice = _ADVICE.get(error.errno or 0)
    return f"{where}{error.strerror or error}" + (f"; {advice}" if advice else "")
