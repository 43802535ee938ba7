"""One run on several servers: what is asked, answered, stored and counted is the same as on one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console

from rgopd.cli import places
from rgopd.cli.checks import Failed
from rgopd.cli.cluster import ClusterSettings, cluster_checks
from rgopd.cli.doctor import check_redis
from rgopd.cli.queues import show, sweep
from rgopd.common.connection import redact
from rgopd.common.deliveries import Outcome
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.errors import ConfigError
from rgopd.common.identity import group_id, rollout_id
from rgopd.common.open_run import open_run, server_urls
from rgopd.common.queues import queues, runs, stream_names
from rgopd.common.split import SplitStreams, place
from rgopd.common.streams import GENERATE, RESULTS, SCORE, VERIFY, Streams
from rgopd.common.teacher_client import score_stream
from rgopd.common.worker import announce_failure
from rgopd.common.workers import StreamWorkers
from rgopd.protos import verifier_pb2
from tests.unit.common.test_worker import done, job
from tests.waiting import eventually

SPREAD = [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0]
GROUPS = [group_id(1, slot) for slot in range(16)]


@pytest.fixture(scope="module")
def valkeys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[EmbeddedValkey]]:
    servers = [EmbeddedValkey(tmp_path_factory.mktemp("valkey")).start() for _ in range(3)]
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def url(valkeys: list[EmbeddedValkey]) -> str:
    """Two servers for groups, one for the teacher `math`."""
    return f"{valkeys[0].url}, {valkeys[1].url},math={valkeys[2].url}"


Opens = Callable[..., Streams]


@pytest.fixture
def opens(url: str, run_id: str) -> Iterator[Opens]:
    opened: list[Streams] = []

    def opens(at: str = url, **options: object) -> Streams:
        opened.append(open_run(at, run_id, lease_ms=300, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield opens
    for streams in opened:
        streams.purge()
        for part in streams.parts:
            part.redis.close()


def held(streams: Streams) -> list[int]:
    """How many keys of the run each server holds."""
    return [len(part.redis.keys(part.run_key("*"))) for part in streams.parts]


def test_where_a_group_lies_is_a_function_of_its_name() -> None:
    spread = [place(group, 2) for group in GROUPS]
    assert spread == SPREAD, "processes of another version would look elsewhere"
    many = [place(group_id(step, slot), 4) for step in range(50) for slot in range(32)]
    assert all(350 < many.count(server) < 450 for server in range(4))


def test_a_groups_messages_and_blobs_lie_together_and_its_teachers_elsewhere(opens: Opens) -> None:
    streams = opens()
    assert isinstance(streams, SplitStreams)
    for group in GROUPS:
        item = rollout_id(group, 0)
        announce = [(VERIFY, b"v"), (score_stream("math"), b"s"), (SCORE, b"d"), (RESULTS, group.encode())]
        streams.publish(Outcome(blobs={("rollout", item): b"tensor"}, announce=announce), group)
    here = [part.depth(VERIFY)["backlog"] for part in streams.parts]
    assert here[0] + here[1] == 16
    assert min(here[:2]) > 0
    assert here[2] == 0
    assert [part.depth(SCORE)["backlog"] for part in streams.parts] == here
    assert [part.depth(score_stream("math"))["backlog"] for part in streams.parts] == [0, 0, 16]
    assert [len(part.redis.keys(part.run_key("blob:*"))) for part in streams.parts] == here
    items = [rollout_id(group, 0) for group in GROUPS]
    assert streams.blobs.get_many("rollout", items) == [b"tensor"] * 16
    assert streams.blobs.present("rollout", ["none", *items]) == [False, *[True] * 16]
    assert streams.blobs.get("rollout", items[3]) == b"tensor"
    assert not streams.blobs.put("rollout", items[3], b"again")
    heard = streams.read(RESULTS, "trainer", count=512, block_ms=100)
    assert sorted(delivery.payload.decode() for delivery in heard) == sorted(GROUPS)
    for delivery in heard:
        streams.complete(delivery, Outcome())
    assert streams.depth(RESULTS) == {"backlog": 0, "leased": 0}
    streams.blobs.delete("rollout", items)
    assert streams.blobs.present("rollout", items) == [False] * 16
    assert streams.purge() > 0
    assert held(streams) == [0, 0, 0]


def test_workers_take_from_every_server_and_answer_on_it(opens: Opens, run_id: str) -> None:
    streams = opens()
    streams.ensure(RESULTS)
    for group in GROUPS:
        streams.add(VERIFY, job(run_id, rollout_id(group, 0)), group)
    registry = CollectorRegistry()

    def submit(delivery: object) -> object:
        message = verifier_pb2.VerifyJob.FromString(delivery.payload)  # type: ignore[attr-defined]
        item = message.header.rollout_id
        return done(Outcome(blobs={("verdict", item): item.encode()}, announce=[(RESULTS, item.encode())]))

    give_up = announce_failure(verifier_pb2.VerifyJob, VERIFY)
    workers = StreamWorkers(streams, VERIFY, submit, give_up, consumer="w", registry=registry)
    workers.start()
    items = [rollout_id(group, 0) for group in GROUPS]
    eventually(lambda: all(streams.blobs.get_many("verdict", items)))
    assert len(workers.workers) == 2
    assert [consumer.name for consumer in streams.consumers(VERIFY)] == ["w"]
    eventually(lambda: registry.get_sample_value("rgopd_verify_messages_total", {"outcome": "done"}) == 16)
    workers.stop()
    assert {d.payload.decode() for d in streams.read(RESULTS, "t", count=99)} == set(items)
    assert streams.depth(VERIFY) == {"backlog": 0, "leased": 0}
    assert streams.consumers(VERIFY) == []


def test_a_teacher_of_its_own_stores_with_the_group_and_announces_where_it_reads(opens: Opens) -> None:
    streams = opens()
    stream, item = score_stream("math"), rollout_id(GROUPS[2], 0)
    streams.ensure(RESULTS)
    streams.add(stream, b"job", GROUPS[2])
    [part] = streams.parts_of(stream)
    [delivery] = part.read(stream, "teacher")
    part.complete(delivery, Outcome(blobs={("score", item): b"score"}, announce=[(RESULTS, b"done")]))
    assert streams.blobs.get("score", item) == b"score"
    assert [len(p.redis.keys(p.run_key("blob:*"))) for p in streams.parts][2] == 0
    [heard] = streams.read(RESULTS, "trainer")
    assert heard.server == 2
    streams.complete(heard, Outcome())


def test_a_lease_that_ran_out_is_taken_over_where_it_is(opens: Opens) -> None:
    streams = opens()
    streams.ensure(RESULTS)
    for group in GROUPS:
        streams.publish(Outcome(announce=[(RESULTS, group.encode())]), group)
    assert len(streams.read(RESULTS, "dies", count=99)) == 16
    time.sleep(0.35)
    again = streams.reclaim(RESULTS, "heir", count=99)
    assert {delivery.payload.decode() for delivery in again} == set(GROUPS)
    assert {delivery.server for delivery in again} == {0, 1}
    streams.dead_letter(again[0], "strange")
    streams.release(RESULTS, "heir", again[-1], "later")
    assert streams.last_reason(again[-1]) == "later"
    [letter] = streams.dead_letters()
    assert (letter.server, letter.reason) == (again[0].server, "strange")
    streams.replay(letter)
    assert streams.dead_letters() == []


def test_the_claim_is_on_every_server_and_a_server_that_came_back_empty_is_noticed(opens: Opens) -> None:
    streams = opens()
    streams.claim("me")
    assert streams.claims() == ["me"] * 3
    streams.parts[1].purge_here()
    assert streams.claims() == ["me", None, "me"]


def test_queues_and_sweeps_see_all_servers(opens: Opens, url: str, run_id: str) -> None:
    streams = opens()
    for group in GROUPS:
        streams.add(VERIFY, b"job", group)
    streams.add(score_stream("math"), b"job", GROUPS[0])
    for part in streams.parts_of(VERIFY):
        part.read(VERIFY, "w", count=2)
    assert stream_names(streams) == [score_stream("math"), VERIFY]
    found = {queue.stream: queue for queue in queues(streams)}
    assert (found[VERIFY].backlog, found[VERIFY].leased, found[VERIFY].consumers) == (16, 4, 1)
    text = StringIO()
    show(streams, Console(file=text, width=120))
    assert "score_math" in text.getvalue()
    servers = [part.redis for part in streams.parts]
    assert run_id in runs(*servers)
    time.sleep(0.02)
    assert run_id in dict(sweep(servers, lambda name: open_run(url, name), 0.01))
    assert held(streams) == [0, 0, 0]


def test_one_server_under_two_names_is_told_at_the_claim(valkeys: list[EmbeddedValkey], opens: Opens) -> None:
    one, two = valkeys[0].url, valkeys[1].url
    same = one.replace("127.0.0.1", "localhost")
    with pytest.raises(ConfigError, match="names one server twice, as number 0 and number 2"):
        opens(f"{one},{two},{same}").claim("me")
    with pytest.raises(
        ConfigError, match="redis_url names one server twice, as redis://127.0.0.1.*and redis://localhost"
    ):
        places.check_redis(f"{one},{same}")
    places.check_redis(f"{one},{two},math={valkeys[2].url}")
    places.check_redis(f"{one},{one.replace('/0', '/1')}")
    with pytest.raises(ConfigError, match="no Redis answers at redis://127.0.0.1:1/0 .*start one there"):
        places.check_redis(f"{one},redis://127.0.0.1:1/0")


def test_with_blobs_elsewhere_they_are_stored_first(opens: Opens, tmp_path: Path) -> None:
    streams = opens(blob_url=tmp_path.as_uri())
    streams.claim("me")
    assert streams.claims() == ["me"] * 4
    streams.publish(Outcome(blobs={("rollout", "r-n000"): b"x"}, announce=[(RESULTS, b"m")]), GROUPS[0])
    assert streams.blobs.get("rollout", "r-n000") == b"x"
    streams.purge()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_doctor_looks_at_each_and_at_their_order(
    valkeys: list[EmbeddedValkey], opens: Opens, url: str, run_id: str
) -> None:
    assert check_redis(url).count("streams work") == 3
    opens().claim("me")

    def redis_checks(at: str) -> list[str]:
        answers = []
        for name, check in cluster_checks(ClusterSettings(redis_url=at, run_id=run_id), []):
            if name == "redis":
                try:
                    answers.append(check())
                except Failed as failed:
                    answers.append(str(failed))
        return answers

    assert all("append-only file on" in answer for answer in redis_checks(url))
    turned = f"{valkeys[1].url},{valkeys[0].url},math={valkeys[2].url}"
    assert sum("same servers in the same order" in answer for answer in redis_checks(turned)) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("math=redis://a", "servers of teachers alone"),
        ("redis://a,redis://a", "names a server twice"),
        ("redis://a,m=redis://b,m=redis://c", "two servers for teacher 'm'"),
        (" , ", "servers of teachers alone"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        server_urls(text)


def test_one_server_is_as_ever(valkeys: list[EmbeddedValkey], opens: Opens) -> None:
    assert type(opens(valkeys[0].url)) is Streams
    assert server_urls("redis://:p@a/0, math=redis://b") == (["redis://:p@a/0"], {"math": "redis://b"})
    assert redact("redis://:p@a/0,math=redis://u:q@b/0") == "redis://***@a/0,math=redis://***@b/0"
    assert GENERATE not in stream_names(opens(valkeys[0].url))
