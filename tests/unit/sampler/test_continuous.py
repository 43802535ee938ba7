"""Several requests in flight over a scripted engine and a real Valkey: what may mix, what waits, what is said when."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from safetensors.torch import save_file
from transformers import AutoTokenizer

from rgopd.common import wire
from rgopd.common.conversation import OBSERVATION, TURN, turn_key
from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.errors import ConfigError, InvalidInput, Unavailable
from rgopd.common.streams import ENVIRONMENT, RESULTS, ROLLOUT, Streams
from rgopd.protos import environment_pb2, rollout_pb2
from rgopd.sampler.continuous import ContinuousWorker, Job, Room
from rgopd.sampler.engine import OnSample, Sample, SampleSpec, SamplingOptions
from rgopd.sampler.publish import options_of, slots_of
from tests.waiting import eventually


class Scripted:
    """Each row ends after as many steps as its prompt's first id says; a step waits until the test lets it go."""

    def __init__(self, kv_tokens: int = 1000) -> None:
        self.kv_tokens = kv_tokens
        self.tokenizer: Any = None  # for conversations alone
        self.max_context = 1000
        self.rows: dict[str, tuple[SampleSpec, int]] = {}
        self.temperature = 1.0
        self.weights = ""
        self.log: list[str] = []
        self.go = threading.Semaphore(0)
        self.dies = False
        self.count = 0

    def mixes(self, options: SamplingOptions) -> bool:
        return not self.rows or options.temperature == self.temperature

    def admit(self, spec: SampleSpec, options: SamplingOptions) -> str:
        if spec.prompt_ids_C[0] > options.max_new_tokens:
            raise ConfigError("too long for the context")
        assert self.mixes(options)
        self.temperature = options.temperature
        self.count += 1
        self.rows[f"r{self.count}"] = (spec, 0)
        return f"r{self.count}"

    def step(self) -> list[tuple[str, Sample]]:
        if not self.go.acquire(timeout=0.005):
            return []  # a step in which nothing ended
        if self.dies:
            raise Unavailable("the engine died")
        ended = []
        for name, (spec, age) in list(self.rows.items()):
            self.rows[name] = (spec, age + 1)
            if age + 1 == spec.prompt_ids_C[0]:
                del self.rows[name]
                ended.append((name, sample(age + 1, int(spec.seed % 97))))
        return ended

    def drop(self, names: Collection[str]) -> None:
        for name in names:
            self.rows.pop(name, None)

    def generate(self, specs: Sequence[SampleSpec], options: SamplingOptions, on_sample: OnSample) -> None:
        raise NotImplementedError

    def load_weights(self, folder: Path) -> None:
        assert not self.rows, "rows in work would go on under other weights"
        self.weights = folder.name
        self.log.append(f"load {folder.name}")

    def sleep(self) -> None:
        assert not self.rows
        self.log.append("sleep")

    def wake(self) -> None:
        self.log.append("wake")

    def decode(self, response_ids_T: NDArray[np.int32]) -> str:
        return " ".join(map(str, response_ids_T))


def sample(length: int, token: int) -> Sample:
    ids_T = np.full(length, token, np.int32)
    return Sample(ids_T, np.full(length, -0.5, np.float32), np.zeros((length, 2), np.int32), True)


class Bench:
    """A worker, its engine and the policies it may be asked for."""

    def __init__(self, streams: Streams, folder: Path, engine: Scripted, **options: float) -> None:
        self.streams, self.folder, self.engine = streams, folder, engine
        self.worker = ContinuousWorker(
            engine,
            streams,
            policy_timeout_s=options.pop("policy_timeout_s", 5.0),
            registry=CollectorRegistry(),
            **options,  # type: ignore[arg-type]
        )

    def publish(self, version: int) -> None:
        folder = self.folder / f"v{version}"
        folder.mkdir()
        save_file({"w": torch.full((1,), float(version))}, folder / "model.safetensors")
        self.worker.policies.announce(version, folder)

    def ask(self, name: str, lengths: list[int], version: int = 0, temperature: float = 1.0) -> Future[Outcome]:
        return self.worker.submit(Delivery("generate", name, self.request(name, lengths, version, temperature), 1))

    def request(self, name: str, lengths: list[int], version: int, temperature: float) -> bytes:
        request = rollout_pb2.GenerateRequest(
            header=wire.header(self.streams.run_id), request_id=name, policy_version=version
        )
        request.sampling.temperature = temperature
        request.sampling.max_new_tokens = 50
        request.sampling.support_k = 2
        for number, length in enumerate(lengths):
            group = request.groups.add(group_id=f"{name}{number}", n=1, seed=7)
            group.prompt.prompt_ids.CopyFrom(wire.to_tensor(np.array([length, 3], np.int32)))
        return request.SerializeToString()

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.engine.go.release()

    def stored(self, name: str) -> int:
        keys = [f"{name}{i}-n000" for i in range(8)]
        return sum(blob is not None for blob in self.streams.blobs.get_many(ROLLOUT, keys))


