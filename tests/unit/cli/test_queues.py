from __future__ import annotations

import time
from io import StringIO
from pathlib import Path

import pytest
from redis import Redis
from rich.console import Console
from typer.testing import CliRunner

from rgopd.cli.main import app
from rgopd.cli.queues import chosen_letters, show, sweep
from rgopd.common.deliveries import Outcome
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.errors import InvalidInput
from rgopd.common.queues import idle_s, queues, runs
from rgopd.common.streams import Streams


def test_depth_leases_age_and_attempts_are_shown(streams: Streams) -> None:
    streams.ensure("verify")
    for payload in (b"1", b"2", b"3"):
        streams.add("verify", payload)
    [first, _] = streams.read("verify", "a", count=2, block_ms=1)
    streams.release("verify", "a", first, "the sandbox was full")
    streams.reclaim("verify", "b", count=1)
    time.sleep(0.05)
    [queue] = queues(streams)
    assert (queue.stream, queue.backlog, queue.leased, queue.attempts, queue.consumers) == ("verify", 3, 2, 2, 2)
    assert 0.05 <= queue.oldest_s < 30


def test_dead_letters_are_listed_replayed_and_dropped(streams: Streams, valkey: EmbeddedValkey) -> None:
    streams.ensure("verify")
    for payload in (b"1", b"2"):
        streams.add("verify", payload)
    for delivery in streams.read("verify", "a", count=2, block_ms=1):
        streams.dead_letter(delivery, "unknown kind 'poem'")
    out = StringIO()
    show(streams, Console(file=out, width=200))
    assert "unknown kind 'poem'" in out.getvalue()
    first, second = streams.dead_letters()
    arguments = ["queues", "--redis-url", valkey.url, "--run", streams.run_id]
    assert CliRunner().invoke(app, [*arguments, "--replay", first.id]).exit_code == 0
    assert CliRunner().invoke(app, [*arguments, "--drop", second.id]).exit_code == 0
    assert streams.dead_letters() == []
    [again] = streams.read("verify", "b", count=5, block_ms=1)
    assert (again.payload, again.attempt) == (b"1", 1)
    with pytest.raises(InvalidInput, match="no dead letter 'all'"):
        chosen_letters(streams, "all")


def test_only_dead_runs_are_swept(tmp_path: Path, run_id: str) -> None:
    server = EmbeddedValkey(tmp_path).start()  # of its own: a sweep is over all runs of a server
    redis = Redis.from_url(server.url)
    dead, alive = Streams(redis, f"{run_id}-dead"), Streams(redis, f"{run_id}-alive")
    for streams in (dead, alive):
        streams.ensure("verify")
        streams.add("verify", b"x")
        streams.read("verify", "worker", block_ms=1)
        streams.publish(Outcome(blobs={("rollout", "r0"): b"tensor"}))
    assert {dead.run_id, alive.run_id} <= set(runs(redis))
    time.sleep(2.0)
    alive.read("verify", "worker", block_ms=1)
    idle = idle_s(dead)
    assert idle is not None
    assert idle >= 2.0
    swept = dict(sweep([redis], lambda name: Streams(redis, name), 1.9))
    assert swept[dead.run_id] >= 2
    assert alive.run_id not in swept
    assert dead.blobs.get("rollout", "r0") is None
    assert alive.blobs.get("rollout", "r0") == b"tensor"
    redis.close()
    server.stop()


def test_a_sweep_reaches_the_blob_store(redis: Redis, run_id: str, tmp_path: Path) -> None:
    from rgopd.common.blob_url import open_blobs

    dead = Streams(redis, run_id, blobs=open_blobs(tmp_path.as_uri(), run_id, redis))
    dead.ensure("verify")
    dead.read("verify", "w", block_ms=1)
    dead.publish(Outcome(blobs={("rollout", "r0"): b"tensor"}))
    time.sleep(0.05)

    def opened(name: str) -> Streams:
        return Streams(redis, name, blobs=open_blobs(tmp_path.as_uri(), name, redis))

    assert run_id in dict(sweep([redis], opened, 0.01))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
