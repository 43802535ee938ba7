"""The waiting room: admission by tokens, and a fair order between calls.

Each call is a *flow*. Batches are filled by deficit round robin (Shreedhar & Varghese, 1995) counted in tokens,
so a call with a thousand long rollouts and a call with one short one advance at the same rate of tokens.
Not thread-safe: the service holds its lock around every method.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from opentelemetry.context import Context

from rgopd.common.errors import Overloaded, TooLarge
from rgopd.teacher.items import Score, ScoreItem


@dataclass(eq=False, slots=True)
class Entry:
    """A queued rollout."""

    item: ScoreItem
    flow: Flow
    future: Future[Score] = field(default_factory=Future)
    parent: Context | None = None
    """The caller's trace."""
    queued_at: float = field(default_factory=time.time)


@dataclass(eq=False, slots=True)
class Flow:
    """One call's waiting rollouts, in order (a dict, so that a cancelled one leaves in O(1))."""

    entries: dict[int, Entry] = field(default_factory=dict)
    deficit: int = 0

    @property
    def head(self) -> Entry:
        """The oldest waiting entry."""
        return next(iter(self.entries.values()))

    def pop(self) -> Entry:
        """Take the head out and charge it."""
        entry = self.entries.pop(id(self.head))
        self.deficit -= entry.item.tokens
        return entry


class TokenQueue:
    """Bounded by `max_tokens` of prompt + response, queued and running together."""

    def __init__(self, max_tokens: int, quantum: int = 1024) -> None:
        self.max_tokens = max_tokens
        self.quantum = quantum
        self.outstanding = 0
        """Tokens admitted and not yet scored, failed or cancelled."""
        self.waiting = 0
        """Tokens admitted and not yet handed to the engine."""
        self._flows: deque[Flow] = deque()

    def __len__(self) -> int:
        return sum(len(flow.entries) for flow in self._flows)

    def admit(self, items: list[ScoreItem], retry_after: float, parent: Context | None = None) -> list[Entry]:
        """Queue a call's items, all or none.

        A large call (over a quarter of the bound) may not take the last quarter: small calls always find room.

        Raises:
            TooLarge: it could not be admitted even by an idle service.
            Overloaded: no room now.
        """
        tokens = sum(item.tokens for item in items)
        bound = self.max_tokens if tokens * 4 <= self.max_tokens else self.max_tokens * 3 // 4
        if tokens > bound:
            raise TooLarge(f"{tokens} tokens in one call, the limit is {bound}; send fewer rollouts a call")
        if self.outstanding + tokens > bound:
            raise Overloaded(
                f"{self.outstanding} tokens are outstanding and {tokens} more would pass {bound}; retry later",
                retry_after,
            )
        flow = Flow()
        entries = [Entry(item, flow, parent=parent) for item in items]
        flow.entries = {id(entry): entry for entry in entries}
        self._flows.append(flow)
        self.outstanding += tokens
        self.waiting += tokens
        return entries

    def take(self, budget: int) -> list[Entry]:
        """The next batch: entries of one `Scoring`, at least one if any waits, up to `budget` tokens."""
        batch: list[Entry] = []
        # A flow leaves the round when its head no longer fits this batch, and keeps its place among those that
        # left: it moves forward with every batch and is served, whatever its size or scoring, when it is first.
        round_, left = self._flows, deque[Flow]()
        while round_:
            flow = round_.popleft()
            if not flow.entries:
                continue
            if not self._fits(flow, batch, budget):
                left.append(flow)
                continue
            flow.deficit += self.quantum
            # The first of a batch may go into debt: nobody waits for a budget or a deficit that never comes.
            while flow.entries and self._fits(flow, batch, budget):
                if batch and flow.head.item.tokens > flow.deficit:
                    break
                entry = flow.pop()
                self.waiting -= entry.item.tokens
                batch.append(entry)
            round_.append(flow)
        self._flows = left
        return batch

    @staticmethod
    def _fits(flow: Flow, batch: list[Entry], budget: int) -> bool:
        if not batch:
            return True
        head = flow.head.item
        taken = sum(entry.item.tokens for entry in batch)
        return head.scoring == batch[0].item.scoring and taken + head.tokens <= budget

    def release(self, entry: Entry) -> None:
        """Free the place of an entry that is done or cancelled, wherever it is."""
        self.outstanding -= entry.item.tokens
        if entry.flow.entries.pop(id(entry), None) is not None:
            self.waiting -= entry.item.tokens

    def take_all(self) -> list[Entry]:
        """Everything that waits, for shutting down."""
        entries = [entry for flow in self._flows for entry in flow.entries.values()]
        self._flows.clear()
        self.waiting = 0
        for entry in entries:
            entry.flow.entries.clear()
        return entries
