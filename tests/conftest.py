"""Fixtures that are real: a Valkey process shared by the session, and a run of its own for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from redis import Redis

from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.streams import Streams
from tests.chaos.cast import Nursery
from tests.object_server import CREDENTIALS, ObjectServer

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is first decorated, by whichever test

# The same examples every time, and none too slow: what fails, fails for its own sake. `--hypothesis-profile=explore`
# draws others.
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.stop()


@pytest.fixture
def redis(valkey: EmbeddedValkey) -> Iterator[Redis]:
    client = Redis.from_url(valkey.url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Where a test's processes are born by fork, with torch imported already."""
    nursery = Nursery(Path(__file__).parents[1])
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    server = ObjectServer(tmp_path_factory.mktemp("s3") / "log").start()
    yield server
    server.stop()


@pytest.fixture
def s3_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in CREDENTIALS.items():
        monkeypatch.setenv(key, value)


@pytest.fixture
def run_id() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def streams(redis: Redis, run_id: str) -> Streams:
    """A run of its own with short leases."""
    return Streams(redis, run_id, lease_ms=300, max_attempts=3)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parent.parent
