"""A sampler: rollouts that decode together, each step of which costs a fixed part and a part for each of them."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field

from rgopd.simulate.costs import SamplerCosts
from rgopd.simulate.workload import Workload

_ROUNDING = 1e-6
"""Of a token: sums of floats."""


@dataclass(frozen=True)
class Rollout:
    """One response to be."""

    step: int
    tokens: int


@dataclass
class Request:
    """Rollouts of some groups, all by one policy version."""

    version: int
    rollouts: list[Rollout]
    open: int = field(init=False)

    def __post_init__(self) -> None:
        self.open = len(self.rollouts)


class Sampler:
    """One replica, by the rules of `rgopd.sampler`: requests are taken while the KV cache has room for their rollouts,
    at half as many tokens again as the mean so far; a request for other weights waits until the rollouts before it
    have ended, and holds back those behind it.
    """

    def __init__(self, costs: SamplerCosts, workload: Workload) -> None:
        self.costs, self.workload = costs, workload
        self.version = -1
        self.waiting: Request | None = None
        self.rows: list[tuple[float, int, Rollout, Request]] = []
        """(place on the clock where it ends, ...): a heap."""
        self.turn = 0
        """Grows with everything that moves the next end."""
        self.busy_s = 0.0
        self._order = itertools.count()
        self._clock = 0.0  # tokens that a rollout which was always there would have
        self._since = 0.0
        self._held_until = 0.0  # by a load or a prefill
        self._ended = self._tokens = self._held_prompts = 0

    @property
    def used(self) -> float:
        """Tokens of KV cache that the rollouts in work will need."""
        return self._need(len(self.rows)) + self._held_prompts

    def _need(self, rows: int) -> float:
        most = self.workload.max_new_tokens
        return rows * (min(most, 1.5 * self._tokens / self._ended) if self._ended else most / 2)

    def _prompts(self, request: Request) -> int:
        """A group's prompt is there once."""
        return -(-len(request.rollouts) // self.workload.n) * self.workload.prompt_tokens

    def has_room(self, request: Request) -> bool:
        """Whether it would take another request."""
        if self.waiting is not None:
            return False
        need = self._need(len(request.rollouts)) + self._prompts(request)
        return not self.rows or self.used + need <= self.costs.kv_tokens

    def begin_waiting(self, now: float, announced: int) -> bool:
        """Begin the request that waits, if its policy is there and what runs is of the same; whether it did."""
        request = self.waiting
        if request is None or request.version > announced or (self.rows and request.version != self.version):
            return False
        self._advance(now)
        held = self._prompts(request) * self.costs.prefill_s_token
        if request.version != self.version:
            self.version = request.version
            held += self.costs.load_s
        self._held_until = max(self._held_until, now) + held
        self.busy_s += held
        self._held_prompts += self._prompts(request)
        for rollout in request.rollouts:
            heapq.heappush(self.rows, (self._clock + rollout.tokens, next(self._order), rollout, request))
        self.waiting, self.turn = None, self.turn + 1
        return True

    def next_end_s(self, now: float) -> float:
        """Seconds until the next rollout ends."""
        return max(0.0, self._held_until - now) + max(0.0, self.rows[0][0] - self._clock) * self._token_s()

    def ended(self, now: float) -> list[Rollout]:
        """Take out the rollouts that have."""
        self._advance(now)
        found = []
        while self.rows and self.rows[0][0] <= self._clock + _ROUNDING:
            _, _, rollout, request = heapq.heappop(self.rows)
            request.open -= 1
            self._held_prompts -= 0 if request.open else self._prompts(request)
            self._ended, self._tokens = self._ended + 1, self._tokens + rollout.tokens
            found.append(rollout)
        self.turn += 1
        return found

    def _token_s(self) -> float:
        return self.costs.step_s + len(self.rows) * self.costs.step_s_rollout

    def _advance(self, now: float) -> None:
        began = max(self._since, self._held_until)
        if self.rows and now > began:
            self._clock += (now - began) / self._token_s()
            self.busy_s += now - began
        self._since = now
