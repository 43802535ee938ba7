"""How long the trainer waits: what section `fault` says, and in proportion for long responses (decision 116)."""

from __future__ import annotations

from dataclasses import dataclass

from rgopd.common.deadlines import for_response
from rgopd.common.streams import VERIFY
from rgopd.trainer.config import FaultConfig, TrainConfig


@dataclass(frozen=True)
class Patience:
    """Seconds, for responses of at most `tokens` tokens of which one request holds `rows`."""

    fault: FaultConfig
    tokens: int
    rows: int

    @property
    def in_work_s(self) -> float:
        """How long a stage whose workers are alive may say nothing: all rows of a request may end together."""
        return for_response(self.fault.wait_for_services_s, self.tokens, self.rows)

    @property
    def step_s(self) -> float:
        """How long a step or an evaluation may go without one rollout getting further."""
        return for_response(self.fault.step_timeout_s, self.tokens, self.rows)

    def redispatch_s(self, stage: str) -> float:
        """After how long a twin of an answer in work is asked for; 0: never. Checks do not grow with tokens."""
        base_s = self.fault.redispatch_s
        return base_s if stage == VERIFY else for_response(base_s, self.tokens, self.rows)

    def waits(self) -> dict[str, float]:
        """The arguments of `Join.wait`."""
        return {"quiet_s": self.fault.wait_for_services_s, "in_work_s": self.in_work_s, "timeout_s": self.step_s}


def rows_of(config: TrainConfig) -> int:
    """Rows of one request for training."""
    return config.sampling.groups_per_request * config.sampling.n


def patience_of(config: TrainConfig, rows: int) -> Patience:
    """That of a run, for requests of `rows` rollouts."""
    return Patience(config.fault, config.longest_response, rows)


def longest_wait_s(config: TrainConfig) -> float:
    """How long rank 0 may wait at most between two collectives: every answer of a step, its redraws, or of an
    evaluation may come as late as it is allowed to."""
    sampling, evaluation = config.sampling, config.eval
    step = sampling.prompts_per_step * sampling.n * (config.fault.max_redraws + 1)
    asked = evaluation.n * (1 + evaluation.samples) if evaluation.dataset else 0
    requests = 1 + max(step // max(1, rows_of(config)), asked // evaluation.groups_per_request)
    rows = max(rows_of(config), evaluation.groups_per_request)
    return patience_of(config, rows).step_s * requests
