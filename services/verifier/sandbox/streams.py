"""What passes between the service and the processes of a check: pipes that are drained, files in memory."""

from __future__ import annotations

import os
from contextlib import ExitStack


class Stream:
    """A pipe being drained, with a cap."""

    def __init__(self, limit: int, why: str) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.write_fd, True)
        self.limit = limit
        self.why = why
        self.data = bytearray()
        self.open = True

    def close_write(self) -> None:
        """The child has its own copy."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def drain(self) -> bool:
        """Read what is there; True when over the limit. Past the limit bytes are read and dropped.

        Raises:
            BlockingIOError: nothing is there now.
        """
        part = os.read(self.read_fd, 1 << 17)
        if not part:
            self.close_read()
            return False
        room = self.limit - len(self.data)
        self.data += part[: max(0, room)]
        return len(part) > room

    def close_read(self) -> None:
        """Done with it."""
        if self.open:
            os.close(self.read_fd)
            self.open = False


def memfd(content: bytes, closing: ExitStack) -> int:
    """A seekable, private file in memory; a child reads it at its own pace and nobody has to feed it."""
    fd = os.memfd_create("data", os.MFD_CLOEXEC)
    closing.callback(os.close, fd)
    os.fchmod(fd, 0o444)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
