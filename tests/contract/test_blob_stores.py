"""One contract for every blob store, and what each kind of trouble does to it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from rgopd.common.blob_url import open_blobs, open_store
from rgopd.common.blobs import Blobs, RedisBlobs
from rgopd.common.deliveries import Outcome
from rgopd.common.embedded import free_port
from rgopd.common.errors import ConfigError, StoreDown, TooLarge, Unavailable
from rgopd.common.stores import StoredBlobs, frame, unframe
from rgopd.common.streams import Streams
from tests.object_server import ObjectServer

OUTSIDE = ("own-redis", "file", "s3")
KINDS = ("redis", *OUTSIDE)

Open = Callable[..., Blobs]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path, run_id: str) -> str:
    """The store's blob_url."""
    if kind == "s3":
        request.getfixturevalue("s3_keys")
        return str(request.getfixturevalue("object_server").url(run_id))
    if kind == "file":
        return tmp_path.as_uri()
    return "" if kind == "redis" else str(request.getfixturevalue("valkey").url).rpartition("/")[0] + "/1"


@pytest.fixture
def open_(url: str, redis: Redis, run_id: str) -> Iterator[Open]:
    opened = []

    def opens(run: str = run_id, **options: int) -> Blobs:
        blobs = open_blobs(url, run, redis, **options)
        opened.append(blobs)
        return blobs

    yield opens
    for blobs in opened:
        if isinstance(blobs, RedisBlobs) and blobs.redis is not redis:
            blobs.redis.close()


def test_what_is_put_comes_back_and_the_first_write_wins(open_: Open) -> None:
    blobs, twin = open_(), open_()
    data = os.urandom(300_000)
    assert blobs.check()
    assert blobs.get("rollout", "r0") is None
    assert blobs.put("rollout", "r0", data)
    assert not twin.put("rollout", "r0", b"another")
    assert twin.get("rollout", "r0") == data
    assert blobs.put("verdict", "r0", b"")  # the stages do not meet; nothing is something
    assert twin.get("verdict", "r0") == b""


def test_many_come_in_their_order_and_what_is_not_there_is_none(open_: Open) -> None:
    blobs = open_()
    ids = [f"s000001-{i:04d}/ä {i}" for i in range(40)]  # names of any kind
    for item in ids[::2]:
        blobs.put("rollout", item, item.encode())
    expected = [item.encode() if n % 2 == 0 else None for n, item in enumerate(ids)]
    assert blobs.get_many("rollout", ids) == expected
    assert blobs.present("rollout", ids) == [e is not None for e in expected]
    assert blobs.present("rollout", ids[:3]) == [True, False, True]
    assert blobs.present("score", ids) == [False] * 40
    assert blobs.get_many("rollout", []) == []
    assert blobs.present("rollout", []) == []


def test_what_is_deleted_may_be_written_again(open_: Open) -> None:
    blobs = open_()
    blobs.put("rollout", "r0", b"one")
    blobs.put("rollout", "r1", b"stays")
    blobs.delete("rollout", ["r0", "never was"])
    blobs.delete("rollout", [])
    assert blobs.get_many("rollout", ["r0", "r1"]) == [None, b"stays"]
    assert blobs.put("rollout", "r0", b"two")
    assert blobs.get("rollout", "r0") == b"two"


def test_a_run_is_purged_alone(open_: Open, run_id: str) -> None:
    mine, other = open_(), open_(f"{run_id}-other")
    for item in range(30):
        mine.put("rollout", str(item), b"x")
    other.put("rollout", "0", b"y")
    assert mine.purge() == 30
    assert mine.present("rollout", [str(i) for i in range(30)]) == [False] * 30
    assert other.get("rollout", "0") == b"y"
    assert mine.put("rollout", "0", b"again")


