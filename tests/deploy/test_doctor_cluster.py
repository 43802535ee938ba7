"""`rgopd doctor --cluster` against a real server, real workers and a real HTTP service."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from redis import Redis

from rgopd.cli.checks import Failed, report_checks
from rgopd.cli.cluster import ClusterSettings, cluster_checks
from rgopd.common.blob_url import open_blobs
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.errors import ConfigError
from rgopd.common.http import ServiceState, create_app
from rgopd.common.streams import GENERATE, SCORE, VERIFY, Streams


@pytest.fixture
def url() -> Iterator[tuple[str, ServiceState]]:
    """A service's shell on a free port, ready."""
    state = ServiceState(ready=True, info={"service": "teacher", "model": "m", "revision": "1"})
    config = uvicorn.Config(create_app("t", state, CollectorRegistry(), token="t0ken"), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", state
    server.should_exit = True
    thread.join()


def run(valkey: EmbeddedValkey, run_id: str, *urls: str, token: str = "t0ken") -> dict[str, str]:
    """Each check's answer, failures with their text."""
    answers = {}
    settings = ClusterSettings(redis_url=valkey.url, run_id=run_id, token=token)
    for name, check in cluster_checks(settings, urls):
        try:
            answers[name] = check()
        except Exception as error:  # noqa: BLE001 - the text is what is tested
            answers[name] = f"FAIL {error}"
    return answers


def readers(streams: Streams) -> None:
    """A worker that asks once each."""
    for stream in (GENERATE, VERIFY, SCORE):
        streams.ensure(stream)
        streams.read(stream, f"{stream}-worker", block_ms=1)


def test_a_healthy_deployment_passes(
    valkey: EmbeddedValkey, streams: Streams, run_id: str, url: tuple[str, ServiceState]
) -> None:
    readers(streams)
    answers = run(valkey, run_id, f"teacher={url[0]}")
    assert not [a for a in answers.values() if a.startswith("FAIL")], answers
    assert "append-only file on" in answers["redis"]
    assert answers["stream verify"].startswith("1 workers")
    assert answers["teacher"] == "1 addresses ready, m"


def test_a_stream_that_nobody_reads_is_named(valkey: EmbeddedValkey, streams: Streams, run_id: str) -> None:
    streams.ensure(VERIFY)
    streams.add(VERIFY, b"x")
    answers = run(valkey, run_id)
    assert "FAIL nobody reads it (1 messages wait)" in answers["stream verify"]


def test_streams_of_named_teachers_are_looked_at(valkey: EmbeddedValkey, streams: Streams, run_id: str) -> None:
    streams.ensure(SCORE)
    streams.ensure("score_math")
    answers = run(valkey, run_id)
    assert "stream score" not in answers, "no prompt asks the default teacher"
    assert answers["stream score_math"].startswith("FAIL nobody reads it")
    streams.add(SCORE, b"x")
    assert run(valkey, run_id)["stream score"].startswith("FAIL nobody reads it")


def test_dead_letters_tell_their_reason(valkey: EmbeddedValkey, streams: Streams, run_id: str) -> None:
    readers(streams)
    streams.add(SCORE, b"x")
    [delivery] = streams.read(SCORE, "w")
    streams.dead_letter(delivery, "the model has 102 ids")
    assert "'score': the model has 102 ids" in run(valkey, run_id)["dead letters"]


def test_a_server_that_forgets_or_evicts_is_refused(valkey: EmbeddedValkey, redis: Redis, run_id: str) -> None:
    for key, bad, good, word in (
        ("appendonly", "no", "yes", "no append-only file"),
        ("maxmemory-policy", "allkeys-lru", "noeviction", "would drop tensors"),
    ):
        redis.config_set(key, bad)
        try:
            assert word in run(valkey, run_id)["redis"]
        finally:
            redis.config_set(key, good)


def test_a_service_that_is_not_ready_or_refuses_the_token_fails(
    valkey: EmbeddedValkey, run_id: str, url: tuple[str, ServiceState]
) -> None:
    assert "401" in run(valkey, run_id, f"teacher={url[0]}", token="wrong")["teacher"]
    url[1].ready, url[1].reason = False, "the model is loading"
    assert "the model is loading" in run(valkey, run_id, f"teacher={url[0]}")["teacher"]
    assert "does not answer" in run(valkey, run_id, "teacher=http://127.0.0.1:9")["teacher"]


def test_bad_arguments_say_what_to_write(valkey: EmbeddedValkey, run_id: str) -> None:
    with pytest.raises(ConfigError, match="name=http://host:port"):
        list(cluster_checks(ClusterSettings(redis_url=valkey.url, run_id=run_id), ["teacher"]))
    with pytest.raises(ConfigError, match="RGOPD_REDIS_URL"):
        list(cluster_checks(ClusterSettings(run_id=run_id), []))


def test_the_exit_code_tells(valkey: EmbeddedValkey, streams: Streams, run_id: str) -> None:
    settings = ClusterSettings(redis_url=valkey.url, run_id=run_id)
    assert report_checks(cluster_checks(settings, [])) == 1
    readers(streams)
    assert report_checks(cluster_checks(settings, [])) == 0


def test_a_store_that_is_not_the_trainers_is_told(valkey: EmbeddedValkey, run_id: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    redis = Redis.from_url(valkey.url)
    Streams(redis, run_id, blobs=open_blobs(here.as_uri(), run_id, redis)).claim("token")
    redis.close()
    for folder, says in ((here, "write, read, list and delete"), (there, "not the store that the trainer writes to")):
        settings = ClusterSettings(redis_url=valkey.url, run_id=run_id, blob_url=folder.as_uri())
        check = dict(cluster_checks(settings, []))["blobs"]
        if folder == here:
            assert says in check()
        else:
            with pytest.raises(Failed, match=says):
                check()
