"""Predicted against measured: real streams, real workers, a real Valkey, and engines that only sleep.

    python -m benchmarks.simulate.noop [--steps 6]

A sleeping engine takes no core, so that two cores can carry the queues of many devices. What is measured is all that
surrounds the engines: requests, leases, announcements, blobs, the join, batching, polling. The costs of the engines are
the ones the simulation is given; the store's costs are measured first, in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rgopd.common.connection import connect
from rgopd.common.deliveries import Delivery, Outcome
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.streams import GENERATE, RESULTS, ROLLOUT, SCORE, TEACHER_SCORE, VERDICT, VERIFY, Streams
from rgopd.common.worker import StreamWorker
from rgopd.simulate.costs import Costs, StoreCosts
from rgopd.simulate.engine import Simulation
from rgopd.simulate.presets import sleeping
from rgopd.simulate.workload import Cluster, Workload

Item = dict[str, int | str]


class NoOp:
    """A run's services as threads; every engine sleeps for what its costs say."""

    def __init__(self, url: str, workload: Workload, cluster: Cluster, costs: Costs, name: str) -> None:
        self.workload, self.cluster, self.costs = workload, cluster, costs
        self.url, self.name = url, name
        self.noise = os.urandom(1 << 20)
        self.workers: list[StreamWorker] = []
        self.pool = ThreadPoolExecutor(cluster.samplers + cluster.teachers + cluster.verifiers * costs.verifier.slots)
        self.streams = self._streams()
        self.rng = random.Random(0)

    def _streams(self) -> Streams:
        return Streams(connect(self.url), self.name)

    def start(self) -> None:
        """One StreamWorker, with a connection of its own, a replica."""
        for index in range(self.cluster.samplers):
            self._worker(GENERATE, f"s{index}", 1, lambda d, s: self.pool.submit(self._sample, d, s))
        for index in range(self.cluster.verifiers):
            self._worker(VERIFY, f"v{index}", self.costs.verifier.slots, lambda d, s: self.pool.submit(self._judge, d))
        for index in range(self.cluster.teachers):
            batcher = Batcher(self)
            self._worker(SCORE, f"t{index}", 64, batcher.submit)

    def _worker(self, stream: str, consumer: str, inflight: int, submit: object) -> None:
        streams = self._streams()
        call = submit
        worker = StreamWorker(
            streams,
            stream,
            lambda d: call(d, streams),  # type: ignore[operator]
            lambda d, kind, reason: Outcome(),
            consumer=consumer,
            max_inflight=inflight,
        )
        worker.start()
        self.workers.append(worker)

    def _sample(self, delivery: Delivery, streams: Streams) -> Outcome:
        items: list[Item] = json.loads(delivery.payload)
        started, elapsed, done, alive = time.monotonic(), 0.0, 0, len(items)
        for item in sorted(items, key=lambda i: i["tokens"]):
            tokens = int(item["tokens"])
            elapsed += (tokens - done) * (self.costs.sampler.step_s + alive * self.costs.sampler.step_s_rollout)
            done, alive = tokens, alive - 1
            time.sleep(max(0.0, started + elapsed - time.monotonic()))
            payload = json.dumps(item).encode()
            blob = self.noise[: self.workload.rollout_bytes(tokens)]
            streams.publish(Outcome({(ROLLOUT, str(item["id"])): blob}, [(VERIFY, payload), (SCORE, payload)]))
        return Outcome()

    def _judge(self, delivery: Delivery) -> Outcome:
        item: Item = json.loads(delivery.payload)
        time.sleep(self.costs.verifier.item_s)
        return Outcome({(VERDICT, str(item["id"])): b"v" * 300}, [(RESULTS, delivery.payload)])

    def step(self, number: int) -> float:
        """One on-policy step: ask, wait for all answers, read the blobs, compute. Seconds."""
        started = time.monotonic()
        lengths = self.workload.lengths(self.rng, self.workload.rollouts)
        items: list[Item] = [{"id": f"{number}-{i}", "tokens": tokens} for i, tokens in enumerate(lengths)]
        size = self.workload.groups_per_request * self.workload.n
        for first in range(0, len(items), size):
            self.streams.add(GENERATE, json.dumps(items[first : first + size]).encode())
        waiting = 2 * len(items)
        while waiting:
            for delivery in self.streams.read(RESULTS, "trainer", count=256, block_ms=1000):
                self.streams.complete(delivery, Outcome())
                waiting -= 1
        ids = [str(item["id"]) for item in items]
        for stage in (ROLLOUT, TEACHER_SCORE):
            assert all(self.streams.blobs.get_many(stage, ids))
        for stage in (ROLLOUT, VERDICT, TEACHER_SCORE):
            self.streams.blobs.delete(stage, ids)
        time.sleep(self.costs.trainer.step_s)
        return time.monotonic() - started

    def stop(self) -> None:
        """Stop every worker."""
        for worker in self.workers:
            worker.stop(1)
        self.pool.shutdown()


