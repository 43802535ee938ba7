"""How many replicas keep the trainer busy, and what fits into a number of GPUs."""

from __future__ import annotations

import bisect
import math
import random
from dataclasses import dataclass, replace
from functools import lru_cache

from rgopd.simulate.costs import Costs
from rgopd.simulate.workload import Cluster, Workload

TARGET = 0.8
"""Share of its time that a stage may be busy: a queue grows without bound as this goes to 1."""
SLACK = 0.25
"""What other rollouts may add to the time of the longest, as a share of it."""


@dataclass(frozen=True)
class Demand:
    """Replica-seconds that one step asks of each stage."""

    sampler: float
    teacher: float
    verifier: float
    trainer: float
    store: float
    store_bytes: int


@lru_cache(maxsize=8)
def _lengths(workload: Workload, seed: int) -> list[int]:
    """Of one step; the search for a size asks for them several times."""
    return workload.lengths(random.Random(seed), workload.rollouts)


def demand(workload: Workload, costs: Costs, ranks: int, seed: int = 0) -> Demand:
    """By the same arithmetic as the simulation, without waiting."""
    lengths = _lengths(workload, seed)
    tokens, prompts = sum(lengths), workload.rollouts * workload.prompt_tokens
    batches = math.ceil((tokens + prompts) / costs.teacher.batch_tokens)
    rollout_bytes = sum(map(workload.rollout_bytes, lengths))
    score_bytes = sum(map(workload.score_bytes, lengths)) if workload.k else 0
    moved = (3 if workload.k else 2) * rollout_bytes + 2 * score_bytes
    return Demand(
        sampler=_sampling_s(lengths, workload, costs),
        teacher=(batches * costs.teacher.batch_s + (tokens + prompts) * costs.teacher.token_s) if workload.k else 0.0,
        verifier=workload.rollouts * costs.verifier.item_s / costs.verifier.slots,
        trainer=costs.trainer.step_s + (tokens + prompts) * costs.trainer.token_s / ranks,
        store=costs.store.work_s(11 * workload.rollouts, moved),
        store_bytes=moved,
    )


def _sampling_s(lengths: list[int], workload: Workload, costs: Costs) -> float:
    """One request after the other, each as long as its longest response."""
    size, total = workload.groups_per_request * workload.n, 0.0
    for start in range(0, len(lengths), size):
        total += _mixed_s(lengths[start : start + size], workload, costs)
    return total


def _mixed_s(lengths: list[int], workload: Workload, costs: Costs, samplers: int = 1) -> float:
    """Rollouts that begin together on several samplers, until the last of them ends."""
    prompts = math.ceil(len(lengths) / workload.n) * workload.prompt_tokens
    work = prompts * costs.sampler.prefill_s_token + costs.sampler.step_s_rollout * sum(lengths)
    return costs.sampler.step_s * max(lengths) + work / samplers


def _least_s(workload: Workload, costs: Costs, seed: int = 0) -> float:
    """What a policy version takes in a sampler that mixes requests, however few rollouts it has of it."""
    lengths = _lengths(workload, seed)
    return costs.sampler.load_s + (1 + SLACK) * costs.sampler.step_s * max(lengths)


def _samplers(workload: Workload, costs: Costs, step_s: float, seed: int = 0) -> int:
    """Samplers that mix requests: so many that a step's rollouts end in time; where the longest of them alone takes
    longer than that, so many that the others add no more than `SLACK` to it."""
    lengths = _lengths(workload, seed)
    longest_s = costs.sampler.step_s * max(lengths)
    allowed = max(TARGET * step_s, _least_s(workload, costs)) - costs.sampler.load_s
    need = min(workload.max_new_tokens, 1.5 * workload.mean_tokens) + workload.prompt_tokens / workload.n
    room = math.ceil(workload.rollouts * need / costs.sampler.kv_tokens)
    work = _mixed_s(lengths, workload, costs) - longest_s
    return max(room, math.ceil(work / (allowed - longest_s)), 1)


def balanced(workload: Workload, costs: Costs, ranks: int, teacher_gpus: int = 1) -> Cluster:
    """Replicas that keep up with `ranks` trainer ranks where stages overlap (max_staleness 1 or more)."""
    needs = demand(workload, costs, ranks)
    # A version is written beside the next step; the one after it waits for that.
    step = max(needs.trainer, costs.trainer.publish_s)
    if costs.sampler.kv_tokens:
        step = max(step, _least_s(workload, costs))

    def replicas(work: float, lost: float = 0.0) -> int:
        return max(1, math.ceil(work / max(0.1 * step, TARGET * step - lost)))

    teachers = replicas(needs.teacher) if workload.k else 0
    if costs.sampler.kv_tokens:
        samplers = _samplers(workload, costs, step)
    else:
        samplers = replicas(needs.sampler, costs.sampler.load_s)  # each loads every policy version once
    return Cluster(ranks, samplers, teachers, replicas(needs.verifier), teacher_gpus)


def fit(workload: Workload, costs: Costs, gpus: int, teacher_gpus: int) -> tuple[Workload, Cluster]:
    """The largest balanced cluster within `gpus`; the step's prompts grow with the ranks. Where samplers that keep up
    with one rank do not fit, as many as do: they are what the step then waits for.

    Raises:
        ValueError: not even one of each fits.
    """

    def with_ranks(ranks: int) -> tuple[Workload, Cluster]:
        scaled = replace(workload, prompts_per_step=max(1, workload.prompts_per_step * ranks // 2))
        return scaled, balanced(scaled, costs, ranks, teacher_gpus)

    ranks = bisect.bisect_right(range(1, gpus), gpus, key=lambda r: with_ranks(r)[1].gpus)
    if not ranks:
        scaled, cluster = with_ranks(1)
        left = gpus - cluster.gpus + cluster.samplers
        if left < 1:
            raise ValueError(
                f"{gpus} GPUs are too few for a cluster; the least is {cluster.gpus - cluster.samplers + 1}"
            )
        return scaled, replace(cluster, samplers=left)
    return with_ranks(ranks)
