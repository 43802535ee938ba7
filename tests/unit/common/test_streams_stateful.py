"""Any interleaving of send, read, renew, finish, fail, die, take over and redeliver keeps the stream's promises.

The promises: at least once; a message is never lost and never in two hands that both believe in their lease; attempts
are counted in order; every message ends as done or as a dead letter, within its bounds; the first result stands.
"""

from __future__ import annotations

import uuid

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import Overloaded
from rgopd.common.streams import Streams

STREAM = "verify"
MAXLEN, MAX_ATTEMPTS, MAX_DELIVERIES = 6, 2, 5
CONSUMERS = st.sampled_from(["a", "b", "c"])


class StreamMachine(RuleBasedStateMachine):
    """Drives `Streams` as workers would, one step at a time; time passes only where a rule says so."""

    redis: Redis
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        # Leases never run out by the clock; `let_lease_expire` ends them, so that runs do not depend on speed.
        self.streams = Streams(
            self.redis,
            f"state-{uuid.uuid4().hex[:8]}",
            maxlen=MAXLEN,
            lease_ms=10_000_000,
            max_attempts=MAX_ATTEMPTS,
            max_deliveries=MAX_DELIVERIES,
        )
        self.streams.ensure(STREAM)
        self.sent: dict[str, bytes] = {}
        self.done: set[str] = set()
        self.dead: set[str] = set()
        self.first: dict[str, bytes] = {}
        self.deliveries: dict[str, int] = {}
        self.holder: dict[str, str] = {}
        self.failures: dict[str, int] = {}

    def teardown(self) -> None:
        """Whatever happened, every message that is neither done nor dead can still be had by somebody."""
        heir = Streams(self.redis, self.streams.run_id, lease_ms=0)
        reachable = {d.id for d in heir.read(STREAM, "heir", count=100, block_ms=1)}
        reachable |= {d.id for d in heir.reclaim(STREAM, "heir", count=100)}
        self.streams.purge()
        assert reachable == self.open

    @property
    def open(self) -> set[str]:
        return self.sent.keys() - self.done - self.dead

    @initialize(target=held, consumer=CONSUMERS)
    def begin(self, consumer: str) -> object:
        """Without something in hand, most rules have nothing to do."""
        for _ in range(3):
            self.send()
        return self.read(consumer, 2)

    @rule()
    def send(self) -> None:
        payload = uuid.uuid4().hex.encode()
        try:
            self.sent[self.streams.add(STREAM, payload)] = payload
            assert len(self.open) <= MAXLEN
        except Overloaded:
            assert len(self.open) == MAXLEN

    @rule(target=held, consumer=CONSUMERS, count=st.integers(1, 3))
    def read(self, consumer: str, count: int) -> object:
        self.send()
        return self._took(consumer, self.streams.read(STREAM, consumer, count=count, block_ms=1), first=True)

    @rule(target=held, consumer=CONSUMERS)
    def take_over(self, consumer: str) -> object:
        """What was given back."""
        return self.take_over_by(consumer)

    def take_over_by(self, consumer: str) -> object:
        return self._took(consumer, self.streams.reclaim(STREAM, consumer, count=3), first=False)

    @rule(target=held, held=held, heir=CONSUMERS)
    def die(self, held: tuple[str, Delivery], heir: str) -> object:
        """The holder dies, or is stopped for too long, and another takes over; `held` stays: it may still come back."""
        consumer, delivery = held
        self.streams._idle(STREAM, consumer, [delivery.id], self.streams.lease_ms + 1)
        return self.take_over_by(heir)

    @rule(held=held)
    def renew(self, held: tuple[str, Delivery]) -> None:
        consumer, delivery = held
        kept = self.streams.renew(STREAM, consumer, [delivery.id])
        mine = delivery.id in self.open and self.holder[delivery.id] == consumer
        assert kept == ({delivery.id} if mine else set())

    @rule(held=consumes(held))
    def finish(self, held: tuple[str, Delivery]) -> None:
        """Also by a holder that lost its lease long ago: the late twin."""
        consumer, delivery = held
        result = f"{consumer}{delivery.attempt}".encode()
        self.streams.complete(delivery, Outcome(blobs={("verdict", delivery.id): result}))
        self.first.setdefault(delivery.id, result)
        if delivery.id not in self.dead:
            self.done.add(delivery.id)

    @rule(held=consumes(held), failed=st.booleans())
    def give_back(self, held: tuple[str, Delivery], failed: bool) -> None:
        """What `StreamWorker` does with an error: another attempt, or the end."""
        consumer, delivery = held
        if delivery.id not in self.open or self.holder[delivery.id] != consumer:
            return
        if failed and delivery.failures + 1 >= MAX_ATTEMPTS:
            self.streams.dead_letter(delivery, "failed too often")
            self.dead.add(delivery.id)
            return
        self.streams.release(STREAM, consumer, delivery, "because", failed=failed)
        self.failures[delivery.id] = delivery.failures + failed

    @rule(held=held)
    def deliver_twice(self, held: tuple[str, Delivery]) -> None:
        """The network repeats a message: the same payload under another id is another message, done on its own."""
        _, delivery = held
        if len(self.open) < MAXLEN:
            self.sent[self.streams.add(STREAM, delivery.payload)] = delivery.payload

    @rule(held=held)
    def holder_leaves(self, held: tuple[str, Delivery]) -> None:
        """With the message still in hand, or after it was finished or lost."""
        self.streams.forget_consumer(STREAM, held[0])

    @rule(held=held, heir=CONSUMERS)
    def finish_twice(self, held: tuple[str, Delivery], heir: str) -> None:
        """The holder and an heir both finish, with different results."""
        for consumer in (heir, held[0]):
            self.finish((consumer, held[1]))

    @invariant()
    def nothing_is_lost_and_bounds_hold(self) -> None:
        backlog = {entry.decode() for entry, _ in self.redis.xrange(self.streams.key(STREAM))}
        assert backlog == self.open
        assert len(backlog) <= MAXLEN

    @invariant()
    def the_first_result_stands(self) -> None:
        for item, result in self.first.items():
            assert self.streams.blobs.get("verdict", item) == result

    @invariant()
    def dead_letters_are_kept(self) -> None:
        assert len(self.streams.dead_letters()) == len(self.dead)

    def _took(self, consumer: str, deliveries: list[Delivery], *, first: bool) -> object:
        taken = []
        for delivery in deliveries:
            assert delivery.payload == self.sent[delivery.id]
            assert delivery.id in self.open, "a finished message came back"
            assert delivery.attempt == self.deliveries.get(delivery.id, 0) + 1
            assert (delivery.attempt == 1) == first
            assert delivery.failures == self.failures.get(delivery.id, 0)
            self.deliveries[delivery.id] = delivery.attempt
            self.holder[delivery.id] = consumer
            if delivery.attempt - delivery.excused > MAX_DELIVERIES:
                self.streams.dead_letter(delivery, "its holders keep dying")
                self.dead.add(delivery.id)
            else:
                taken.append((consumer, delivery))
        return multiple(*taken)