class Batcher:
    """A teacher replica: scores what waits, up to the token budget, in one sleep."""

    def __init__(self, run: NoOp) -> None:
        self.run = run
        self.waiting: list[tuple[Item, Future[Outcome], bytes]] = []
        self.changed = threading.Condition()
        threading.Thread(target=self._loop, daemon=True).start()

    def submit(self, delivery: Delivery, streams: Streams) -> Future[Outcome]:
        """Queue one rollout."""
        self.streams = streams
        future: Future[Outcome] = Future()
        with self.changed:
            self.waiting.append((json.loads(delivery.payload), future, delivery.payload))
            self.changed.notify()
        return future

    def _loop(self) -> None:
        while True:
            with self.changed:
                while not self.waiting:
                    self.changed.wait()
                batch, tokens = [], 0
                budget = self.run.costs.teacher.batch_tokens
                while self.waiting and (not batch or tokens + int(self.waiting[0][0]["tokens"]) <= budget):
                    batch.append(self.waiting.pop(0))
                    tokens += int(batch[-1][0]["tokens"]) + self.run.workload.prompt_tokens
            self.streams.blobs.get_many(ROLLOUT, [str(item["id"]) for item, _, _ in batch])
            time.sleep(self.run.costs.teacher.batch_s + tokens * self.run.costs.teacher.token_s)
            for item, future, payload in batch:
                size = self.run.workload.score_bytes(int(item["tokens"]))
                blob = {(TEACHER_SCORE, str(item["id"])): self.run.noise[:size]}
                future.set_result(Outcome(blob, [(RESULTS, payload)]))


def measure_store(url: str) -> StoreCosts:
    """Seconds a message through its whole life (add, read, complete) and seconds a byte, from this process."""
    streams = Streams(connect(url), "calibration")
    streams.ensure(VERIFY)
    count = 400
    started = time.perf_counter()
    for _ in range(count):
        streams.add(VERIFY, b"x" * 100)
        [delivery] = streams.read(VERIFY, "c", block_ms=1000)
        streams.complete(delivery, Outcome())
    message_s = (time.perf_counter() - started) / (3 * count)
    blob = os.urandom(1 << 20)
    started = time.perf_counter()
    for index in range(64):
        streams.blobs.put(ROLLOUT, str(index), blob)
    streams.blobs.get_many(ROLLOUT, [str(i) for i in range(64)])
    byte_s = (time.perf_counter() - started) / (128 << 20)
    streams.blobs.delete(ROLLOUT, [str(i) for i in range(64)])
    return StoreCosts(message_s, byte_s)


SIZES = [
    Cluster(1, 1, 1, 1),
    Cluster(1, 2, 1, 1),
    Cluster(2, 4, 2, 1),
    Cluster(2, 8, 4, 2),
    Cluster(4, 16, 8, 2),
]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=5)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedValkey(Path(folder)).start()
        store = measure_store(server.url)
        print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; Valkey:")
        print(
            f"{store.message_s * 1e6:.0f} us a message, {store.byte_s * 1e9:.2f} ns a byte, from one Python process\n"
        )
        heads = ["samplers", "teachers", "verifier slots", "rollouts a step", "predicted s/step", "measured s/step"]
        print(f"| {' | '.join([*heads, 'measured / predicted'])} |\n{'|---' * 7}|")
        costs = sleeping(step_s=0.004, rollout_s=0.00005, teacher_s=0.15, verify_s=0.05, train_s=0.5, store=store)
        for size, cluster in enumerate(SIZES):
            workload = Workload(8 * cluster.samplers, 4, 4, mean_tokens=120, max_new_tokens=256, prompt_tokens=40, k=16)
            predicted = Simulation(workload, cluster, costs, steps=steps + 2).run().step_s
            run = NoOp(server.url, workload, cluster, costs, f"noop-{size}")
            run.start()
            times = [run.step(number) for number in range(steps + 1)][1:]
            run.stop()
            measured = sum(times) / len(times)
            numbers = [cluster.samplers, cluster.teachers, cluster.verifiers * costs.verifier.slots, workload.rollouts]
            row = [*map(str, numbers), f"{predicted:.2f}", f"{measured:.2f}", f"{measured / predicted:.2f}"]
            print(f"| {' | '.join(row)} |", flush=True)
        server.stop()


if __name__ == "__main__":
    main()