def test_of_many_writers_at_once_one_wins(open_: Open) -> None:
    blobs = open_()
    won: list[bytes] = []

    def write(data: bytes) -> None:
        if blobs.put("rollout", "r", data):
            won.append(data)

    writers = [threading.Thread(target=write, args=(bytes([n]) * 1000,)) for n in range(12)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [blobs.get("rollout", "r")] == won


def test_too_large_a_blob_is_refused(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgopd.common.blobs.MAX_BLOB_BYTES", 3)
    with pytest.raises(TooLarge):
        open_().put("rollout", "r", b"four")


def test_who_owns_the_blobs_of_a_run_is_written_there(open_: Open) -> None:
    blobs = open_()
    assert blobs.owner() is None
    blobs.own("first")
    blobs.own("second")
    assert open_().owner() == "second"
    blobs.purge()
    assert blobs.owner() is None


@pytest.mark.parametrize("kind", ["file", "s3"], indirect=True)
def test_what_is_old_is_swept_whosever_it_was_and_owners_stay(open_: Open, run_id: str) -> None:
    dead = open_(f"{run_id}-dead")
    dead.put("rollout", "r", b"x")
    dead.own("somebody")
    young = open_()
    young.put("rollout", "r", b"x")
    assert young.expire() == 0
    assert young.expire() == 0  # not again so soon
    time.sleep(2.1)  # S3 tells times in whole seconds
    later = open_(ttl_s=1)
    assert later.expire() == 2
    assert dead.get("rollout", "r") is None
    assert dead.owner() == "somebody"


def test_a_result_is_stored_before_anybody_hears_of_it(open_: Open, redis: Redis, run_id: str) -> None:
    streams = Streams(redis, run_id, lease_ms=300, blobs=open_())
    streams.add("verify", b"job")
    [delivery] = streams.read("verify", "a")
    outcome = Outcome(blobs={("verdict", "r1"): b"passed"}, announce=[("results", b"r1 done")])
    heard: list[bytes | None] = []
    listener = threading.Thread(
        target=lambda: [heard.append(streams.blobs.get("verdict", "r1")) for _ in streams.read("results", "t")]
    )
    listener.start()
    streams.complete(delivery, outcome)
    listener.join()
    assert heard == [b"passed"]
    assert streams.depth("verify") == {"backlog": 0, "leased": 0}


@pytest.mark.parametrize("kind", OUTSIDE, indirect=True)
def test_a_holder_that_dies_between_storing_and_acknowledging_costs_nothing(
    open_: Open, redis: Redis, run_id: str
) -> None:
    streams = Streams(redis, run_id, lease_ms=100, blobs=open_())
    streams.add("verify", b"job")
    [delivery] = streams.read("verify", "first")
    streams._store_outside(Outcome(blobs={("verdict", "r"): b"first"}))  # and then it is killed
    time.sleep(0.15)
    [again] = streams.reclaim("verify", "second")
    assert again.id == delivery.id
    streams.complete(again, Outcome(blobs={("verdict", "r"): b"twin"}))
    assert streams.blobs.get("verdict", "r") == b"first"
    assert streams.depth("verify")["backlog"] == 0


@pytest.mark.parametrize("kind", OUTSIDE, indirect=True)
def test_a_purged_run_leaves_nothing_in_any_store(open_: Open, redis: Redis, run_id: str) -> None:
    streams = Streams(redis, run_id, blobs=open_())
    streams.claim("me")
    assert streams.claims() == ["me", "me"]
    streams.publish(Outcome(blobs={("verdict", "r"): b"x"}, announce=[("results", b"m")]))
    streams.purge()
    assert streams.claims() == [None, None]
    assert streams.blobs.get("verdict", "r") is None
    assert not redis.keys(f"rgopd:{{{run_id}}}:*")


# -- damage -----------------------------------------------------------------------------------------------------------


def overwrite(blobs: Blobs, item: str, framed: bytes) -> None:
    assert isinstance(blobs, StoredBlobs)
    blobs.store.replace(blobs.name("rollout", item), framed)


@pytest.mark.parametrize("kind", ["file", "s3"], indirect=True)
@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "longer", "strange"])
def test_a_damaged_blob_is_none_and_is_made_again(
    open_: Open, how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rgopd.common.file_store.LAG_S", 0.2)
    blobs, data = open_(), os.urandom(5000)
    whole = frame(data)
    flipped = bytearray(whole)
    flipped[2000] ^= 1
    broken = {"cut": whole[:-1], "flipped": bytes(flipped), "empty": b"", "longer": whole + b"x", "strange": data}
    blobs.put("rollout", "r", data)
    overwrite(blobs, "r", broken[how])
    with caplog.at_level(logging.WARNING):
        assert blobs.get("rollout", "r") is None
    assert "damaged" in caplog.text
    assert blobs.put("rollout", "r", data)  # its name is free again
    assert blobs.get("rollout", "r") == data


def test_a_frame_is_itself_or_nothing() -> None:
    for data in (b"", b"x", os.urandom(10_000)):
        assert unframe(frame(data)) == data
        assert unframe(frame(data)[:-1]) is None


@pytest.mark.parametrize("kind", ["file"], indirect=True)
def test_a_blob_that_is_late_is_waited_for_where_it_was_announced(open_: Open) -> None:
    blobs, writer = open_(), open_()
    late = threading.Timer(0.4, lambda: writer.put("rollout", "r", b"late"))
    assert blobs.get("rollout", "r") is None  # nobody said that it is there
    late.start()
    assert blobs.get_many("rollout", ["r"], announced=True) == [b"late"]
    late.join()


# -- away -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file"], indirect=True)
def test_a_file_system_that_is_away_is_waited_for(open_: Open, tmp_path: Path) -> None:
    blobs = open_()
    blobs.put("rollout", "r", b"x")
    away = tmp_path.with_name("away")
    tmp_path.rename(away)
    back = threading.Timer(0.4, lambda: away.rename(tmp_path))
    back.start()
    assert blobs.get("rollout", "r") == b"x"
    assert blobs.put("rollout", "r2", b"y")
    back.join()
    tmp_path.rename(away)
    blobs.hurry()
    for call in (
        lambda: blobs.put("rollout", "r3", b"z"),
        lambda: blobs.get("rollout", "r"),  # "not there" would be a lie
        lambda: blobs.present("rollout", ["r"]),
        lambda: blobs.present("rollout", [str(i) for i in range(40)]),
    ):
        with pytest.raises(StoreDown, match="is the file system mounted"):
            call()
    assert not tmp_path.exists(), "a missing mount must not become a local folder"
    away.rename(tmp_path)


def test_an_object_store_that_is_away_is_waited_for(tmp_path: Path, s3_keys: None, redis: Redis, run_id: str) -> None:
    server = ObjectServer(tmp_path / "log")
    patient = open_blobs(server.url(), run_id, redis, patience_s=60)
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        assert patient.put("rollout", "r", b"x")  # it has no bucket for a moment, either
        assert patient.check()
    finally:
        starting.join()
        server.stop()
    patient.hurry()
    with pytest.raises(StoreDown, match="away"):
        patient.get("rollout", "r")


@pytest.mark.parametrize("kind", ["file", "s3"], indirect=True)
def test_a_finished_result_is_kept_until_the_store_is_back(
    open_: Open, redis: Redis, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.unit.common.test_worker import done, work

    blobs = open_(patience_s=0)
    assert isinstance(blobs, StoredBlobs)
    real, lease_s = blobs.store.create, 1.0
    until = time.monotonic() + 2 * lease_s

    def away(name: str, data: bytes) -> bool:
        from rgopd.common.stores import StoreTrouble

        if time.monotonic() < until:
            raise StoreTrouble("it is away")
        return real(name, data)

    monkeypatch.setattr(blobs.store, "create", away)
    streams = Streams(redis, run_id, lease_ms=int(1000 * lease_s), blobs=blobs)
    streams.add("verify", b"r0")
    made: list[bytes] = []

    def submit(delivery: object) -> object:
        made.append(b"once")
        return done(Outcome(blobs={("verdict", "r0"): b"ok"}))

    work(streams, submit, until=lambda: streams.blobs.get("verdict", "r0"))
    assert made == [b"once"]
    assert not streams.dead_letters()


# -- set wrongly ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://somewhere", "cannot be read"),
        ("/shared/blobs", "cannot be read"),
        ("file://shared/blobs", "file:///its/absolute/path"),
        ("file:///", "file:///its/absolute/path"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/x", r"\*\*\*@.*secrets do not belong in the URL"),
        ("s3://bucket?endpont=http://h", "did you mean.*endpoint"),
        ("s3://bucket?endpoint=host:9000", "with its scheme"),
        ("s3://bucket?addressing=host", "path or virtual"),
    ],
)
def test_a_url_that_cannot_be_read_says_how_to_write_it(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_store(url)
    assert "secret@" not in str(caught.value)
    assert "\n" not in str(caught.value)


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path: Path, redis: Redis, run_id: str) -> None:
    with pytest.raises(ConfigError, match="mount it on every machine"):
        open_blobs((tmp_path / "none").as_uri(), run_id, redis).check()


@pytest.mark.skipif(os.getuid() != 0, reason="drops root's rights")
def test_a_folder_that_may_not_be_written_is_told_at_once(tmp_path: Path, redis: Redis, run_id: str) -> None:
    tmp_path.chmod(0o555)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == 0 and "pytest" in str(folder):
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="Permission denied") as caught:
            open_blobs(tmp_path.as_uri(), run_id, redis).check()
    finally:
        os.seteuid(0)
    one_line(caught)


