"""Blobs on a file system that all machines of a run see: NFS, Lustre, BeeGFS, one machine's memory.

A file is written beside its place and linked into it: a link fails where the name is taken, so the first write wins,
and no reader ever meets half a file. Nothing is synced to the disk: what a machine that loses power tears is found by
its checksum and made again.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from rgopd.common.errors import ConfigError
from rgopd.common.stores import Entry, StoreTrouble

T = TypeVar("T")

LAG_S = 5.0
"""NFS clients look again for a name that was not there after three seconds by default (acregmin)."""

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
_HOPELESS = (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, *_NO_LINKS)


class FileStore:
    """A `Store` in a folder. New folders below it take its mode, so that services of several users can share one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = f"file://{root}"
        self.lag_s = LAG_S

    def create(self, name: str, data: bytes) -> bool:
        """See `Store`."""
        return _said(lambda: self._place(name, data, os.link))

    def replace(self, name: str, data: bytes) -> None:
        """See `Store`."""
        _said(lambda: self._place(name, data, os.replace))

    def _place(self, name: str, data: bytes, into: Callable[[Path, Path], None]) -> bool:
        target = self.root / name
        aside = target.with_name(f".{uuid.uuid4().hex}.part")  # in the same folder: some file systems link only there
        for _ in range(5):
            try:
                self._make_folder(target.parent)
                aside.write_bytes(data)
                into(aside, target)
                return True
            except FileExistsError:
                return False
            except FileNotFoundError:  # the folder was swept away meanwhile
                continue
            finally:
                aside.unlink(missing_ok=True)
        raise StoreTrouble(f"the folder {target.parent} does not stay")

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._must_stand()  # it is not made here: a mount that is missing must not become a local folder
        mode = self.root.stat().st_mode & 0o7777
        for part in [*reversed(folder.parents), folder]:
            if self.root not in part.parents:
                continue
            try:
                part.mkdir()
                part.chmod(mode)
            except FileExistsError:
                pass

    def read(self, name: str) -> bytes | None:
        """See `Store`."""
        try:
            return _said(lambda: (self.root / name).read_bytes())
        except FileNotFoundError:
            self._must_stand()
            return None

    def exists(self, name: str) -> bool:
        """See `Store`."""
        try:
            _said(lambda: os.stat(self.root / name))
        except FileNotFoundError:
            self._must_stand()
            return False
        return True

    def entries(self, prefix: str, *, aged: bool = False) -> Iterator[Entry]:
        """See `Store`; unfinished files too, which nobody else asks for."""
        self._must_stand()
        now = self._now() if aged else 0.0
        for folder, _, files in os.walk(self.root / prefix):
            for file in files:
                path = os.path.join(folder, file)
                try:
                    age_s = now - os.stat(path).st_mtime if aged else 0.0
                except OSError:  # deleted meanwhile
                    continue
                yield Entry(os.path.relpath(path, self.root), age_s)

    def _now(self) -> float:
        """The clock that writes the files' times, which may be a server's."""
        probe = self.root / f".{uuid.uuid4().hex}.part"

        def touch() -> float:
            probe.touch()
            try:
                return probe.stat().st_mtime
            finally:
                probe.unlink(missing_ok=True)

        try:
            return _said(touch)
        except FileNotFoundError as error:
            raise StoreTrouble(f"{self.root} is gone; is the file system mounted?") from error

    def delete(self, names: Sequence[str]) -> None:
        """See `Store`."""
        for name in names:
            _said(partial((self.root / name).unlink, missing_ok=True))

    def prune(self, prefix: str) -> None:
        """See `Store`; who fills a folder at this moment makes it again."""
        for folder, _, _ in os.walk(self.root / prefix, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:  # not empty, or gone
                pass

    def verify(self) -> None:
        """See `Store`."""
        if not self.root.is_dir():
            raise ConfigError(
                f"blob_url {self.where}: there is no such folder here; make it on the shared file system, and mount it "
                "on every machine of the run"
            )

    def _must_stand(self) -> None:
        """A file that is not there is no answer where its file system is not there either."""
        if not self.root.is_dir():
            raise StoreTrouble(f"{self.root} is gone; is the file system mounted?")


def _said(call: Callable[[], T]) -> T:
    """The call, its error as a `StoreTrouble`; but for FileNotFoundError, which each caller reads its own way."""
    try:
        return call()
    except FileNotFoundError:
        raise
    except OSError as error:
        text = f"{error.strerror} ({error.filename})" if error.filename else str(error)
        if error.errno in _NO_LINKS:
            text += "; the file system must have hard links"
        raise StoreTrouble(text, hopeless=error.errno in _HOPELESS) from error
