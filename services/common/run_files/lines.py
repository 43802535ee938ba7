"""Follow a JSON-lines file that grows, and that a resumed run cuts back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rgopd.common import fleeting

_MARK = 64
"""Bytes before the place that was read to: if they differ, it is another file under the same name."""


@dataclass(frozen=True)
class News:
    """What one look found. `anew`: the file was cut back or replaced (a resume), so forget earlier rows; `rows` are
    then all rows from its start."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    anew: bool = False


class Lines:
    """Reads each whole line once. Holds no rows, so a watcher's memory does not grow with the file.

    A last line without its newline (a writer is at it, or died in it) waits for the next look; a line that is no JSON
    object is left out and counted in `bad`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bad = 0
        self._offset = 0
        self._inode = 0
        self._mark = b""

    def read(self, max_bytes: int = 64 << 20) -> News:
        """The rows that are new since the last look, up to `max_bytes` at a time; none where there is no file."""
        file = fleeting.seen(lambda: self.path.open("rb"), None)
        if file is None:
            return self._gone()
        with file:
            anew = self._replaced(file.fileno())
            if anew:
                self._forget()
            self._inode = os.fstat(file.fileno()).st_ino
            file.seek(self._offset)
            data = file.read(max_bytes)
            end = data.rfind(b"\n") + 1
            if not end and len(data) == max_bytes:  # one line is longer than that
                data += file.readline()
                end = len(data) if data.endswith(b"\n") else 0
        self._offset += end
        self._mark = (self._mark + data[:end])[-_MARK:]
        return News(list(self._rows(data[:end])), anew)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All rows that are new since the last look."""
        while (news := self.read()).rows:
            yield from news.rows

    def _gone(self) -> News:
        anew = self._offset > 0
        self._forget()
        return News(anew=anew)

    def _forget(self) -> None:
        self._offset, self._inode, self._mark = 0, 0, b""

    def _replaced(self, descriptor: int) -> bool:
        """A resumed run renames a shorter copy over the file; an inode's number alone may come back."""
        if not self._offset:
            return False
        status = os.fstat(descriptor)
        if status.st_ino != self._inode or status.st_size < self._offset:
            return True
        return os.pread(descriptor, len(self._mark), self._offset - len(self._mark)) != self._mark

    def _rows(self, data: bytes) -> Iterator[dict[str, Any]]:
        for line in data.splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # not JSON, or not UTF-8
                row = None
            if isinstance(row, dict):
                yield row
            elif line.strip():
                self.bad += 1
