"""The processes of one check as the service sees them: orders go out, pipes are drained, ends are read."""

from __future__ import annotations

import json
import select
import socket
import time
from contextlib import ExitStack
from typing import Any

from rgopd.verifier.sandbox.command import Command, Finished, SandboxError
from rgopd.verifier.sandbox.streams import Stream, memfd
from rgopd.verifier.sandbox.zygote_process import ZygoteProcess

_GRACE_S = 10.0


class Processes:
    """The processes of one check: their pipes, and the loop that waits for them.

    Args:
        zygote: forks them.
    """

    def __init__(self, zygote: ZygoteProcess) -> None:
        self.zygote = zygote
        self.streams: dict[int, Stream] = {}
        self.mine: dict[int, tuple[Stream, Stream, Stream | None]] = {}
        self.ended: dict[int, dict[str, Any]] = {}
        self.order: list[int] = []
        self.deadline = 0.0
        self._closing = ExitStack()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        for stream in self.streams.values():
            stream.close_write()
            stream.close_read()

    def new_stream(self, limit: int, why: str) -> Stream:
        """A pipe that this run drains."""
        stream = Stream(limit, why)
        self.streams[stream.read_fd] = stream
        return stream

    def new_pair(self) -> tuple[socket.socket, socket.socket]:
        """A channel between two processes of this run."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._closing.enter_context(near)
        self._closing.enter_context(far)
        return near, far

    def start(self, command: Command, channel: Stream | int, result: Stream | None = None) -> None:
        """Send the order and the descriptors."""
        number = self.zygote.orders = self.zygote.orders + 1
        out = self.new_stream(command.limits.output_bytes, "output")
        err = self.new_stream(min(command.limits.output_bytes, 1 << 16), "stderr")
        content = command.file[1] if command.mode == "exec" else json.dumps(command.payload).encode()
        order = {
            "spawn": number,
            "mode": command.mode,
            "limits": command.limits,
            "tool": command.tool,
            "argv": command.argv,
            "file": command.file[0],
            "files": command.files,
        }
        if command.files and self.order:
            order["with"] = self.order[0]
        with ExitStack() as closing:
            fds = [memfd(command.stdin, closing), out.write_fd, err.write_fd, memfd(content, closing)]
            if command.mode in ("calls", "check"):
                fds.append(channel.write_fd if isinstance(channel, Stream) else channel)
            if result is not None:
                fds.append(result.write_fd)
            try:
                socket.send_fds(self.zygote.control, [json.dumps(order).encode()], fds)
            except OSError as error:
                raise SandboxError(f"the zygote is gone: {error}") from error
        answers = result or (channel if isinstance(channel, Stream) else None)
        for stream in (out, err, answers):
            if stream is not None:
                stream.close_write()
        self.mine[number] = (out, err, answers)
        self.order.append(number)
        self.deadline = time.monotonic() + command.limits.wall_s * 4 + _GRACE_S

    def finish(self, decisive: int | None = None) -> list[Finished]:
        """Drain until every process has ended. When the one at index `decisive` ends, the others are killed."""
        poll = select.poll()
        poll.register(self.zygote.control, select.POLLIN)
        for fd, stream in self.streams.items():
            if stream.write_fd < 0:
                poll.register(fd, select.POLLIN)
        killed: set[int] = set()
        while len(self.ended) < len(self.order):
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise SandboxError("the zygote did not answer in time")
            for fd, _ in poll.poll(left * 1000):
                if fd == self.zygote.control.fileno():
                    self._receive()
                elif self.streams[fd].drain():
                    self._over(self.streams[fd], killed)
                if fd in self.streams and not self.streams[fd].open:
                    poll.unregister(fd)
            if decisive is not None and self.order[decisive] in self.ended:
                for number in self.order:
                    if number not in self.ended and number not in killed:
                        killed.add(number)
                        self._send({"kill": number, "why": "done"})
        return [self._finished(number) for number in self.order]

    def _over(self, stream: Stream, killed: set[int]) -> None:
        for number, streams in self.mine.items():
            if stream in streams and stream.why != "stderr" and number not in killed:
                killed.add(number)
                self._send({"kill": number, "why": stream.why})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self.zygote.control.send(json.dumps(message).encode())
        except OSError as error:
            raise SandboxError(f"the zygote is gone: {error}") from error

    def _receive(self) -> None:
        try:
            packet = self.zygote.control.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            raise SandboxError(f"the zygote is gone: {error}") from error
        if not packet:
            raise SandboxError("the zygote died")
        message = json.loads(packet)
        self.ended[message["exit"]] = message

    def _finished(self, number: int) -> Finished:
        message = self.ended[number]
        if "setup_failed" in message:
            raise SandboxError(f"confinement failed: {message['setup_failed']}")
        out, err, answers = self.mine[number]
        for stream in (out, err, answers):
            while stream is not None and stream.open and self._more(stream):
                pass
        return Finished(
            code=message["code"],
            signal=message["signal"],
            cpu_s=message["cpu_s"],
            wall_s=message["wall_s"],
            killed=message["killed"],
            stdout=bytes(out.data),
            stderr=bytes(err.data),
            channel=bytes(answers.data) if answers is not None else b"",
            alone=not (out.open or err.open),
        )

    @staticmethod
    def _more(stream: Stream) -> bool:
        """Read once more; False at the end, or when nothing is there (someone still holds the pipe)."""
        try:
            stream.drain()
        except BlockingIOError:
            return False
        return stream.open
