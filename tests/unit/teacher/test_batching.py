"""The service between the doors and the engine: batches, cancellation, faults, draining."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from rgopd.common.errors import Overloaded, Unavailable
from rgopd.teacher import main
from rgopd.teacher.batching import TeacherService
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import Engine, EngineFault
from rgopd.teacher.metrics import TeacherMetrics
from tests.unit.teacher.conftest import random_item


class Gated:
    """The real engine behind a gate, so that a test decides when a forward may run, or fail."""

    concurrency = 1
    recovers = False

    def trouble(self) -> str:
        return ""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.info = engine, engine.info
        self.gate, self.entered = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []
        self.poison: set[str] = set()

    def score(self, items):
        self.batches.append([item.id for item in items])
        self.entered.set()
        assert self.gate.wait(120)
        if self.poison & set(self.batches[-1]):
            raise MemoryError("as if the accelerator were full")
        return self.engine.score(items)

    def close(self) -> None:
        self.closed = True


Start = Callable[..., tuple[TeacherService, Gated, CollectorRegistry]]


@pytest.fixture
def start(engine) -> Iterator[Start]:
    services = []

    def start(**limits: int) -> tuple[TeacherService, Gated, CollectorRegistry]:
        gated, registry = Gated(engine), CollectorRegistry()
        limits = {"max_batch_tokens": 200, "max_queue_tokens": 4000, **limits}
        service = TeacherService(gated, TeacherMetrics(registry), **limits)
        services.append((service, gated))
        service.start()
        return service, gated, registry

    yield start
    for service, gated in services:
        gated.gate.set()
        service.close()


def items(count: int, tokens: int = 20, prefix: str = "r"):
    rng = np.random.default_rng(0)
    return [random_item(rng, tokens // 2, tokens - tokens // 2, "none", name=f"{prefix}{n}") for n in range(count)]


def test_every_future_gets_its_own_score(start, engine) -> None:
    service, gated, _ = start()
    gated.gate.set()
    batch = items(30)
    futures = service.submit(batch)
    for item, future in zip(batch, futures, strict=True):
        np.testing.assert_allclose(
            future.result(120).sampled_logprobs_T, engine.score([item])[0].sampled_logprobs_T, atol=1e-5
        )
    assert max(map(len, gated.batches)) == 10, "200 tokens a batch, 20 a rollout"


def test_a_cancelled_rollout_frees_its_place_and_costs_no_forward(start) -> None:
    service, gated, registry = start(max_queue_tokens=400)
    running = service.submit(items(1))
    assert gated.entered.wait(120)
    waiting = service.submit(items(4, prefix="w"))
    service.submit(items(10, prefix="x"))
    with pytest.raises(Overloaded):
        service.submit(items(8, prefix="y"))
    assert all(future.cancel() for future in waiting)
    assert registry.get_sample_value("rgopd_teacher_queue_tokens") == 200
    late = service.submit(items(5, prefix="z"))
    gated.gate.set()
    assert late[-1].result(120) is not None
    assert running[0].result(120) is not None
    scored = [name for batch in gated.batches for name in batch]
    assert not [name for name in scored if name.startswith("w")]
    assert registry.get_sample_value("rgopd_teacher_rejected_total", {"kind": "overloaded"}) == 1


def test_one_bad_rollout_does_not_fail_its_neighbours(start) -> None:
    service, gated, registry = start()
    gated.poison.add("r3")
    gated.gate.set()
    futures = service.submit(items(8))
    for n, future in enumerate(futures):
        if n == 3:
            with pytest.raises(EngineFault, match="MemoryError"):
                future.result(120)
        else:
            assert np.isfinite(future.result(120).sampled_logprobs_T).all()
    assert registry.get_sample_value("rgopd_teacher_rollouts_total", {"outcome": "failed"}) == 1
    assert service.submit(items(1))[0].result(120) is not None, "the service lives on"


def test_draining_finishes_what_is_admitted_and_takes_no_more(start) -> None:
    service, gated, _ = start()
    futures = service.submit(items(30))
    assert not service.drain(0.05), "nothing can finish behind the gate"
    with pytest.raises(Unavailable):
        service.submit(items(1))
    gated.gate.set()
    assert service.drain(10)
    assert all(future.result(0) for future in futures)


def test_closing_cancels_what_waits(start) -> None:
    service, gated, _ = start()
    running, *waiting = service.submit(items(1)) + service.submit(items(20, prefix="w"))
    assert gated.entered.wait(120)
    threading.Timer(0.1, gated.gate.set).start()
    service.close()
    assert running.result(0) is not None
    assert gated.closed
    assert any(future.cancelled() for future in waiting)
    assert all(future.done() for future in waiting)


def test_retry_after_follows_the_backlog(start) -> None:
    service, gated, _ = start(max_queue_tokens=400)
    gated.gate.set()
    service.submit(items(10))[-1].result(120)
    gated.gate.clear()
    service._tokens_per_s = 40.0  # what a slow accelerator would have measured
    service.submit(items(15, prefix="w"))
    with pytest.raises(Overloaded) as full:
        service.submit(items(10, prefix="x"))
    assert full.value.retry_after == pytest.approx(300 / 40)


@pytest.mark.parametrize(("device", "told"), [("cuda", "for 0 s: it hangs"), ("cpu", "")])
def test_an_engine_that_hangs_is_in_trouble_though_it_says_that_it_is_well(
    start, monkeypatch: pytest.MonkeyPatch, device: str, told: str
) -> None:
    service, gated, _ = start()
    process = main.TeacherProcess(TeacherConfig(model="x"))
    process._service = service
    gated.info = replace(gated.info, device=device)
    service.submit(items(1))
    assert gated.entered.wait(10)
    assert process._hangs(gated) == "", "not yet"
    monkeypatch.setattr(main, "HANG_S", 0.0)
    assert told in process._hangs(gated)
    service.close(0.05)
    assert not hasattr(gated, "closed"), "what computes is left alone"
    gated.gate.set()


def test_an_engine_without_work_does_not_hang(start, monkeypatch: pytest.MonkeyPatch) -> None:
    service, gated, _ = start()
    gated.gate.set()
    for future in service.submit(items(3)):
        future.result(10)
    deadline = time.monotonic() + 5
    while service.in_work_s() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert service.in_work_s() == 0
