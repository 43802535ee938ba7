"""Trainer and sampler on one device take turns: the sampler sleeps before its request counts as done, and the trainer
waits for that. Real Valkey, real sampler."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from redis import Redis

from rgopd.common.errors import Unavailable
from rgopd.common.streams import GENERATE, Streams
from rgopd.common.worker import StreamWorker
from rgopd.sampler.engine import OnSample, SampleSpec, SamplingOptions
from rgopd.sampler.publish import give_up
from rgopd.sampler.transformers import TransformersSampler
from rgopd.sampler.worker import SamplerWorker
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.rollouts.dispatch import Interrupted
from tests.unit.trainer.rollouts.test_orchestrator_faults import Run, used


class Sleeper(TransformersSampler):
    """Takes its time to fall asleep, and says when it is where."""

    def __init__(self, model: str) -> None:
        super().__init__(model, device="cpu")
        self.events: list[str] = []
        self.may_sleep = threading.Event()
        self.may_sleep.set()

    def wake(self) -> None:
        super().wake()
        self.events.append("awake")

    def sleep(self) -> None:
        self.may_sleep.wait(120)
        super().sleep()
        self.events.append("asleep")

    def generate(self, specs: Sequence[SampleSpec], options: SamplingOptions, on_sample: OnSample) -> None:
        self.events.append("generate")
        super().generate(specs, options, on_sample)


def sleeping_run(redis: Redis, run_id: str, folder: Path, student: Path) -> tuple[Run, Sleeper]:
    engine = Sleeper(str(student))
    streams = Streams(redis, run_id, lease_ms=2000)
    run = Run(streams, engine, folder, student)
    worker = SamplerWorker(engine, streams, policy_timeout_s=10, registry=CollectorRegistry(), sleeps=True)
    run.stages.doors[GENERATE] = StreamWorker(streams, GENERATE, worker.submit, give_up, consumer="s", max_inflight=1)
    return run, engine


def test_the_trainer_waits_until_every_sampler_sleeps(
    redis: Redis, run_id: str, tmp_path: Path, student_folder: Path
) -> None:
    run, engine = sleeping_run(redis, run_id, tmp_path, student_folder)
    engine.may_sleep.clear()
    run.stages.start()
    run.orchestrator.request(0, 0)
    waited = threading.Thread(target=run.orchestrator.wait_for_idle_samplers)
    waited.start()
    deadline = time.monotonic() + 120
    while "generate" not in engine.events and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert waited.is_alive(), "the first request was sampled, and its sampler still holds the device"
    engine.may_sleep.set()
    plan = run.orchestrator.collect(0)
    waited.join(120)
    assert not waited.is_alive()
    assert engine.events == ["awake", "generate", "asleep"] * 2  # one group a request, two groups
    assert len(used(plan)) == 6
    run.stages.stop()
    run.claim.release()


def test_a_sampler_that_never_sleeps_is_named_and_a_stop_is_heard(
    redis: Redis, run_id: str, tmp_path: Path, student_folder: Path
) -> None:
    run, engine = sleeping_run(redis, run_id, tmp_path, student_folder)
    engine.may_sleep.clear()
    run.config.fault.wait_for_services_s = 0.5
    run.stages.start(GENERATE)
    run.orchestrator.request(0, 0)
    with pytest.raises(Unavailable, match="a sampler still holds the device"):
        run.orchestrator.wait_for_idle_samplers()
    run.stop_asked = True
    with pytest.raises(Interrupted):
        run.orchestrator.wait_for_idle_samplers()
    engine.may_sleep.set()
    run.stages.stop()
    run.claim.release()


def test_weights_survive_the_sleep(student_folder: Path) -> None:
    engine = Sleeper(str(student_folder))
    before = engine.model.get_input_embeddings().weight.clone()
    engine.sleep()
    engine.load_weights(student_folder)
    engine.wake()
    assert bool((engine.model.get_input_embeddings().weight == before).all())


def test_stale_rollouts_and_one_device_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises((ValidationError, ValueError), match="max_staleness=0"):
        TrainConfig.from_mapping(
            {"student": "s", "dataset": {"path": str(tmp_path)}, "colocated": True, "max_staleness": 1}
        )
