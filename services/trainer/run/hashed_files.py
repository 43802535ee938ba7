"""Checkpoint files whose sha256 is taken from the bytes on their way to the disk, not read back afterwards.

At 91 GB a checkpoint, reading it again costs as long as writing it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter


class HashedFile(io.BufferedWriter):
    """Written from front to back; `digest` is None where it was not."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self._sha = hashlib.sha256()
        self._in_order = True

    def write(self, data: Any, /) -> int:
        """Bytes, which count into the digest."""
        self._sha.update(data)
        return super().write(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Anywhere but where it stands ends the digest."""
        before = self.tell()
        after = super().seek(offset, whence)
        self._in_order = self._in_order and after == before
        return after

    @property
    def digest(self) -> str | None:
        """sha256 of all that was written, in hex."""
        return self._sha.hexdigest() if self._in_order else None


class HashedFileSystem(FileSystem):
    """Local files; `sums` has the digests of those written, by name."""

    def __init__(self) -> None:
        self.sums: dict[str, str] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        """As the base's; what is opened for writing is hashed."""
        if mode != "wb":
            with super().create_stream(path, mode) as stream:
                yield stream
            return
        with HashedFile(Path(path)) as file:
            yield cast(io.IOBase, file)
        if file.digest is not None:
            self.sums[Path(path).name] = file.digest

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """The digest goes with the file."""
        super().rename(path, new_path)
        if (digest := self.sums.pop(Path(path).name, None)) is not None:
            self.sums[Path(new_path).name] = digest


class HashedWriter(FileSystemWriter):
    """DCP's writer of one file a rank, with the digests of this rank's files in `sums`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fs = self.hashed = HashedFileSystem()

    @property
    def sums(self) -> dict[str, str]:
        """sha256 by file name, complete when the save is."""
        return self.hashed.sums