def test_a_bucket_that_is_not_there_is_told_at_once(
    object_server: ObjectServer, s3_keys: None, redis: Redis, run_id: str
) -> None:
    with pytest.raises(ConfigError, match="no such bucket") as caught:
        open_blobs(f"s3://no-such?endpoint={object_server.endpoint}", run_id, redis).check()
    one_line(caught)


def test_an_object_store_that_does_not_answer_is_told(s3_keys: None, redis: Redis, run_id: str) -> None:
    blobs = open_blobs(f"s3://bucket?endpoint=http://127.0.0.1:{free_port()}", run_id, redis)
    with pytest.raises(Unavailable, match="no blob store answers at s3://bucket") as caught:
        blobs.check(wait_s=0.1)
    one_line(caught)


def test_missing_and_wrong_credentials_are_told_in_one_line(
    tmp_path: Path, redis: Redis, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    server = ObjectServer(tmp_path / "log").start()
    try:
        # From now on the server asks IAM who calls; it knows nobody.
        httpx.post(f"{server.endpoint}/moto-api/reset-auth", content=b"0")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        with pytest.raises(ConfigError, match="refuses these credentials.*AWS_ACCESS_KEY_ID") as caught:
            open_blobs(server.url(), run_id, redis).check()
        assert "secret" not in one_line(caught).replace("AWS_SECRET_ACCESS_KEY", "")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")  # this machine has no role
        with pytest.raises(ConfigError, match="there are none.*AWS_ACCESS_KEY_ID") as caught:
            open_blobs(server.url(), run_id, redis).check()
        one_line(caught)
    finally:
        server.stop()


def test_a_store_that_overwrites_is_refused(tmp_path: Path, redis: Redis, run_id: str) -> None:
    blobs = open_blobs(tmp_path.as_uri(), run_id, redis)
    assert isinstance(blobs, StoredBlobs)

    def overwrites(name: str, data: bytes) -> bool:
        blobs.store.replace(name, data)
        return True

    blobs.store.create = overwrites  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="conditional writes are needed"):
        blobs.check()
    assert not list(tmp_path.rglob("*.part"))


def test_folders_take_the_roots_mode(tmp_path: Path, redis: Redis, run_id: str) -> None:
    tmp_path.chmod(0o2770)
    blobs = open_blobs(tmp_path.as_uri(), run_id, redis)
    blobs.put("rollout", "r", b"x")
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert len(made) == 3
    assert {path.stat().st_mode & 0o7777 for path in made} == {0o2770}
    blobs.purge()
    assert not [path for path in tmp_path.rglob("*") if path.name != "rgopd"]
