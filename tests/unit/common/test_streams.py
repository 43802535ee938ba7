from __future__ import annotations

import pytest
from redis import Redis

from rgopd.common.deliveries import Outcome
from rgopd.common.errors import Overloaded, TooLarge
from rgopd.common.streams import GROUP, Streams
from tests.waiting import expire


@pytest.fixture
def streams(redis: Redis, run_id: str) -> Streams:
    """Its leases outlast every test; `expire` ends them."""
    return Streams(redis, run_id, lease_ms=60_000)


def test_a_message_sent_before_the_group_exists_is_read(streams: Streams) -> None:
    streams.add("verify", b"early")
    streams.ensure("verify")
    [delivery] = streams.read("verify", "a", block_ms=10)
    assert (delivery.payload, delivery.attempt) == (b"early", 1)


def test_reading_from_an_empty_server_makes_the_group(streams: Streams, redis: Redis) -> None:
    assert streams.read("verify", "a", block_ms=5) == []
    streams.add("verify", b"x")
    assert [d.payload for d in streams.read("verify", "a", block_ms=5)] == [b"x"]


def test_add_refuses_at_maxlen_and_loses_nothing(redis: Redis, run_id: str) -> None:
    streams = Streams(redis, run_id, maxlen=2)
    streams.add("score", b"1")
    streams.add("score", b"2")
    with pytest.raises(Overloaded, match="holds 2 unfinished"):
        streams.add("score", b"3")
    [first, second] = streams.read("score", "a", count=5, block_ms=5)
    streams.complete(first, Outcome())
    streams.add("score", b"3")
    assert [d.payload for d in streams.read("score", "a", count=5, block_ms=5)] == [b"3"]
    assert second.payload == b"2"


def test_complete_stores_announces_and_acknowledges_at_once(streams: Streams) -> None:
    streams.ensure("verify")
    streams.ensure("results")
    streams.add("verify", b"job")
    [delivery] = streams.read("verify", "a", block_ms=5)
    streams.complete(delivery, Outcome(blobs={("verdict", "r1"): b"passed"}, announce=[("results", b"r1 done")]))
    assert streams.blobs.get("verdict", "r1") == b"passed"
    assert [d.payload for d in streams.read("results", "o", block_ms=5)] == [b"r1 done"]
    assert streams.depth("verify") == {"backlog": 0, "leased": 0}


def test_the_first_result_wins(streams: Streams) -> None:
    streams.publish(Outcome(blobs={("verdict", "r"): b"first"}))
    streams.publish(Outcome(blobs={("verdict", "r"): b"second"}))
    assert streams.blobs.get("verdict", "r") == b"first"


def test_an_unrenewed_lease_is_taken_over_with_the_next_attempt(streams: Streams) -> None:
    streams.ensure("score")
    streams.add("score", b"job")
    [first] = streams.read("score", "dies", block_ms=5)
    assert streams.reclaim("score", "heir") == []
    expire(streams, "score")
    [second] = streams.reclaim("score", "heir")
    assert (second.id, second.payload, second.attempt) == (first.id, b"job", 2)


def test_a_renewed_lease_is_not_taken_over(streams: Streams) -> None:
    streams.ensure("score")
    streams.add("score", b"job")
    [job] = streams.read("score", "slow", block_ms=5)
    for _ in range(4):
        expire(streams, "score", 0.9)
        assert streams.renew("score", "slow", [job.id]) == {job.id}
        [held] = streams.redis.xpending_range(streams.key("score"), GROUP, "-", "+", 1)
        assert held["time_since_delivered"] < 0.5 * streams.lease_ms
    assert streams.reclaim("score", "heir") == []


def test_a_late_holder_cannot_steal_the_lease_back(streams: Streams) -> None:
    streams.ensure("score")
    streams.add("score", b"job")
    [job] = streams.read("score", "slow", block_ms=5)
    expire(streams, "score")
    streams.reclaim("score", "heir")
    assert streams.renew("score", "slow", [job.id]) == set()
    assert streams.renew("score", "heir", [job.id]) == {job.id}


def test_release_gives_back_at_once_and_keeps_the_reason(streams: Streams) -> None:
    streams.ensure("verify")
    streams.add("verify", b"job")
    [job] = streams.read("verify", "a", block_ms=5)
    streams.release("verify", "a", job, "the sandbox was full")
    [again] = streams.reclaim("verify", "b")
    assert again.attempt == 2
    assert streams.last_reason(again) == "the sandbox was full"


def test_dead_letters_keep_payload_reason_and_attempts(streams: Streams) -> None:
    streams.ensure("verify")
    streams.add("verify", b"poison")
    [job] = streams.read("verify", "a", block_ms=5)
    streams.dead_letter(job, "cannot be read")
    [letter] = streams.dead_letters()
    assert (letter.stream, letter.payload, letter.reason, letter.attempts) == ("verify", b"poison", "cannot be read", 1)
    assert streams.depth("verify")["backlog"] == 0


def test_a_consumer_with_leases_is_not_forgotten(streams: Streams, redis: Redis) -> None:
    streams.ensure("verify")
    streams.add("verify", b"job")
    [job] = streams.read("verify", "a", block_ms=5)
    streams.forget_consumer("verify", "a")
    expire(streams, "verify")
    assert [d.id for d in streams.reclaim("verify", "b")] == [job.id]


def test_a_blob_over_the_limit_is_refused_before_it_is_sent(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgopd.common.blobs.MAX_BLOB_BYTES", 3)
    with pytest.raises(TooLarge, match="over the blob limit"):
        streams.publish(Outcome(blobs={("rollout", "r"): b"four"}))


def test_blobs_expire(redis: Redis, run_id: str) -> None:
    streams = Streams(redis, run_id, blob_ttl_s=100)
    streams.blobs.put("rollout", "r", b"x")
    assert 0 < int(redis.ttl(streams.blobs.key("rollout", "r"))) <= 100
    streams.blobs.delete("rollout", ["r"])
    assert streams.blobs.get_many("rollout", ["r", "s"]) == [None, None]
