"""Threads of the tests that wait for each other inside the program.

The conversation has one request under way at any time. A call of the tests is carried out in a thread of the
program's own, one for each thread of theirs; while it waits for something it is answered "later", and the tests' other
threads may ask. Who waits asks again from time to time, and only meanwhile may its call speak to the tests.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock, get_ident, stack_size, start_new_thread
from collections.abc import Callable
from typing import Any

from rgopd.verifier.sandbox.peer import LATER, Peer

_STACK = 2 << 20
_FIRST_S, _AGAIN_S = 0.01, 0.003
_sleep = time.sleep  # tests put others in its place


class Worker:
    """A thread that carries out what it is given, one thing after the other."""

    def __init__(self) -> None:
        self.ident = 0
        self._work: Callable[[], Any] | None = None
        self._given, self._done = allocate_lock(), allocate_lock()
        self._given.acquire()
        self._done.acquire()
        self._outcome: tuple[Any, BaseException | None] = (None, None)

    def loop(self) -> None:
        """Work until told to stop."""
        self.ident = get_ident()
        while True:
            self._given.acquire()
            work, self._work = self._work, None
            if work is None:
                return
            try:
                self._outcome = work(), None
            except BaseException as error:  # noqa: BLE001 - foreign code raises anything
                self._outcome = None, error
            del work
            self._done.release()

    def give(self, work: Callable[[], Any] | None) -> None:
        """What to do next; None: stop."""
        self._work = work
        self._given.release()

    def is_done(self, timeout: float) -> bool:
        """Wait for it. True once."""
        return self._done.acquire(timeout=timeout)

    def outcome(self) -> Any:
        """What came of it. Raises what it raised."""
        (value, error), self._outcome = self._outcome, (None, None)
        if error is not None:
            raise error
        return value


class ThreadedPeer(Peer):
    """The program's side, for tests that start threads. The caller's thread stands for the tests' main thread."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._workers = {0: Worker()}
        self._dispatcher = 0
        self._turn = allocate_lock()  # held by whoever may use the channel
        self._turn.acquire()
        self._waited_for: Worker | None = None
        self._speaker = 0

    def run(self) -> None:
        """Answer the tests until they end."""
        start_new_thread(self._dispatch, ())
        self._workers[0].loop()

    def _dispatch(self) -> None:
        self._dispatcher = get_ident()
        try:
            while True:
                self.serve(self.receive())
        finally:
            os._exit(1)

    def _perform(self, request: dict[str, Any]) -> Any:
        parts = self._decoded(request)
        if get_ident() != self._dispatcher:  # asked back by what a worker asks
            return self._do(*parts)
        for number in request.get("te", ()):  # these have ended
            if number and (ended := self._workers.pop(number, None)) is not None:
                ended.give(None)
        worker = self._worker(int(request.get("th", 0)))
        again = request["q"] == "resume"
        alone = not again and bool(parts[-1] or self.world.says)  # what stands in for something is put back after it
        if not again:
            worker.give(lambda: self._do(*parts))
        self._waited_for = worker
        self._turn.release()
        done = worker.is_done(-1 if alone else _AGAIN_S if again else _FIRST_S)
        self._turn.acquire()
        self._waited_for = None
        return worker.outcome() if done or worker.is_done(0) else LATER

    def _worker(self, number: int) -> Worker:
        if number not in self._workers:
            worker = Worker()
            size = stack_size(_STACK)  # so that many of them fit
            try:
                start_new_thread(worker.loop, ())
            finally:
                stack_size(size)
            self._workers[number] = worker
        return self._workers[number]

    def ask(self, operation: str, target: Any, **details: Any) -> Any:
        """Ask the tests: from a call of theirs while they wait for it, from any other thread while they wait at all."""
        if operation == "finally":  # a generator that is thrown away, at whatever moment
            return None
        me = get_ident()
        if me in (self._speaker, self._dispatcher):  # the dispatcher has the turn: an object that it lets go of speaks
            return self._ask(operation, target, details)
        called = any(worker.ident == me for worker in list(self._workers.values()))
        while True:
            self._turn.acquire()
            if not called or (self._waited_for is not None and self._waited_for.ident == me):
                break
            self._turn.release()
            _sleep(0.0005)
        self._speaker = me
        try:
            return self._ask(operation, target, details)
        finally:
            self._speaker = 0
            self._turn.release()


class Numbers:
    """On the tests' side: a number for each of their threads."""

    def __init__(self) -> None:
        import threading

        threading.stack_size(1 << 20)  # many of them fit
        self._local = threading.local()
        self._local.number = 0
        self._count = 0
        self.ended: list[int] = []

    def number(self) -> int:
        """This thread's."""
        found = getattr(self._local, "number", None)
        if found is None:
            self._count += 1
            found = self._local.number = self._count
            self._local.end = _End(found, self.ended)
        return int(found)

    @staticmethod
    def pause(times: int) -> None:
        """Between two questions whether it is done."""
        _sleep(0.0005 if times < 20 else 0.003)


class _End:
    """Says so when its thread has ended."""

    def __init__(self, number: int, ended: list[int]) -> None:
        self._number, self._ended = number, ended

    def __del__(self) -> None:
        self._ended.append(self._number)
