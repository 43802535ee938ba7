"""A discrete-event simulation of a run: requests, samplers, verifiers, teachers, the store, the trainer.

It follows the real services' rules: a sampler announces each rollout as it ends (`samplers`); a teacher batches what
waits up to its token budget; a verifier has slots; every message and byte passes one store; the trainer asks for later
steps as far as `max_staleness` allows, each sampled by the policy that was then the newest, and starts a step when its
last rollout is judged and scored. With `max_staleness` it writes a policy version while the next step goes on.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rgopd.simulate.costs import Costs
from rgopd.simulate.samplers import Request, Rollout, Sampler
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


class Simulation:
    """One run. `run()` once."""

    def __init__(self, workload: Workload, cluster: Cluster, costs: Costs, *, steps: int = 8, seed: int = 0) -> None:
        self.workload, self.cluster, self.costs, self.steps = workload, cluster, costs, steps
        self.rng = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._requests: deque[Request] = deque()
        self._verify: deque[Rollout] = deque()
        self._score: deque[Rollout] = deque()
        self._samplers = [Sampler(costs.sampler, workload) for _ in range(cluster.samplers)]
        self._free = {"verifier": cluster.verifiers * costs.verifier.slots}
        self._free["teacher"] = cluster.teachers if workload.k else 0
        self._busy = dict.fromkeys(("sampler", "verifier", "teacher", "trainer", "store"), 0.0)
        self._store_free = 0.0
        self._bytes = 0
        self._open: dict[int, int] = {}
        self._tokens: dict[int, int] = {}
        self._announced = -1  # the newest policy version that samplers can have
        self._version = -1  # the newest that is written, or being written
        self._written = 0.0  # when that is done
        self._next = 0
        self._waiting_for: int | None = None
        self._asked_until = 0
        self._began = 0.0
        self._ends: list[float] = []
        self._collect = self._train = 0.0

    def run(self) -> Report:
        """Simulate `steps` steps."""
        self._publish()
        while self._events and len(self._ends) < self.steps:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self._busy["sampler"] = sum(sampler.busy_s for sampler in self._samplers)
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
        """Write the next policy version, once the one before is written, and go on with the next step: beside the
        writing where rollouts may be stale."""
        begin = max(self.now, self._written)
        self._written = begin + self.costs.trainer.publish_s
        self._version += 1
        self._at(self._written - self.now, lambda v=self._version: self._announce_policy(v))  # type: ignore[misc]
        self._at((begin if self.workload.max_staleness else self._written) - self.now, self._begin)

    def _announce_policy(self, version: int) -> None:
        self._announced = version
        self._dispatch(self._samplers)

    def _begin(self) -> None:
        step, self._next = self._next, self._next + 1
        self._began = self.now
        while self._asked_until <= step + self.workload.max_staleness:
            self._ask(self._asked_until)
            self._asked_until += 1
        self._waiting_for = step
        self._maybe_train()

    def _ask(self, step: int) -> None:
        lengths = self.workload.lengths(self.rng, self.workload.rollouts)
        self._open[step], self._tokens[step] = len(lengths), sum(lengths)
        size = self.workload.groups_per_request * self.workload.n
        for start in range(0, len(lengths), size):
            rollouts = [Rollout(step, tokens) for tokens in lengths[start : start + size]]
            self._requests.append(Request(max(0, step - self.workload.max_staleness), rollouts))
        self._at(self._pass_store(0, len(lengths) // size + 1), lambda: self._dispatch(self._samplers))

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
        self._publish()

    # -- samplers -------------------------------------------------------------------------------------------------

    def _dispatch(self, samplers: Sequence[Sampler]) -> None:
        """Requests go to who has most room, in order; who has none begins what waits for its rollouts to end."""
        for sampler in samplers:
            if sampler.begin_waiting(self.now, self._announced):
                self._follow(sampler)
        while self._requests:
            request = self._requests[0]
            able = [sampler for sampler in samplers if sampler.has_room(request)]
            if not able:
                return
            self._requests.popleft()
            best = min(able, key=lambda sampler: (sampler.used, sampler.version != request.version))
            best.waiting = request
            if best.begin_waiting(self.now, self._announced):
                self._follow(best)

    def _follow(self, sampler: Sampler) -> None:
        """Look again when its next rollout ends, unless something else happens to it before."""
        self._at(sampler.next_end_s(self.now), lambda turn=sampler.turn: self._look(sampler, turn))  # type: ignore[misc]

    def _look(self, sampler: Sampler, turn: int) -> None:
        if turn != sampler.turn:
            return
        for rollout in sampler.ended(self.now):
            self._sampled(rollout)
        if sampler.rows:
            self._follow(sampler)
        self._dispatch([sampler])

    def _sampled(self, rollout: Rollout) -> None:
        delay = self._pass_store(self.workload.rollout_bytes(rollout.tokens), 3)
        self._at(delay, lambda: self._announce(rollout))

    def _announce(self, rollout: Rollout) -> None:
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

    def _judged(self, rollout: Rollout) -> None:
        self._free["verifier"] += 1
        self._at(self._pass_store(300, 3), lambda: self._answered([rollout]))
        self._start_verifiers()

    def _start_teachers(self) -> None:
        while self._free["teacher"] and self._score:
            batch: list[Rollout] = []
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

    def _scored(self, batch: list[Rollout]) -> None:
        self._free["teacher"] += 1
        size = sum(self.workload.score_bytes(r.tokens) for r in batch)
        self._at(self._pass_store(size, 3 * len(batch)), lambda: self._answered(batch))
        self._start_teachers()

    def _answered(self, rollouts: Iterable[Rollout]) -> None:
        for rollout in rollouts:
            self._open[rollout.step] -= 1
        self._maybe_train()
