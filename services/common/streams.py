"""Leased, at-least-once messages on Redis Streams.

A message is *leased* to the consumer that read it; the lease lives in the stream's pending list as the entry's
idle time, so it needs no clock but the server's. The holder renews it while it works, and acknowledges only
together with its result, in one transaction. A lease that is not renewed for `lease_ms` is taken over by any
other consumer (XAUTOCLAIM).

Two counts end a message's life in the dead-letter stream, with the reason of its last failure: `max_attempts`
failures that a handler reported, and `max_deliveries` deliveries of any outcome. They differ because a holder that
was killed says nothing about the message: machines are pre-empted, and one poisonous message must not spend the
attempts of the sixty that were leased beside it.

Streams are bounded by refusing, not by trimming: `add` raises `Overloaded` at `maxlen` outstanding messages,
since a trimmed message is a lost one. Acknowledged messages are deleted, so a stream's length is its backlog. All
keys of a run expire once nothing has been added for `stream_ttl_s`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from rgopd.common.blobs import Blobs, RedisBlobs, check_size
from rgopd.common.connection import hurry
from rgopd.common.deliveries import Consumer, DeadLetter, Delivery, Outcome
from rgopd.common.errors import Overloaded

GROUP = "workers"

GENERATE, VERIFY, SCORE, RESULTS = "generate", "verify", "score", "results"
"""The streams of a run. `results` wakes the orchestrator; what it says is always also in the blob store."""

ENVIRONMENT = "environment"
"""Where a request's conversations wait for their environments, between two turns on `generate`."""

ROLLOUT, VERDICT, TEACHER_SCORE = "rollout", "verdict", "score"
"""Blob stages: Rollout, Verdict and TeacherScore messages under the rollout id."""

# KEYS[1] stream, ARGV: maxlen, payload, ttl. Length check and append must be one step.
_ADD = """
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return false end
local id = redis.call('XADD', KEYS[1], '*', 'd', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return id
"""

# KEYS[1] stream, ARGV: group, consumer, idle ms, ids... Sets the idle time of the entries this consumer still
# holds (0 renews the lease, a large value gives it up) and returns their ids. Without the ownership test a
# slow consumer would steal back what another has taken over.
_SET_IDLE = """
local held = {}
for i = 4, #ARGV do
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if p[1] and p[1][2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'IDLE', ARGV[3], 'JUSTID')
    held[#held + 1] = ARGV[i]
  end
end
return held
"""


