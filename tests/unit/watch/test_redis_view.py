from __future__ import annotations

import json
import time
from pathlib import Path

import yaml

from rgopd.common.embedded import EmbeddedValkey, free_port
from rgopd.common.streams import Streams
from rgopd.watch.redis_view import RedisView


def folder_of(tmp_path: Path, url: str, run_id: str, instance: str = "one") -> Path:
    (tmp_path / "up.yaml").write_text(yaml.safe_dump({"common": {"redis_url": url, "run_id": run_id}}))
    (tmp_path / "run.json").write_text(json.dumps({"instance": instance, "run_id": run_id}))
    return tmp_path


def test_queues_leases_workers_and_dead_letters(streams: Streams, valkey: EmbeddedValkey, tmp_path: Path) -> None:
    streams.redis.set(streams.run_key("claim"), "one:abc")
    streams.ensure("verify")
    for payload in (b"1", b"2", b"3"):
        streams.add("verify", payload)
    first, second = streams.read("verify", "worker-a", count=2, block_ms=1)
    streams.dead_letter(first, "unknown kind '<b>poem</b>'")
    streams.release("verify", "worker-a", second, "the sandbox was full")
    view = RedisView(folder_of(tmp_path, valkey.url, streams.run_id))
    keys = set(streams.redis.scan_iter(match=streams.run_key("*")))
    found = view.read()
    assert found["trouble"] == ""
    [queue] = found["queues"]
    assert (queue["stream"], queue["backlog"], queue["leased"]) == ("verify", 2, 1)
    [worker] = found["workers"]
    assert (worker["name"], worker["alive"]) == ("worker-a", True)
    [lease] = found["leases"]
    assert (lease["holder"], lease["deliveries"], lease["reason"]) == ("worker-a", 1, "the sandbox was full")
    assert [letter["reason"] for letter in found["dead"]] == ["unknown kind '<b>poem</b>'"]
    assert found["dead_count"] == 1
    json.dumps(found)
    assert set(streams.redis.scan_iter(match=streams.run_key("*"))) == keys, "looking changes nothing"
    view.close()


def test_another_run_of_the_same_name_is_not_believed(streams: Streams, valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """A folder mounted from elsewhere names a loopback address that is somebody else's here."""
    streams.redis.set(streams.run_key("claim"), "another:abc")
    found = RedisView(folder_of(tmp_path, valkey.url, streams.run_id)).read()
    assert "another run" in found["trouble"]
    assert "queues" not in found


def test_no_server_is_told_at_once_and_the_password_is_not(tmp_path: Path) -> None:
    view = RedisView(folder_of(tmp_path, f"redis://user:hidden@127.0.0.1:{free_port()}/0", "r"))
    started = time.monotonic()
    answers = [view.read() for _ in range(5)]
    assert time.monotonic() - started < 10, "one that is tried again and again takes seven seconds each"
    assert all("no answer" in answer["trouble"] for answer in answers)
    assert "hidden" not in json.dumps(answers)
    assert "names no Redis" in RedisView(tmp_path / "absent").read()["trouble"]
