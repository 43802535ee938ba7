"""Reading a request's body: streamed, timed, and limited before memory is taken for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import zstandard
from fastapi import Request

from rgopd.common.errors import Malformed, Overloaded, RgopdError, TooLarge, UnsupportedMediaType

_COMPRESS_FROM = 1 << 12

SLOW_BYTES_PER_S = 1 << 17
"""A body of many megabytes may come this slowly; one that trickles may not."""


class SlowBody(RgopdError):
    """The body did not arrive in time."""

    status = 408
    kind = "slow_body"


class BodyGate:
    """Reads bodies within three bounds: bytes of one body, bytes of all bodies held at once, and time.

    Belongs to one event loop, so that its counter needs no lock.
    """

    def __init__(self, max_bytes: int, max_held: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._max_held = max_held
        self._timeout_s = timeout_s
        self.held = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body, decompressed; its bytes count as held until the block ends.

        Raises:
            SlowBody: it took longer than `timeout_s` seconds and its bytes at `SLOW_BYTES_PER_S`.
            TooLarge: over `max_bytes`, as sent or decompressed.
            Overloaded: the bodies held would pass `max_held`.
            UnsupportedMediaType: a Content-Encoding other than zstd.
        """
        taken = [0]
        try:
            encoding = request.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in ("identity", "zstd"):
                raise UnsupportedMediaType(f"Content-Encoding {encoding!r}: send zstd, or leave it out")
            raw = await self._read(request, taken)
            yield raw if encoding == "identity" else self._decompress(raw, taken)
        finally:
            self.held -= taken[0]

    async def _read(self, request: Request, taken: list[int]) -> bytes:
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                started = asyncio.get_running_loop().time()
                async for chunk in request.stream():
                    self._take(len(chunk), taken)
                    chunks.append(chunk)
                    limit.reschedule(started + self._timeout_s + taken[0] / SLOW_BYTES_PER_S)
        except TimeoutError:
            raise SlowBody(f"the body took longer than {self._timeout_s:g} s; send it in smaller calls") from None
        return b"".join(chunks)

    def _decompress(self, raw: bytes, taken: list[int]) -> bytes:
        """In steps, so that a bomb is found after `max_bytes`, whatever size its header claims."""
        out: list[bytes] = []
        total, step = 0, 1 << 18
        try:
            with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw) as reader:
                while chunk := reader.read(step):
                    total += len(chunk)
                    if total > self._max_bytes:
                        raise TooLarge(f"the body is over {self._max_bytes} bytes decompressed; send fewer items")
                    self._take(len(chunk), taken)
                    out.append(chunk)
        except zstandard.ZstdError as error:
            raise Malformed(f"the body is not zstd: {error}") from error
        return b"".join(out)

    def _take(self, count: int, taken: list[int]) -> None:
        if self.held + count > self._max_held:
            raise Overloaded("too many request bodies are being read; retry later")
        self.held += count
        taken[0] += count


def compress(payload: bytes, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
    """(payload, headers): zstd level 1 where the client takes it and it can pay."""
    offered = {part.partition(";")[0].strip().lower() for part in accept_encoding.split(",")}
    if "zstd" not in offered or len(payload) < _COMPRESS_FROM:
        return payload, {}
    packed = zstandard.ZstdCompressor(level=1).compress(payload)
    return packed, {"Content-Encoding": "zstd", "Vary": "Accept-Encoding"}
