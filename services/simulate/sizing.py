"""How many replicas keep the trainer busy, and what fits into a number of GPUs."""

from __future__ import annotations

import bisect
import math
import random
from dataclasses import dataclass, replace

from rgopd.simulate.costs import Costs
from rgopd.simulate.workload import Cluster, Workload

TARGET = 0.8
"""Share of its time that a stage may be busy: a queue grows without bound as this goes to 1."""


@dataclass(frozen=True)
class Demand:
    """Replica-seconds that one step asks of each stage."""

    sampler: float
    teacher: float
    verifier: float
    trainer: float
    store: float
    store_bytes: int


def demand(workload: Workload, costs: Costs, ranks: int, seed: int = 0) -> Demand:
    """By the same arithmetic as the simulation, without waiting."""
    lengths = workload.lengths(random.Random(seed), workload.rollouts)
    tokens, prompts = sum(lengths), workload.rollouts * workload.prompt_tokens
    size = workload.groups_per_request * workload.n
    sampler = 0.0
    for start in range(0, len(lengths), size):
        batch = sorted(lengths[start : start + size])
        decode = costs.sampler.step_s * batch[-1] + costs.sampler.step_s_rollout * sum(batch)
        sampler += len(batch) * workload.prompt_tokens * costs.sampler.prefill_s_token + decode
    batches = math.ceil((tokens + prompts) / costs.teacher.batch_tokens)
    rollout_bytes = sum(map(workload.rollout_bytes, lengths))
    score_bytes = sum(map(workload.score_bytes, lengths)) if workload.k else 0
    moved = (3 if workload.k else 2) * rollout_bytes + 2 * score_bytes
    return Demand(
        sampler=sampler,
        teacher=(batches * costs.teacher.batch_s + (tokens + prompts) * costs.teacher.token_s) if workload.k else 0.0,
        verifier=workload.rollouts * costs.verifier.item_s / costs.verifier.slots,
        trainer=costs.trainer.step_s + (tokens + prompts) * costs.trainer.token_s / ranks,
        store=costs.store.work_s(11 * workload.rollouts, moved),
        store_bytes=moved,
    )


def balanced(workload: Workload, costs: Costs, ranks: int, teacher_gpus: int = 1) -> Cluster:
    """Replicas that keep up with `ranks` trainer ranks where stages overlap (max_staleness 1 or more)."""
    needs = demand(workload, costs, ranks)
    step = needs.trainer + costs.trainer.publish_s

    def replicas(work: float, lost: float = 0.0) -> int:
        return max(1, math.ceil(work / max(0.1 * step, TARGET * step - lost)))

    teachers = replicas(needs.teacher) if workload.k else 0
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
