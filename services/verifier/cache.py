"""Verdicts by content, bounded; and one run for identical items that are in flight together."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from concurrent.futures import Future

from rgopd.verifier.schemas import Item
from rgopd.verifier.verdict import Status, Verdict


def content_key(item: Item) -> bytes:
    """The same for items that differ in their id alone."""
    body = json.dumps([item.kind, item.response, item.fields], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).digest()


class VerdictCache:
    """Least recently used verdicts, and the futures of those being made. `error` is never kept: it may pass."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.hits = 0
        self._lock = threading.Lock()
        self._done: OrderedDict[bytes, Verdict] = OrderedDict()
        self._running: dict[bytes, list[tuple[str, Future[Verdict]]]] = {}

    def join(self, key: bytes, item_id: str, future: Future[Verdict]) -> bool:
        """True when the caller has to make the verdict; otherwise `future` gets it from the cache or from the
        run that is under way."""
        with self._lock:
            if key in self._running:
                self._running[key].append((item_id, future))
                self.hits += 1
                return False
            known = self._done.get(key)
            if known is None:
                self._running[key] = [(item_id, future)]
                return True
            self._done.move_to_end(key)
            self.hits += 1
        future.set_result(known.but(id=item_id))
        return False

    def settle(self, key: bytes, verdict: Verdict) -> None:
        """Answer everyone who waits, and keep the verdict."""
        with self._lock:
            waiting = self._running.pop(key, [])
            if self.size and verdict.status is not Status.error:
                self._done[key] = verdict
                while len(self._done) > self.size:
                    self._done.popitem(last=False)
        for item_id, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(verdict.but(id=item_id))

    def __len__(self) -> int:
        return len(self._done)
