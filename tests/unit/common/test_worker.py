from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from rgopd.common import wire
from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import InvalidInput, Overloaded
from rgopd.common.streams import GROUP, Streams
from rgopd.common.worker import StreamWorker, announce_failure
from rgopd.protos import rollout_pb2, verifier_pb2
from tests.waiting import eventually, expire


def job(run_id: str, rollout_id: str) -> bytes:
    message = verifier_pb2.VerifyJob(header=wire.header(run_id, rollout_id), group_id="g")
    return message.SerializeToString()


def done(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def worker(streams: Streams, submit: Callable[[Delivery], Future[Outcome]], consumer: str = "w") -> StreamWorker:
    return StreamWorker(
        streams,
        "verify",
        submit,
        announce_failure(verifier_pb2.VerifyJob, "verify"),
        consumer=consumer,
        max_inflight=8,
    )


def work(streams: Streams, submit: Callable[[Delivery], Future[Outcome]], *, until: Callable[[], object]) -> None:
    """One worker, until the condition holds; then it has stopped."""
    running = worker(streams, submit)
    running.start()
    eventually(until)
    running.stop()


def failures(streams: Streams) -> list[rollout_pb2.StageDone]:
    streams.ensure("results")
    return [wire.parse(rollout_pb2.StageDone, d.payload) for d in streams.read("results", "test", count=10, block_ms=5)]


def test_results_are_stored_before_the_message_is_acknowledged(streams: Streams, run_id: str) -> None:
    for i in range(20):
        streams.add("verify", job(run_id, f"r{i}"))
    seen: list[str] = []

    def submit(delivery: Delivery) -> Future[Outcome]:
        rollout_id = wire.parse(verifier_pb2.VerifyJob, delivery.payload).header.rollout_id
        seen.append(rollout_id)
        return done(Outcome(blobs={("verdict", rollout_id): b"ok"}))

    work(streams, submit, until=lambda: streams.depth("verify")["backlog"] == 0)
    assert sorted(seen) == sorted(f"r{i}" for i in range(20))
    assert streams.blobs.get_many("verdict", seen) == [b"ok"] * 20


def test_a_permanent_error_is_dead_lettered_at_once_and_announced(streams: Streams, run_id: str) -> None:
    streams.add("verify", job(run_id, "r0"))

    def submit(_: Delivery) -> Future[Outcome]:
        raise InvalidInput("unknown kind 'poem'")

    work(streams, submit, until=lambda: streams.dead_letters())
    [message] = failures(streams)
    assert message.header.rollout_id == "r0"
    assert (message.failure.stage, message.failure.kind, message.failure.attempts) == ("verify", "invalid_input", 1)
    assert "poem" in message.failure.reason


def test_a_passing_error_is_tried_again(streams: Streams, run_id: str) -> None:
    streams.add("verify", job(run_id, "r0"))
    attempts: list[int] = []

    def submit(delivery: Delivery) -> Future[Outcome]:
        attempts.append(delivery.attempt)
        if len(attempts) < 3:
            raise OSError("fork: no memory")
        return done(Outcome(blobs={("verdict", "r0"): b"ok"}))

    work(streams, submit, until=lambda: streams.blobs.get("verdict", "r0"))
    assert attempts == [1, 2, 3]


def test_attempts_end_in_a_dead_letter_with_the_last_reason(streams: Streams, run_id: str) -> None:
    streams.add("verify", job(run_id, "r0"))

    def submit(_: Delivery) -> Future[Outcome]:
        raise OSError("fork: no memory")

    work(streams, submit, until=lambda: streams.dead_letters())
    [letter] = streams.dead_letters()
    assert letter.attempts == 3
    assert "fork: no memory" in letter.reason
    assert failures(streams)[0].failure.kind == "max_attempts"


def test_a_message_that_kills_its_holders_is_dead_lettered(redis: Redis, run_id: str) -> None:
    streams = Streams(redis, run_id, lease_ms=300, max_deliveries=3)
    streams.ensure("verify")
    streams.add("verify", job(run_id, "killer"))
    streams.read("verify", "victim-1", block_ms=5)
    for victim in ("victim-2", "victim-3"):
        expire(streams, "verify")
        assert streams.reclaim("verify", victim)

    def submit(_: Delivery) -> Future[Outcome]:
        raise AssertionError("must not be handed out a fourth time")

    work(streams, submit, until=lambda: streams.dead_letters())
    [letter] = streams.dead_letters()
    assert "gave up after 3 deliveries" in letter.reason
    assert "stopped renewing the lease" in letter.reason


def test_slow_is_not_dead(redis: Redis, run_id: str) -> None:
    streams = Streams(redis, run_id, lease_ms=1500)  # a busy machine may delay a heartbeat by some 100 ms
    streams.add("verify", job(run_id, "slow"))
    calls: list[str] = []
    release = threading.Event()

    def submit_slow(delivery: Delivery) -> Future[Outcome]:
        calls.append(delivery.id)
        return pool.submit(lambda: Outcome(blobs={("verdict", "slow"): b"ok"}) if release.wait(120) else Outcome())

    with ThreadPoolExecutor() as pool:
        first, second = worker(streams, submit_slow, "a"), worker(streams, submit_slow, "b")
        first.start()
        second.start()
        time.sleep(streams.lease_ms * 2 / 1000)
        release.set()
        eventually(lambda: streams.blobs.get("verdict", "slow"))
        first.stop()
        second.stop()
    assert len(calls) == 1


def test_what_it_still_does_is_not_begun_again_when_its_heartbeat_was_late(
    streams: Streams, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was starved or asleep: the lease ran out, and this worker's own reader finds the message."""
    monkeypatch.setattr(streams, "renew", lambda stream, consumer, ids: set(ids))
    streams.add("verify", job(run_id, "r0"))
    calls: list[int] = []
    release: Future[Outcome] = Future()

    def submit(delivery: Delivery) -> Future[Outcome]:
        calls.append(delivery.attempt)
        return release

    running = worker(streams, submit)
    running.start()
    eventually(lambda: running.inflight)
    eventually(lambda: delivered(streams) >= 4)
    release.set_result(Outcome(blobs={("verdict", "r0"): b"ok"}))
    eventually(lambda: streams.depth("verify")["backlog"] == 0)
    running.stop()
    assert calls == [1]


def delivered(streams: Streams) -> int:
    """How often the first unfinished message was leased."""
    return int(streams.redis.xpending_range(streams.key("verify"), GROUP, "-", "+", 1)[0]["times_delivered"])


def test_overload_holds_the_message_and_tries_again(streams: Streams, run_id: str) -> None:
    streams.add("verify", job(run_id, "r0"))
    calls: list[int] = []

    def submit(delivery: Delivery) -> Future[Outcome]:
        calls.append(delivery.attempt)
        if len(calls) < 4:
            raise Overloaded("full", retry_after=0.01)
        return done(Outcome(blobs={("verdict", "r0"): b"ok"}))

    work(streams, submit, until=lambda: streams.blobs.get("verdict", "r0"))
    assert calls == [1, 1, 1, 1]


def test_stop_finishes_what_is_in_flight_and_gives_back_the_rest(streams: Streams, run_id: str) -> None:
    streams.add("verify", job(run_id, "quick"))
    streams.add("verify", job(run_id, "stuck"))
    stuck: Future[Outcome] = Future()

    def submit(delivery: Delivery) -> Future[Outcome]:
        rollout_id = wire.parse(verifier_pb2.VerifyJob, delivery.payload).header.rollout_id
        return stuck if rollout_id == "stuck" else done(Outcome(blobs={("verdict", "quick"): b"ok"}))

    running = worker(streams, submit)
    running.start()
    eventually(lambda: streams.blobs.get("verdict", "quick") and running.inflight == 1)
    running.stop(drain_s=0.1)
    [again] = streams.reclaim("verify", "other")
    assert wire.parse(verifier_pb2.VerifyJob, again.payload).header.rollout_id == "stuck"


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"not protobuf at all"])
def test_garbage_on_the_stream_does_not_stop_the_worker(streams: Streams, run_id: str, garbage: bytes) -> None:
    streams.add("verify", garbage)
    streams.add("verify", job(run_id, "r1"))

    def submit(delivery: Delivery) -> Future[Outcome]:
        rollout_id = wire.parse(verifier_pb2.VerifyJob, delivery.payload).header.rollout_id
        return done(Outcome(blobs={("verdict", rollout_id): b"ok"}))

    work(streams, submit, until=lambda: streams.blobs.get("verdict", "r1") and streams.dead_letters())
    assert streams.dead_letters()[0].payload == garbage


