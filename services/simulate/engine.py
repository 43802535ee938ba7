"""A discrete-event simulation of a run: requests, samplers, verifiers, teachers, the store, the trainer.

It follows the real services' rules: a sampler takes one request at a time and announces each rollout as it ends; a
teacher batches what waits up to its token budget; a verifier has slots; every message and byte passes one store; the
trainer asks for later steps as far as `max_staleness` allows, and starts a step when its last rollout is judged and
scored.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rgopd.simulate.costs import Costs
from rgopd.simulate.workload import Cluster, Workload


@dataclass
class Report:
    """What came out; times in seconds."""

    step_s: float
    """Mean time from one step's end to the next, after the first two."""
    busy: dict[str, float]
    """Share of the time that a stage's replicas were working."""
    store_bytes_s: float
    tokens_s: float
    waits: dict[str, float] = field(default_factory=dict)
    """Mean part of a step spent waiting for rollouts (collect) and computing (train)."""

    @property
    def bottleneck(self) -> str:
        """The stage that was busiest."""
        return max(self.busy, key=lambda stage: self.busy[stage])


@dataclass(frozen=True)
class _Rollout:
    step: int
    tokens: int


class Simulation:
    """One run. `run()` once."""

    def __init__(self, workload: Workload, cluster: Cluster, costs: Costs, *, steps: int = 8, seed: int = 0) -> None:
        self.workload, self.cluster, self.costs, self.steps = workload, cluster, costs, steps
        self.rng = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._requests: deque[tuple[int, list[_Rollout]]] = deque()
        self._verify: deque[_Rollout] = deque()
        self._score: deque[_Rollout] = deque()
        self._samplers = [-1] * cluster.samplers  # the policy versions in the free ones
        self._free = {"verifier": cluster.verifiers * costs.verifier.slots}
        self._free["teacher"] = cluster.teachers if workload.k else 0
        self._busy = dict.fromkeys(("sampler", "verifier", "teacher", "trainer", "store"), 0.0)
        self._store_free = 0.0
        self._bytes = 0
        self._open: dict[int, int] = {}
        self._tokens: dict[int, int] = {}
        self._published = -1
        self._waiting_for: int | None = None
        self._asked_until = 0
        self._began = 0.0
        self._ends: list[float] = []
        self._collect = self._train = 0.0

    def run(self) -> Report:
        """Simulate `steps` steps."""
        self._at(self.costs.trainer.publish_s, self._publish)
        while self._events and len(self._ends) < self.steps:
            self.now, _, event = heapq.heappop(self._events)
            event()
        skip = min(2, len(self._ends) - 1)
        count = len(self._ends) - skip
        span = self._ends[-1] - (self._ends[skip - 1] if skip else 0.0)
        capacity = {
            "sampler": self.cluster.samplers,
            "verifier": self.cluster.verifiers * self.costs.verifier.slots,
            "teacher": max(1, self.cluster.teachers),
            "trainer": 1,
            "store": 1,
        }
        return Report(
            step_s=span / count,
            busy={stage: busy / (capacity[stage] * self.now) for stage, busy in self._busy.items()},
            store_bytes_s=self._bytes / self.now,
            tokens_s=sum(self._tokens[s] for s in range(len(self._ends))) / self.now,
            waits={"collect": self._collect / len(self._ends), "train": self._train / len(self._ends)},
        )

    # -- the clock and the store ----------------------------------------------------------------------------------

    def _at(self, delay: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), event))

    def _pass_store(self, size: int, messages: int = 1) -> float:
        """Delay until the store has served this too: it serves one thing after another."""
        work = self.costs.store.work_s(messages, size)
        self._store_free = max(self._store_free, self.now) + work
        self._busy["store"] += work
        self._bytes += size
        return self._store_free - self.now

    # -- trainer --------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        self._published += 1
        step = self._published
        self._began = self.now
        last = min(step + self.workload.max_staleness, self.steps + self.workload.max_staleness)
        while self._asked_until <= last:
            self._ask(self._asked_until)
            self._asked_until += 1
        self._waiting_for = step
        self._maybe_train()

    def _ask(self, step: int) -> None:
        lengths = self.workload.lengths(self.rng, self.workload.rollouts)
        self._open[step], self._tokens[step] = len(lengths), sum(lengths)
        size = self.workload.groups_per_request * self.workload.n
        for start in range(0, len(lengths), size):
            batch = [_Rollout(step, tokens) for tokens in lengths[start : start + size]]
            self._requests.append((self._published, batch))
        self._at(self._pass_store(0, len(lengths) // size + 1), self._dispatch)

    def _maybe_train(self) -> None:
        step = self._waiting_for
        if step is None or self._open.get(step, 1):
            return
        self._waiting_for = None
        # every rank reads its rollouts and scores
        sizes = self.workload.rollout_bytes(0) + (self.workload.score_bytes(0) if self.workload.k else 0)
        tokens = self._tokens[step]
        per_token = self.workload.rollout_bytes(1) - self.workload.rollout_bytes(0)
        both = 2 * per_token if self.workload.k else per_token
        reading = self._pass_store(self.workload.rollouts * sizes + tokens * both, self.workload.rollouts)
        shared = tokens + self.workload.rollouts * self.workload.prompt_tokens
        work = self.costs.trainer.step_s + shared * self.costs.trainer.token_s / self.cluster.trainer_ranks
        self._collect += self.now - self._began
        self._train += reading + work
        self._busy["trainer"] += work
        self._at(reading + work, lambda: self._end_step())

    def _end_step(self) -> None:
        self._ends.append(self.now)
        self._at(self.costs.trainer.publish_s, self._publish)

    # -- samplers -------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while self._samplers and self._requests:
            version, batch = self._requests.popleft()
            has = version in self._samplers
            self._samplers.remove(version if has else self._samplers[0])
            costs = self.costs.sampler
            elapsed = (0.0 if has else costs.load_s) + len(batch) * self.workload.prompt_tokens * costs.prefill_s_token
            done, alive = 0, len(batch)
            for rollout in sorted(batch, key=lambda r: r.tokens):
                elapsed += (rollout.tokens - done) * (costs.step_s + alive * costs.step_s_rollout)
                done, alive = rollout.tokens, alive - 1
                self._at(elapsed, lambda r=rollout: self._sampled(r))  # type: ignore[misc]
            self._busy["sampler"] += elapsed
            self._at(elapsed, lambda v=version: self._sampler_free(v))  # type: ignore[misc]

    def _sampler_free(self, version: int) -> None:
        self._samplers.append(version)
        self._dispatch()

    def _sampled(self, rollout: _Rollout) -> None:
        delay = self._pass_store(self.workload.rollout_bytes(rollout.tokens), 3)
        self._at(delay, lambda: self._announce(rollout))

    def _announce(self, rollout: _Rollout) -> None:
        self._verify.append(rollout)
        self._start_verifiers()
        if self.workload.k:
            self._open[rollout.step] += 1  # two answers to wait for
            self._score.append(rollout)
            self._start_teachers()

    # -- verifiers and teachers -----------------------------------------------------------------------------------

    def _start_verifiers(self) -> None:
        while self._free["verifier"] and self._verify:
            rollout = self._verify.popleft()
            self._free["verifier"] -= 1
            delay = self.costs.verifier.item_s
            self._busy["verifier"] += delay
            self._at(delay, lambda r=rollout: self._judged(r))  # type: ignore[misc]

    def _judged(self, rollout: _Rollout) -> None:
        self._free["verifier"] += 1
        self._at(self._pass_store(300, 3), lambda: self._answered([rollout]))
        self._start_verifiers()

    def _start_teachers(self) -> None:
        while self._free["teacher"] and self._score:
            batch: list[_Rollout] = []
            tokens = 0
            while self._score and (not batch or tokens + self._score[0].tokens <= self.costs.teacher.batch_tokens):
                rollout = self._score.popleft()
                batch.append(rollout)
                tokens += rollout.tokens + self.workload.prompt_tokens
            self._free["teacher"] -= 1
            reading = self._pass_store(sum(self.workload.rollout_bytes(r.tokens) for r in batch), len(batch))
            work = self.costs.teacher.batch_s + tokens * self.costs.teacher.token_s
            self._busy["teacher"] += work
            self._at(reading + work, lambda b=batch: self._scored(b))  # type: ignore[misc]

    def _scored(self, batch: list[_Rollout]) -> None:
        self._free["teacher"] += 1
        size = sum(self.workload.score_bytes(r.tokens) for r in batch)
        self._at(self._pass_store(size, 3 * len(batch)), lambda: self._answered(batch))
        self._start_teachers()

    def _answered(self, rollouts: Iterable[_Rollout]) -> None:
        for rollout in rollouts:
            self._open[rollout.step] -= 1
        self._maybe_train()