@pytest.fixture
def machine(redis: Redis) -> type[StreamMachine]:
    StreamMachine.redis = redis
    return StreamMachine


def test_any_interleaving_keeps_the_promises(machine: type[StreamMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


def test_every_message_ends(redis: Redis, run_id: str) -> None:
    """However workers die, a message ends as done or dead within its bound of deliveries."""
    streams = Streams(redis, run_id, lease_ms=1, max_deliveries=MAX_DELIVERIES)
    streams.ensure(STREAM)
    streams.add(STREAM, b"kills its holders")
    [delivery] = streams.read(STREAM, "victim-1", block_ms=1)
    for attempt in range(2, 20):
        redis.ping()
        streams._idle(STREAM, f"victim-{attempt - 1}", [delivery.id], 10)
        [delivery] = streams.reclaim(STREAM, f"victim-{attempt}")
        if delivery.attempt > MAX_DELIVERIES:
            streams.dead_letter(delivery, streams.last_reason(delivery))
            break
    assert streams.depth(STREAM)["backlog"] == 0
    [letter] = streams.dead_letters()
    assert letter.attempts == MAX_DELIVERIES + 1
    streams.replay(letter)
    assert streams.dead_letters() == []
    [again] = streams.read(STREAM, "cured", block_ms=1)
    assert (again.payload, again.attempt, again.failures) == (b"kills its holders", 1, 0)