@pytest.fixture
def bench(streams: Streams, tmp_path: Path) -> Iterator[Bench]:
    streams.ensure(RESULTS)
    bench = Bench(streams, tmp_path, Scripted())
    bench.publish(0)
    yield bench
    bench.steps(500)
    bench.worker.close()


def test_requests_mix_and_each_ends_on_its_own(bench: Bench) -> None:
    long, short = bench.ask("long", [2, 20]), bench.ask("short", [3, 3])
    eventually(lambda: len(bench.engine.rows) == 4)
    bench.steps(3)
    short.result(120)
    eventually(lambda: bench.stored("long") == 1)  # the rollout that has ended is there, its request goes on
    assert not long.done()
    bench.steps(17)
    long.result(120)
    assert (bench.stored("long"), bench.stored("short")) == (2, 2)
    heard = [
        wire.parse(rollout_pb2.StageDone, d.payload) for d in bench.streams.read(RESULTS, "t", count=9, block_ms=5)
    ]
    assert [h.header.rollout_id for h in heard] == ["long0-n000", "short0-n000", "short1-n000", "long1-n000"]


def test_a_request_that_comes_again_samples_only_what_is_missing(bench: Bench) -> None:
    bench.ask("a", [1, 1]).add_done_callback(lambda _: None)
    eventually(lambda: len(bench.engine.rows) == 2)
    bench.steps(1)
    eventually(lambda: bench.stored("a") == 2)
    first = bench.streams.blobs.get(ROLLOUT, "a0-n000")
    bench.streams.blobs.delete(ROLLOUT, ["a1-n000"])
    again = bench.ask("a", [1, 1])
    eventually(lambda: len(bench.engine.rows) == 1)
    bench.steps(1)
    again.result(120)
    assert bench.engine.count == 3
    assert bench.streams.blobs.get(ROLLOUT, "a0-n000") == first
    assert bench.stored("a") == 2


@pytest.mark.parametrize("other", [{"version": 1}, {"temperature": 0.6}])
def test_what_may_not_mix_waits_until_the_rows_have_ended(bench: Bench, other: dict[str, float]) -> None:
    bench.publish(1)
    first = bench.ask("a", [5])
    eventually(lambda: len(bench.engine.rows) == 1)
    second, third = bench.ask("b", [1], **other), bench.ask("c", [1])  # type: ignore[arg-type]
    bench.steps(4)
    time.sleep(0.05)
    assert len(bench.engine.rows) == 1
    bench.steps(1)
    first.result(120)
    eventually(lambda: bench.engine.rows)
    assert not third.done(), "requests are served in order"
    bench.steps(2)
    second.result(120)
    third.result(120)
    assert bench.engine.log == (["load v0", "load v1", "load v0"] if "version" in other else ["load v0"])


def test_a_policy_that_is_late_is_waited_for_and_one_that_never_comes_fails_alone(
    streams: Streams, tmp_path: Path
) -> None:
    bench = Bench(streams, tmp_path, Scripted(), policy_timeout_s=2.0)
    late = bench.ask("late", [1], version=3)
    time.sleep(0.3)
    bench.publish(3)
    eventually(lambda: bench.engine.rows)
    never, running = bench.ask("never", [1], version=9), bench.ask("on", [1], version=3)
    bench.steps(1)
    late.result(120)
    with pytest.raises(Unavailable, match="policy version 9 was not published"):
        never.result(120)
    bench.steps(1)
    running.result(120)
    bench.worker.close()


def test_a_bad_request_fails_alone_and_leaves_no_row_behind(bench: Bench) -> None:
    good = bench.ask("good", [4])
    eventually(lambda: bench.engine.rows)
    bad = bench.ask("bad", [2, 99])
    with pytest.raises(ConfigError, match="too long"):
        bad.result(120)
    assert len(bench.engine.rows) == 1
    bench.steps(4)
    good.result(120)
    empty = rollout_pb2.GenerateRequest(header=wire.header(bench.streams.run_id))
    empty.groups.add(group_id="g", n=1).prompt.prompt_ids.CopyFrom(wire.to_tensor(np.zeros(0, np.int32)))
    empty.sampling.max_new_tokens = 1
    with pytest.raises(InvalidInput, match="the prompt is empty"):
        bench.worker.submit(Delivery("generate", "x", empty.SerializeToString(), 1))


