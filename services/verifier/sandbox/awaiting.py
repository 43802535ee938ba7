"""Coroutines of this process that the other one awaits. They run here, by slices, all in one loop, so that those of
one program can wait for each other while the test's own loop keeps its clock."""

from __future__ import annotations

from typing import Any

_SLICE_S = 0.02


class Awaiting:
    """The event loop for them, made when the first one comes."""

    def __init__(self) -> None:
        self._loop: Any = None
        self._stalled: Any = None

    async def pause(self) -> None:
        """What is awaited here waits for the tests: let them go on before this slice is over."""
        import asyncio

        if self._stalled is not None and not self._stalled.done():
            self._stalled.set_result(None)
        await asyncio.sleep(0)

    def start(self, awaitable: Any) -> Any:
        """Make a task of it; it runs while `run` does."""
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()

        async def waiting() -> Any:
            return await awaitable

        return self._loop.create_task(awaitable if asyncio.iscoroutine(awaitable) else waiting())

    def run(self, task: Any) -> tuple[bool, Any]:
        """Let everything run for a while, or until the task is done: (done, result). Raises what the task raised."""
        import asyncio

        if not task.done():
            self._stalled = self._loop.create_future()
            waiting = asyncio.wait({task, self._stalled}, timeout=_SLICE_S, return_when=asyncio.FIRST_COMPLETED)
            self._loop.run_until_complete(waiting)
        return (True, task.result()) if task.done() else (False, None)

    def cancel(self, task: Any) -> None:
        """End it."""
        task.cancel()
        self.run(task)
