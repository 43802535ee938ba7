"""What the orchestrator tells every rank about a step: names and scalars, never tensors."""

from __future__ import annotations

import dataclasses
import heapq
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RolloutPlan:
    """One rollout to train on. Its tensors are in the blob store, under its id."""

    rollout_id: str
    prompt_tokens: int
    response_tokens: int
    reward: float
    advantage: float
    policy_version: int
    digest: str = ""
    """Of the response, for the ledger."""
    temperature: float | None = None
    """What it was sampled at; None: the run's."""
    observation_tokens: int = 0
    """Between the turns of a conversation: in the forward pass, and in no count of response tokens."""

    @property
    def tokens(self) -> int:
        """Length of the forward pass."""
        return self.prompt_tokens + self.response_tokens + self.observation_tokens


@dataclass(frozen=True)
class StepPlan:
    """The rollouts of a step, cut into micro-batches: micro_batches[rank][i] is a list of rollouts.

    Every rank has equally many, since FSDP's collectives must match; a rank short of work gets empty ones.
    """

    step: int
    micro_batches: list[list[list[RolloutPlan]]]
    metrics: dict[str, Any] = field(default_factory=dict)
    watched: list[str] = field(default_factory=list)
    """Rollouts whose token figures are kept for people."""

    def to_json(self) -> bytes:
        """For the broadcast to the ranks: data, no pickle."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> StepPlan:
        """Inverse of `to_json`."""
        raw = json.loads(data)
        cut = [[[RolloutPlan(**r) for r in micro] for micro in rank] for rank in raw["micro_batches"]]
        return cls(raw["step"], cut, raw["metrics"], raw["watched"])


def cut_micro_batches(
    rollouts: Sequence[RolloutPlan], ranks: int, max_tokens: int, max_rollouts: int, *, packing: bool = False
) -> list[list[list[RolloutPlan]]]:
    """Cut by token budget and balance over ranks; a function of the set of rollouts alone. A micro-batch is of one
    temperature: the head divides all of its logits by it.

    Padded, the budget counts padding, and rollouts of like length go together, so little is padding. With `packing` it
    counts real tokens, and every micro-batch gets about equally many. A rollout over the budget makes a micro-batch
    of its own. Returns [ranks][equal count][rollouts].
    """
    micros: list[list[RolloutPlan]] = []
    for alike in _by_temperature(rollouts):
        ordered = sorted(alike, key=lambda r: (-r.tokens, r.rollout_id))
        if packing:
            micros += _pack(ordered, ranks, max_tokens, max_rollouts)
        else:
            micros += _padded(ordered, max_tokens, max_rollouts)
    if packing:
        return _deal(micros, ranks, lambda m: sum(r.tokens for r in m))
    _split_to_multiple(micros, ranks)
    return _deal(micros, ranks, _padded_tokens)


def _by_temperature(rollouts: Sequence[RolloutPlan]) -> list[list[RolloutPlan]]:
    """At least one list, which may be empty: every rank needs a micro-batch."""
    found: dict[float, list[RolloutPlan]] = {}
    for rollout in rollouts:
        found.setdefault(rollout.temperature or 0.0, []).append(rollout)
    return [found[temperature] for temperature in sorted(found)] or [[]]


def _padded(ordered: list[RolloutPlan], max_tokens: int, max_rollouts: int) -> list[list[RolloutPlan]]:
    micros: list[list[RolloutPlan]] = []
    for rollout in ordered:
        # Sorted by length: the first of a micro-batch is its longest, so it sets the padded width.
        current = micros[-1] if micros else None
        if current and len(current) < max_rollouts and current[0].tokens * (len(current) + 1) <= max_tokens:
            current.append(rollout)
        else:
            micros.append([rollout])
    return micros


def _deal(
    micros: list[list[RolloutPlan]], ranks: int, cost: Callable[[list[RolloutPlan]], int]
) -> list[list[list[RolloutPlan]]]:
    """Snake order: the rank that got the most expensive one gets the cheapest of the next round."""
    micros = sorted(micros, key=lambda m: (-cost(m), m[0].rollout_id if m else ""))
    shares: list[list[list[RolloutPlan]]] = [[] for _ in range(ranks)]
    for start in range(0, len(micros), ranks):
        row = micros[start : start + ranks]
        for share, micro in zip(shares if (start // ranks) % 2 == 0 else reversed(shares), row, strict=True):
            share.append(micro)
    return shares


def _pack(ordered: list[RolloutPlan], ranks: int, max_tokens: int, max_rollouts: int) -> list[list[RolloutPlan]]:
    """As few micro-batches as fit, a multiple of `ranks`: the longest rollout first, to the emptiest micro-batch."""
    total = sum(r.tokens for r in ordered)
    least = max(-(-total // max_tokens), -(-len(ordered) // max_rollouts), 1)
    count = -(-least // ranks) * ranks
    while (micros := _fill(ordered, count, max_tokens, max_rollouts)) is None:
        count += ranks
    return micros


def _fill(ordered: list[RolloutPlan], count: int, max_tokens: int, max_rollouts: int) -> list[list[RolloutPlan]] | None:
    micros: list[list[RolloutPlan]] = [[] for _ in range(count)]
    emptiest = [(0, i) for i in range(count)]
    for rollout in ordered:
        while emptiest and len(micros[emptiest[0][1]]) == max_rollouts:
            heapq.heappop(emptiest)
        if not emptiest:
            return None
        load, index = emptiest[0]
        if micros[index] and load + rollout.tokens > max_tokens:
            return None
        micros[index].append(rollout)
        heapq.heapreplace(emptiest, (load + rollout.tokens, index))
    return micros


def _split_to_multiple(micros: list[list[RolloutPlan]], ranks: int) -> None:
    """Halve the costliest micro-batches until every rank gets equally many; fill up with empty ones."""
    while len(micros) % ranks or not micros:
        index = max(range(len(micros)), key=lambda i: (len(micros[i]), -i), default=-1)
        if index < 0 or len(micros[index]) < 2:
            micros.append([])
            continue
        half = (len(micros[index]) + 1) // 2
        micros[index : index + 1] = [micros[index][:half], micros[index][half:]]


def _padded_tokens(micro: list[RolloutPlan]) -> int:
    return max((r.tokens for r in micro), default=0) * len(micro)
