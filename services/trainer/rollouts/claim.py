"""Whose run this is: a lock in the run folder, and a token in Redis (and in a blob store of its own) that is the
folder's own.

The token answers three questions: may what lies in Redis under this run id be used (same folder, same settings that
decide the numbers), has Redis come back empty (no token), and has somebody else taken the run over (another token).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import socket
import time
import uuid
from pathlib import Path
from typing import IO, Any

from rgopd.common.errors import ConfigError, RgopdError
from rgopd.common.streams import ENVIRONMENT, GENERATE, Streams

log = logging.getLogger(__name__)

LOCK_WAIT_S = 60.0
"""A rank 0 that torchrun replaces may take a moment to die."""

DECIDES_NOTHING = {
    "redis_url",
    "blob_url",
    "log_level",
    "output_dir",
    "checkpoint",
    "fault",
    "threads",
    "nproc",
    "keep_policies",
    "monitor",
    "watch",
}
"""Settings that may change between two lives of a run without making its finished rollouts another run's."""


class TakenOver(RgopdError):
    """Another trainer claimed this run id; this one must not go on."""

    kind = "taken_over"
    retryable = False


class Claim:
    """One trainer's hold on a run.

    Args:
        folder: the run folder; who has it may continue the run, on whatever machine.
        streams: the run's streams.
        settings: the run's configuration as plain data.
    """

    def __init__(self, folder: Path, streams: Streams, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.streams = streams
        decisive = {k: v for k, v in settings.items() if k not in DECIDES_NOTHING}
        self.fingerprint = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
        self.token = ""
        self._lock: IO[str] | None = None

    def take(self) -> None:
        """Lock the folder, then keep or drop what Redis holds of this run.

        Raises:
            ConfigError: another trainer is at work in this folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock_folder()
        self.token = f"{self._instance()}:{self.fingerprint}"
        found = self.streams.claims()
        if any(token != self.token for token in found):
            dropped = self.streams.purge()
            if any(token is not None for token in found):
                log.warning(
                    "Redis held run %r of another folder or other settings: dropped its %d keys",
                    self.streams.run_id,
                    dropped,
                )
        # Requests of an earlier life may ask for policy versions that this one has yet to make again, and would block
        # the samplers; what is missing is asked for again. Finished rollouts, verdicts and scores stay.
        for stream in (GENERATE, ENVIRONMENT):
            self.streams.reset(stream)
        self._mark()

    def marks(self) -> dict[str, str]:
        """What all machines must see: `instance` in the folder's run.json, `token` in a blob store outside of Redis."""
        return {"instance": self._instance(), "token": self.token}

    def holds(self) -> bool:
        """False when Redis has lost the token, and with it whatever else was there; it is put back.

        Raises:
            TakenOver: another trainer has claimed the run.
        """
        found = self.streams.claims()
        if all(token == self.token for token in found):
            return True
        if any(token not in (None, self.token) for token in found):
            raise TakenOver(
                f"another trainer has taken over run {self.streams.run_id!r}; this one stops. Give every run a run_id "
                "of its own"
            )
        self._mark()
        return False

    def release(self) -> None:
        """Let the next trainer in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _mark(self) -> None:
        self.streams.claim(self.token)

    def _instance(self) -> str:
        """A name that goes wherever the folder goes."""
        path = self.folder / "run.json"
        if path.exists():
            return str(json.loads(path.read_text())["instance"])
        instance = uuid.uuid4().hex
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"instance": instance, "run_id": self.streams.run_id}))
        os.replace(partial, path)
        return instance

    def _lock_folder(self) -> None:
        path = self.folder / "trainer.lock"
        lock = path.open("a+")
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    holder = path.read_text().strip() or "unknown"
                    lock.close()
                    raise ConfigError(
                        f"another trainer ({holder}) is at work in {self.folder}; stop it, or set output_dir to "
                        "another folder"
                    ) from error
                time.sleep(0.2)
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        self._lock = lock
