"""Slots whose zygote is lost, and a service that is out of descriptors: errors that pass, not verdicts."""

from __future__ import annotations

import gc
import itertools
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rgopd.verifier.sandbox import scratch
from rgopd.verifier.sandbox.ladder import choose_rung
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.sandbox.pool import Command, SandboxError, SandboxPool, SandboxSettings

WORKS = Command("main", Limits(), {"program": "print(6 * 7)"})


@pytest.fixture(scope="module")
def settings() -> SandboxSettings:
    rung, _ = choose_rung("auto", lambda rung: SandboxSettings(rung=rung))
    return SandboxSettings(rung=rung)


@pytest.fixture
def pool(settings: SandboxSettings) -> Iterator[SandboxPool]:
    pool = SandboxPool(1, settings)
    yield pool
    pool.close()


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Only so many more can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir("/proc/self/fd")))
    free = (number for number in range(1 << 16) if number not in used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, count, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_killed_zygote_is_replaced_within_the_check(pool: SandboxPool) -> None:
    with pool.lease() as slot:
        assert slot.process is not None
        os.kill(slot.process.pid, signal.SIGKILL)
    assert pool.run(WORKS).stdout == b"42\n"


@pytest.mark.parametrize("count", [0, 2, 4, 6])
def test_out_of_descriptors_is_an_error_and_passes(pool: SandboxPool, count: int) -> None:
    assert pool.run(WORKS).code == 0
    gc.collect()  # what earlier tests left open
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with descriptors_left(count), pytest.raises(SandboxError):
            pool.run(WORKS)
    assert pool.run(WORKS).stdout == b"42\n"
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_slot_that_cannot_start_says_so_and_is_tried_again(settings: SandboxSettings) -> None:
    pool = SandboxPool(1, settings)
    try:
        with pool.lease() as slot:
            slot.close()
            slot.settings = SandboxSettings(rung=settings.rung, python="/no/such/python")
        for _ in range(2):
            with pytest.raises(SandboxError, match="cannot be started"):
                pool.run(WORKS)
        slot.settings = settings
        assert pool.run(WORKS).stdout == b"42\n"
    finally:
        pool.close()


@pytest.mark.parametrize("rung", [1, 3])
@pytest.mark.parametrize("depth", [40, 1500])
def test_folders_nested_beyond_any_path_are_removed(rung: int, depth: int) -> None:
    nest = f"import os\nn = 'd' * 250\nfor _ in range({depth}):\n    os.mkdir(n)\n    os.chdir(n)\nos.chmod('.', 0)"
    pool = SandboxPool(1, SandboxSettings(rung=rung))
    try:
        with pool.lease() as slot:
            folder = slot.scratch
            slot.run(Command("main", Limits(), {"program": nest}))
        assert not folder or os.listdir(folder) == []
        assert pool.run(WORKS).stdout == b"42\n"
    finally:
        pool.close()
    assert not folder or not os.path.exists(folder)


def test_a_slot_that_cannot_be_started_does_not_take_the_others_work(settings: SandboxSettings) -> None:
    pool = SandboxPool(2, settings)
    try:
        with pool.lease() as broken:
            pass
        broken.close()
        broken.start = lambda: (_ for _ in ()).throw(SandboxError("no luck"))  # type: ignore[method-assign]
        assert [pool.run(WORKS).code for _ in range(6)] == [0] * 6
    finally:
        pool.close()


def test_a_full_disk_is_told_before_a_check(tmp_path: Path) -> None:
    scratch.check_room(str(tmp_path), 0)
    with pytest.raises(OSError, match="left for what code under test may write"):
        scratch.check_room(str(tmp_path), 1 << 40)