class Streams:
    """The streams of one run. Safe to share between threads."""

    def __init__(
        self,
        redis: Redis,
        run_id: str,
        *,
        maxlen: int = 100_000,
        lease_ms: int = 30_000,
        max_attempts: int = 3,
        max_deliveries: int = 10,
        blob_ttl_s: int = 6 * 3600,
        stream_ttl_s: int = 7 * 86_400,
        blobs: Blobs | None = None,
    ) -> None:
        self.redis = redis
        self.run_id = run_id
        self.maxlen = maxlen
        self.lease_ms = lease_ms
        self.max_attempts = max_attempts
        self.max_deliveries = max_deliveries
        self.stream_ttl_s = stream_ttl_s
        self.blobs = blobs or RedisBlobs(redis, run_id, blob_ttl_s)
        self.parts: list[Streams] = [self]
        """One a server (`split.py`)."""
        self._add = redis.register_script(_ADD)
        self._set_idle = redis.register_script(_SET_IDLE)

    def parts_of(self, stream: str) -> list[Streams]:
        """The servers that hold messages of a stream; a worker reads each."""
        return self.parts

    def key(self, stream: str) -> str:
        """The Redis key of a stream; the braces keep a run's keys in one cluster slot."""
        return self.run_key(f"stream:{stream}")

    def run_key(self, name: str) -> str:
        """A key of this run."""
        return f"rgopd:{{{self.run_id}}}:{name}"

    def ensure(self, stream: str) -> None:
        """Create stream and consumer group. The group starts at id 0: nothing sent earlier is passed over."""
        try:
            self.redis.xgroup_create(self.key(stream), GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def reset(self, stream: str) -> None:
        """Drop every message of a stream, leased ones too; for a producer that makes them again."""
        pipe = self.redis.pipeline(transaction=True)
        pipe.delete(self.key(stream), self._reasons(stream))
        pipe.xgroup_create(self.key(stream), GROUP, id="0", mkstream=True)
        pipe.execute()

    def purge(self) -> int:
        """Delete everything of this run; returns how many keys there were."""
        return self.purge_here() + (self.blobs.purge() if self.blobs.outside else 0)

    def purge_here(self) -> int:
        """The same of this server alone."""
        deleted = 0
        for keys in _chunks(self.redis.scan_iter(match=self.run_key("*"), count=1000), 500):
            deleted += int(self.redis.unlink(*keys))
        return deleted

    def claims(self) -> list[str | None]:
        """The token of the trainer that holds this run, from every place where the run has something."""
        return [self.claim_here(), *([self.blobs.owner()] if self.blobs.outside else [])]

    def claim_here(self) -> str | None:
        """The same of this server alone."""
        token = self.redis.get(self.run_key("claim"))
        return _text(token) if token is not None else None

    def claim(self, token: str) -> None:
        """Hold this run, in every place."""
        self.redis.set(self.run_key("claim"), token, ex=self.stream_ttl_s)
        if self.blobs.outside:
            self.blobs.own(token)

    def hurry(self) -> None:
        """The process is leaving: nothing waits longer than a second for a server that is away."""
        hurry(self.redis)
        self.blobs.hurry()

    def add(self, stream: str, payload: bytes, group: str = "") -> str:
        """Append a message and return its id. `group`: of several servers, which one (`split.py`).

        Raises:
            Overloaded: `maxlen` messages are outstanding; try again later.
        """
        entry = self._add(keys=[self.key(stream)], args=[self.maxlen, payload, self.stream_ttl_s])
        if entry is None:
            raise Overloaded(f"stream {stream!r} holds {self.maxlen} unfinished messages", retry_after=0.2)
        return _text(entry)

    def add_wait(self, stream: str, payload: bytes, group: str = "", *, timeout_s: float = 600.0) -> str:
        """`add` that waits for room: back-pressure for producers that have nothing else to do."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.add(stream, payload, group)
            except Overloaded as full:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(full.retry_after)

    def read(self, stream: str, consumer: str, *, count: int = 1, block_ms: int = 1000) -> list[Delivery]:
        """Lease up to `count` new messages, waiting up to `block_ms` for the first."""
        wanted: Any = {self.key(stream): ">"}
        try:
            answer: Any = self.redis.xreadgroup(GROUP, consumer, wanted, count=count, block=max(1, block_ms))
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self.ensure(stream)  # the first reader, or the server came back empty
            answer = self.redis.xreadgroup(GROUP, consumer, wanted, count=count, block=max(1, block_ms))
        if not answer:
            return []
        entries = answer[0][1] if isinstance(answer, list) else next(iter(answer.values()))[0]
        return [Delivery(stream, _text(i), fields[b"d"], 1) for i, fields in entries]

    def reclaim(self, stream: str, consumer: str, *, count: int = 16) -> list[Delivery]:
        """Take over messages whose lease ran out, each with its attempt number (2 or more)."""
        key = self.key(stream)
        try:
            answer: Any = self.redis.xautoclaim(key, GROUP, consumer, self.lease_ms, start_id="0-0", count=count)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self.ensure(stream)
            return []
        entries = [(_text(i), fields) for i, fields in answer[1] if fields]
        if not entries:
            return []
        pipe = self.redis.pipeline(transaction=False)
        for entry_id, _ in entries:
            pipe.xpending_range(key, GROUP, entry_id, entry_id, 1)
        for entry_id, _ in entries:
            pipe.hmget(self._reasons(stream), f"{entry_id}:failures", f"{entry_id}:excused")
        answers = pipe.execute()
        deliveries = []
        for (entry_id, fields), pending, counts in zip(
            entries, answers[: len(entries)], answers[len(entries) :], strict=True
        ):
            if pending:  # empty: another consumer finished it between the two calls
                attempt = int(pending[0]["times_delivered"])
                deliveries.append(Delivery(stream, entry_id, fields[b"d"], attempt, *[int(c or 0) for c in counts]))
        return deliveries

    def renew(self, stream: str, consumer: str, ids: Iterable[str]) -> set[str]:
        """Renew the leases this consumer still holds; returns those ids (a missing one was taken over)."""
        return self._idle(stream, consumer, ids, 0)

    def release(self, stream: str, consumer: str, delivery: Delivery, reason: str, *, failed: bool = True) -> None:
        """Give a message back at once for another attempt, remembering why this one ended.

        failed: False where the message is not to blame (the worker shuts down, Redis was away).
        """
        pipe = self.redis.pipeline(transaction=True)
        reasons = self._reasons(stream)
        pipe.hset(reasons, delivery.id, reason[:4000])
        # Set, not counted up: a command that is sent again after a cut connection must not count twice.
        count = ("failures", delivery.failures + 1) if failed else ("excused", delivery.excused + 1)
        pipe.hset(reasons, f"{delivery.id}:{count[0]}", count[1])
        pipe.expire(reasons, self.stream_ttl_s)
        pipe.execute()
        self._idle(stream, consumer, [delivery.id], self.lease_ms + 1)

    def complete(self, delivery: Delivery, outcome: Outcome) -> None:
        """Store the result, announce it and acknowledge the message: all or nothing.

        Blobs that lie outside of this server are stored first: whoever hears of one finds it, and a message whose
        result was stored but not acknowledged is delivered again, to find the name taken.
        """
        self._store_outside(outcome)
        pipe = self.redis.pipeline(transaction=True)
        self._write(pipe, outcome)
        self._finish(pipe, delivery)
        pipe.execute()

    def publish(self, outcome: Outcome, group: str = "") -> None:
        """Store and announce in one transaction, without acknowledging: a part of a longer message is done."""
        self._store_outside(outcome)
        pipe = self.redis.pipeline(transaction=True)
        self._write(pipe, outcome)
        pipe.execute()

    def dead_letter(self, delivery: Delivery, reason: str, outcome: Outcome | None = None) -> None:
        """Give the message up, keep it with its reason, and tell whoever waits (`outcome`)."""
        if outcome is not None:
            self._store_outside(outcome)
        pipe = self.redis.pipeline(transaction=True)
        if outcome is not None:
            self._write(pipe, outcome)
        pipe.xadd(
            self.key("dead"),
            {"stream": delivery.stream, "d": delivery.payload, "reason": reason[:4000], "attempts": delivery.attempt},
            maxlen=10_000,
        )
        pipe.expire(self.key("dead"), self.stream_ttl_s)
        self._finish(pipe, delivery)
        pipe.execute()

    def last_reason(self, delivery: Delivery) -> str:
        """Why the last attempt failed; a holder that died leaves no reason."""
        reason = self.redis.hget(self._reasons(delivery.stream), delivery.id)
        return _text(reason) if reason else "its holder stopped renewing the lease (killed, crashed or hung)"

    def dead_letters(self, count: int = 100) -> list[DeadLetter]:
        """The oldest dead letters of the run."""
        entries: Any = self.redis.xrange(self.key("dead"), count=count)
        return [
            DeadLetter(_text(i), _text(f[b"stream"]), f[b"d"], _text(f[b"reason"]), int(f[b"attempts"]))
            for i, f in entries
        ]

    def replay(self, letter: DeadLetter) -> None:
        """Put a dead letter back on its stream with its attempts forgotten."""
        pipe = self.redis.pipeline(transaction=True)
        pipe.xadd(self.key(letter.stream), {"d": letter.payload})
        pipe.xdel(self.key("dead"), letter.id)
        pipe.execute()

    def drop(self, letter: DeadLetter) -> None:
        """Forget a dead letter."""
        self.redis.xdel(self.key("dead"), letter.id)

    def depth(self, stream: str) -> dict[str, int]:
        """`backlog` = outstanding messages, `leased` = those of them that a consumer holds."""
        key = self.key(stream)
        backlog = int(self.redis.xlen(key))
        try:
            summary: Any = self.redis.xpending(key, GROUP)
        except ResponseError:
            return {"backlog": backlog, "leased": 0}
        return {"backlog": backlog, "leased": int(summary["pending"])}

    def consumers(self, stream: str) -> list[Consumer]:
        """Who has ever read the stream and was not forgotten since."""
        try:
            found: Any = self.redis.xinfo_consumers(self.key(stream), GROUP)
        except ResponseError:  # no such stream or group yet
            return []
        return [Consumer(_text(c["name"]), int(c["pending"]), int(c["idle"])) for c in found]

    def forget_idle(self, stream: str, idle_ms: int = 600_000) -> None:
        """Remove consumers that are long gone and hold nothing: every restart of a service leaves one."""
        for consumer in self.consumers(stream):
            if consumer.idle_ms > idle_ms:
                self.forget_consumer(stream, consumer.name)

    def forget_consumer(self, stream: str, consumer: str) -> None:
        """Remove a consumer that stops, unless messages are still leased to it (deleting it would lose them)."""
        pending: Any = self.redis.xpending_range(self.key(stream), GROUP, "-", "+", 1, consumername=consumer)
        if not pending:
            self.redis.xgroup_delconsumer(self.key(stream), GROUP, consumer)

    def _reasons(self, stream: str) -> str:
        return self.run_key(f"reasons:{stream}")

    def _idle(self, stream: str, consumer: str, ids: Iterable[str], idle_ms: int) -> set[str]:
        ids = list(ids)
        if not ids:
            return set()
        held: Any = self._set_idle(keys=[self.key(stream)], args=[GROUP, consumer, idle_ms, *ids])
        return {_text(i) for i in held}

    def _store_outside(self, outcome: Outcome) -> None:
        for (stage, item_id), data in outcome.blobs.items():
            check_size(stage, item_id, data)
            if self.blobs.beside(self.redis, item_id) is None:
                self.blobs.put(stage, item_id, data)

    def _write(self, pipe: Any, outcome: Outcome) -> None:
        for (stage, item_id), data in outcome.blobs.items():
            if (here := self.blobs.beside(self.redis, item_id)) is not None:
                pipe.set(here.key(stage, item_id), data, nx=True, ex=here.ttl_s)
        for stream, payload in outcome.announce:
            pipe.xadd(self.key(stream), {"d": payload})
        for stream in {stream for stream, _ in outcome.announce}:
            pipe.expire(self.key(stream), self.stream_ttl_s)

    def _finish(self, pipe: Any, delivery: Delivery) -> None:
        key = self.key(delivery.stream)
        pipe.xack(key, GROUP, delivery.id)
        pipe.xdel(key, delivery.id)
        pipe.hdel(self._reasons(delivery.stream), delivery.id, f"{delivery.id}:failures", f"{delivery.id}:excused")


def stream_depths(streams: Streams, names: Iterable[str]) -> Mapping[str, dict[str, int]]:
    """`depth` of several streams, for progress displays and metrics."""
    return {name: streams.depth(name) for name in names}


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
