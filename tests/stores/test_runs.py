"""Where the blobs lie leaves no trace in a run: not in its numbers, and nothing in the store."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from redis import Redis

from rgopd.common.embedded import EmbeddedValkey
from tests.chaos import disturbed
from tests.chaos.cast import Cast, Nursery, Result, result
from tests.chaos.faults import Fault
from tests.object_server import ObjectServer

STEPS = 6
TRAIN = {"max_staleness": 1}

FAULTS = [
    Fault(0.05, "store-damage", "", 0, step=1),
    Fault(0.0, "kill", "sampler-0", 0, step=1),
    Fault(0.05, "store-vanish", "", 0, step=2),
    Fault(0.0, "store-away", "", 1.5, step=2),
    Fault(0.1, "kill", "rank-0", 0, step=3),
    Fault(0.05, "empty", "", 0, step=4),
]


@pytest.fixture(scope="module")
def expected(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The run with everything in its Redis."""
    return play(nursery, tmp_path_factory.mktemp("redis"))


def play(nursery: Nursery, folder: Path, blob_url: str = "", faults: list[Fault] | None = None) -> Result:
    common = {"blob_url": blob_url} if blob_url else {}
    cast = Cast(nursery, folder / "run", steps=STEPS, train=TRAIN, common=common)
    assert disturbed.play(cast, faults or []) == (faults or []), "the run was over before all of its faults had struck"
    return result(cast.folder)


def left(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if path.is_file()]


@pytest.mark.timeout(400)
def test_blobs_on_a_file_system(nursery: Nursery, expected: Result, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    assert play(nursery, tmp_path, store.as_uri()) == expected
    assert not left(store)


@pytest.mark.timeout(400)
def test_blobs_in_an_object_store(
    nursery: Nursery, expected: Result, tmp_path: Path, object_server: ObjectServer
) -> None:
    assert play(nursery, tmp_path, object_server.url("runs/a")) == expected
    assert not object_server.names()


@pytest.mark.timeout(400)
def test_a_store_that_loses_tears_and_goes_away(nursery: Nursery, expected: Result, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    assert play(nursery, tmp_path, store.as_uri(), FAULTS) == expected
    assert not left(store)


@pytest.mark.timeout(400)
def test_an_object_store_that_comes_back_empty(nursery: Nursery, expected: Result, tmp_path: Path) -> None:
    server = ObjectServer(tmp_path / "log").start()
    cast = Cast(nursery, tmp_path / "run", steps=STEPS, train=TRAIN, common={"blob_url": server.url()})
    try:
        cast.start()
        cast.wait_for(lambda: cast.tend() or cast.steps_done() >= 2, 120, "no second step")
        server.stop()
        server.start()
        cast.run(240)
    finally:
        cast.close()
        server.stop()
    assert result(cast.folder) == expected


@pytest.mark.timeout(400)
def test_streams_and_blobs_on_two_servers(nursery: Nursery, expected: Result, tmp_path: Path) -> None:
    second = EmbeddedValkey(tmp_path / "second").start()
    cast = Cast(nursery, tmp_path / "run", steps=STEPS, train=TRAIN)
    cast.common = {"redis_url": f"{cast.proxy.url},{second.url}"}
    cast.write_config()
    peak = 0
    try:
        cast.start()
        while not cast.tend():
            peak = max(peak, len(second_keys(second)))
            time.sleep(0.05)
    finally:
        cast.close()
        second.stop()
    assert result(cast.folder) == expected
    assert peak > 10, "the second server held nothing"


@pytest.mark.timeout(400)
def test_of_two_servers_one_is_away_and_comes_back_empty(nursery: Nursery, expected: Result, tmp_path: Path) -> None:
    second = EmbeddedValkey(tmp_path / "second").start()
    cast = Cast(nursery, tmp_path / "run", steps=STEPS, train=TRAIN)
    cast.common = {"redis_url": f"{cast.proxy.url},{second.url}"}
    cast.write_config()
    try:
        cast.start()
        cast.wait_for(lambda: cast.tend() or cast.steps_done() >= 2, 120, "no second step")
        assert second.process is not None
        second.process.kill()
        second.process.wait()
        shutil.rmtree(second.data_dir / "appendonlydir")
        time.sleep(1.0)
        second.start()
        cast.run(240)
    finally:
        cast.close()
        second.stop()
    assert result(cast.folder) == expected


def second_keys(server: EmbeddedValkey) -> list[bytes]:
    client = Redis.from_url(server.url)
    try:
        return list(client.keys("rgopd:*"))
    finally:
        client.close()
