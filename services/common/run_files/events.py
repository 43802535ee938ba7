"""events.jsonl: what happened to a run by the clock: starts, resumes, deaths, restarts, warnings, evaluations."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rgopd.common import fleeting

EVENTS = "events.jsonl"
MAX_BYTES = 16 << 20
"""Over this the older half is dropped when the file is next opened: a run in a restart loop must not fill a disk."""


class Events(Protocol):
    """Takes what happens."""

    def add(self, kind: str, text: str, **more: Any) -> None:
        """`text` is for people; `more` are the event's own fields, `step` among them."""


class EventLog:
    """Appends to events.jsonl. Several processes of a machine may (trainer and `rgopd up`): a line is one write."""

    def __init__(self, folder: Path, source: str, also: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        """`source`: who tells; `also`: hears every row too (Redis)."""
        self.path = folder / EVENTS
        self.source = source
        self.also = also
        folder.mkdir(parents=True, exist_ok=True)
        self._shorten()

    def add(self, kind: str, text: str, **more: Any) -> None:
        """See `Events`. The file is opened for each line, so it may be moved or cut meanwhile."""
        row = {"time": round(time.time(), 3), "source": self.source, "kind": kind, "text": text, **more}
        line = (json.dumps(row) + "\n").encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
        if self.also is not None:
            self.also(row)

    def _shorten(self) -> None:
        """A last line torn by a death gets its newline; an oversized file loses its older half."""
        data = fleeting.seen(self.path.read_bytes, b"")
        if data and not data.endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")
        if len(data) > MAX_BYTES:
            newer = data[len(data) // 2 :]
            partial = self.path.with_suffix(f".{uuid.uuid4().hex}.partial")  # another process may shorten it too
            partial.write_bytes(newer[newer.find(b"\n") + 1 :])
            os.replace(partial, self.path)