def test_a_death_of_the_holder_is_not_an_attempt(redis: Redis, run_id: str) -> None:
    streams = Streams(redis, run_id, lease_ms=300, max_attempts=1)
    streams.ensure("verify")
    streams.add("verify", job(run_id, "unlucky"))
    streams.read("verify", "victim-0", block_ms=5)
    for n in range(1, 6):
        expire(streams, "verify")
        [again] = streams.reclaim("verify", f"victim-{n}")
        assert (again.attempt, again.failures, again.orphaned) == (n + 1, 0, n)
    work(
        streams,
        lambda _: done(Outcome(blobs={("verdict", "unlucky"): b"ok"})),
        until=lambda: streams.blobs.get("verdict", "unlucky"),
    )
    assert streams.dead_letters() == []


def test_redis_being_away_is_not_an_attempt(streams: Streams, run_id: str) -> None:
    streams.add("verify", job(run_id, "r0"))
    calls: list[int] = []

    def submit(delivery: Delivery) -> Future[Outcome]:
        calls.append(delivery.failures)
        if len(calls) < 6:
            raise ConnectionError("cut")
        return done(Outcome(blobs={("verdict", "r0"): b"ok"}))

    work(streams, submit, until=lambda: streams.blobs.get("verdict", "r0"))
    assert calls == [0] * 6