def test_an_engine_that_dies_gives_every_request_back(bench: Bench) -> None:
    futures = [bench.ask("a", [9]), bench.ask("b", [9]), bench.ask("c", [9], version=0, temperature=0.5)]
    eventually(lambda: len(bench.engine.rows) == 2)
    bench.engine.dies = True
    bench.steps(1)
    for future in futures:
        with pytest.raises(Unavailable, match="died"):
            future.result(120)


def test_it_sleeps_before_the_last_request_counts_as_done(streams: Streams, tmp_path: Path) -> None:
    streams.ensure(RESULTS)
    bench = Bench(streams, tmp_path, Scripted(), sleeps=True)
    bench.publish(0)
    first, second = bench.ask("a", [1]), bench.ask("b", [3])
    eventually(lambda: len(bench.engine.rows) == 2)
    bench.steps(1)
    time.sleep(0.1)
    assert not first.done(), "the device is not free yet"
    bench.steps(2)
    first.result(120)
    second.result(120)
    assert bench.engine.log == ["wake", "load v0", "sleep"]
    bench.ask("c", [1])
    eventually(lambda: bench.engine.rows)
    assert bench.engine.log[-1] == "wake"
    bench.steps(1)
    bench.worker.close()


def test_room_is_what_the_cache_holds_beside_the_rows_in_work(bench: Bench) -> None:
    """1,000 tokens; a request of 8 rows may become 8 x 50, and is taken for half of that at first."""
    assert bench.worker.room() == 1
    for number in range(4):
        bench.ask(f"q{number}", [30] * 8)
        eventually(lambda n=number: len(bench.engine.rows) == 8 * (n + 1))
        # 8 x 25 and eight prompts of 2: 216 tokens each, so four requests fit and a fifth does not
        assert bench.worker.room() == (1 if number < 3 else 0)


def test_expected_lengths_follow_what_ended() -> None:
    job = Job(request := rollout_pb2.GenerateRequest(), options_of(_sampling(request)), slots_of(request), 0.0)
    room = Room(10_000)
    assert room.need(job, 4) == 4 * 500
    room.note(job, 100)
    room.note(job, 300)
    assert room.need(job, 4) == 4 * 300
    room.note(job, 4000)
    assert room.need(job, 4) == 4 * 1000, "no row grows beyond its limit"


def _sampling(request: rollout_pb2.GenerateRequest) -> rollout_pb2.SamplingParams:
    request.sampling.max_new_tokens = 1000
    return request.sampling


def test_conversations_take_a_turn_a_delivery(bench: Bench, streams: Streams, student_folder: Path) -> None:
    """What an earlier holder stored of a turn is not sampled again; the acknowledgement asks the environments."""
    bench.engine.tokenizer = AutoTokenizer.from_pretrained(str(student_folder))
    request = wire.parse(rollout_pb2.GenerateRequest, bench.request("q", [1, 2], 0, 1.0))
    for group in request.groups:
        group.prompt.environment.name = "game"
    request.turns.max_turns = 2
    payload = request.SerializeToString()
    [first, *_] = slots_of(request)
    stored = rollout_pb2.Turn(
        response_ids=wire.to_tensor(np.array([5], np.int32)),
        sampled_logprobs=wire.to_tensor(np.array([-1.0], np.float32)),
        support_ids=wire.to_tensor(np.zeros((1, 2), np.int32)),
        text="stored",
        finish_reason=rollout_pb2.FINISH_STOP,
    )
    streams.blobs.put(TURN, turn_key(first.rollout_id, 0), stored.SerializeToString())
    future = bench.worker.submit(Delivery("generate", "q", payload, 1))
    for _ in range(4):
        bench.engine.go.release()
    [(stream, data)] = future.result(120).announce
    job = wire.parse(environment_pb2.StepJob, data)
    assert stream == ENVIRONMENT
    assert job.request == payload
    slots = slots_of(request)
    assert [episode.id for episode in job.episodes] == [slot.rollout_id for slot in slots]
    assert job.episodes[0].actions == ["stored"]
    assert bench.engine.count == len(slots) - 1
    assert not any(streams.blobs.present(ROLLOUT, [slot.rollout_id for slot in slots]))
    for episode in job.episodes:
        said = environment_pb2.Observation(id=episode.id, done=True, reward=1.0)
        streams.blobs.put(OBSERVATION, turn_key(episode.id, 0), said.SerializeToString())
    assert bench.worker.submit(Delivery("generate", "q", payload, 1)).result(120).announce == []
    assert all(streams.blobs.present(ROLLOUT, [slot.rollout_id for slot in slots]))
    assert bench.engine.count == len(slots) - 1
