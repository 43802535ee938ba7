"""A run as the simulator sees it: how many rollouts of which lengths, and what is there to serve them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """The config keys that decide the load.

    Args:
        mean_tokens, sigma: response lengths are log-normal around this mean, cut at `max_new_tokens`.
        prompt_tokens: the same for all.
        k: support width; 0 for a run without a teacher.
        max_staleness: 0 is on-policy: stages take turns. 1 and more let them overlap.
    """

    prompts_per_step: int
    n: int
    groups_per_request: int
    mean_tokens: float
    max_new_tokens: int
    sigma: float = 0.5
    prompt_tokens: int = 300
    k: int = 50
    max_staleness: int = 0

    @property
    def rollouts(self) -> int:
        """Rollouts of one step."""
        return self.prompts_per_step * self.n

    def lengths(self, rng: random.Random, count: int) -> list[int]:
        """Response lengths, in tokens. sigma 0: all the mean."""
        mu = math.log(self.mean_tokens) - self.sigma**2 / 2
        return [max(1, min(self.max_new_tokens, round(rng.lognormvariate(mu, self.sigma)))) for _ in range(count)]

    def rollout_bytes(self, tokens: int) -> int:
        """ids (4), sampled log-prob (4) and K support ids (4 each) a response token; 4 a prompt token; 300 around."""
        return tokens * (8 + 4 * self.k) + 4 * self.prompt_tokens + 300

    def score_bytes(self, tokens: int) -> int:
        """Sampled log-prob and tail (8) and K log-probs (4 each) a response token."""
        return tokens * (8 + 4 * self.k) + 200


@dataclass(frozen=True)
class Cluster:
    """Replicas of each stage, and trainer ranks."""

    trainer_ranks: int
    samplers: int
    teachers: int
    verifiers: int
    teacher_gpus: int = 1

    @property
    def gpus(self) -> int:
        """GPUs in all: one a rank and a sampler."""
        return self.trainer_ranks + self.samplers + self.teachers * self.teacher_gpus