def test_a_suspect_is_handled_alone(streams: Streams, run_id: str) -> None:
    """A message of which two holders died must not run beside others: what it kills, it kills alone."""
    streams.ensure("verify")
    for name in ("suspect-0", "suspect-1"):
        streams.add("verify", job(run_id, name))
    streams.read("verify", "victim-0", count=2, block_ms=5)
    expire(streams, "verify")
    assert len(streams.reclaim("verify", "victim-1")) == 2
    expire(streams, "verify")
    for i in range(6):
        streams.add("verify", job(run_id, f"new-{i}"))
    running_now: set[str] = set()
    together: dict[str, set[str]] = {}
    lock = threading.Lock()

    def work(name: str) -> Outcome:
        with lock:
            running_now.add(name)
            for other in running_now:
                together.setdefault(other, set()).update(running_now)
        time.sleep(0.03)
        with lock:
            running_now.discard(name)
        return Outcome(blobs={("verdict", name): b"ok"})

    with ThreadPoolExecutor(8) as pool:
        running = worker(
            streams,
            lambda d: pool.submit(work, wire.parse(verifier_pb2.VerifyJob, d.payload).header.rollout_id),
        )
        running.start()
        eventually(lambda: len(together) == 8 and streams.depth("verify")["backlog"] == 0)
        running.stop()
    assert together["suspect-0"] == {"suspect-0"}
    assert together["suspect-1"] == {"suspect-1"}


def test_a_handler_that_hangs_loses_its_message_at_the_deadline(streams: Streams, run_id: str) -> None:
    streams.add("verify", job(run_id, "r0"))
    hung: Future[Outcome] = Future()

    def hang(_: Delivery) -> Future[Outcome]:
        first._stopping.set()  # it takes nothing new; its heartbeat goes on
        return hung

    give_up = announce_failure(verifier_pb2.VerifyJob, "verify")
    first = StreamWorker(streams, "verify", hang, give_up, consumer="hangs", max_inflight=1, deadline_s=0.4)
    first.start()
    second = worker(streams, lambda d: done(Outcome(blobs={("verdict", "r0"): str(d.failures).encode()})), "heir")
    second.start()
    eventually(lambda: streams.blobs.get("verdict", "r0"))
    assert streams.blobs.get("verdict", "r0") == b"1"
    hung.set_result(Outcome(blobs={("verdict", "r0"): b"late twin"}))
    time.sleep(0.1)
    assert streams.blobs.get("verdict", "r0") == b"1"
    first.stop()
    second.stop()


def test_what_was_leased_first_may_wait_while_its_worker_gets_on(streams: Streams, run_id: str) -> None:
    """Eight jobs one after the other, each shorter than the deadline, the last far over it since it was leased."""
    for number in range(8):
        streams.add("verify", job(run_id, f"r{number}"))
    with ThreadPoolExecutor(1) as pool:

        def work(delivery: Delivery) -> Outcome:
            time.sleep(0.25)
            return Outcome(blobs={("verdict", "all"): b"1"}) if delivery.failures else Outcome()

        give_up = announce_failure(verifier_pb2.VerifyJob, "verify")
        one = StreamWorker(streams, "verify", lambda d: pool.submit(work, d), give_up, consumer="w", deadline_s=1.5)
        streams.lease_ms = 300
        one.start()
        eventually(lambda: streams.depth("verify")["backlog"] == 0)
        one.stop()
    assert streams.blobs.get("verdict", "all") is None, "none was given back as failed"
    assert not streams.redis.xlen(streams.key("dead"))


def test_a_message_may_have_a_deadline_of_its_own(streams: Streams, run_id: str) -> None:
    streams.add("verify", job(run_id, "short"))
    streams.add("verify", job(run_id, "long"))
    streams.lease_ms = 300
    hung = {name: Future[Outcome]() for name in ("short", "long")}
    begun: list[str] = []

    def name_of(delivery: Delivery) -> str:
        return str(wire.parse(verifier_pb2.VerifyJob, delivery.payload).header.rollout_id)

    give_up = announce_failure(verifier_pb2.VerifyJob, "verify")
    one = StreamWorker(
        streams,
        "verify",
        lambda d: begun.append(name_of(d)) or hung[name_of(d)],  # type: ignore[func-returns-value]
        give_up,
        consumer="w",
        deadline_s=lambda d: 0.3 if name_of(d) == "short" else 60.0,
    )
    one.start()
    eventually(lambda: {"short", "long"} <= set(begun))
    one._stopping.set()
    eventually(lambda: one.inflight == 1)
    time.sleep(0.5)
    assert [name_of(d) for d in one._inflight.values()] == ["long"]
    hung["long"].set_result(Outcome())
    one.stop()
