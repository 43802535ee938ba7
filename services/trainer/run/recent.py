"""A few rollouts of each step with their per-token teacher-student gaps, for people who watch."""

from __future__ import annotations

from typing import Any

from rgopd.trainer.batch.micro_batch import MicroBatch
from rgopd.trainer.objectives.step import HeadLoss


class Recent:
    """Collects up to `limit` rollouts of a step."""

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.tokenizer = tokenizer
        self.limit = limit
        self.rows: list[dict[str, Any]] = []

    def note(self, micro: MicroBatch, result: HeadLoss) -> None:
        """Called after each micro-batch."""
        tokens = micro.tokens
        if len(self.rows) >= self.limit or tokens.teacher_sampled_N is None:
            return
        gap_N = tokens.teacher_sampled_N - result.stats.sampled_logprobs_N
        for row, rollout_id in enumerate(micro.rollout_ids[: self.limit - len(self.rows)]):
            mine_N = tokens.rollout_N == row
            self.rows.append(
                {
                    "rollout_id": rollout_id,
                    "step": tokens.step,
                    "reward": float(tokens.reward_R[row]),
                    "advantage": float(tokens.advantage_R[row]),
                    "kept": result.decision.keep_N[mine_N].int().tolist(),
                    "tokens": self.tokenizer.convert_ids_to_tokens(tokens.sampled_ids_N[mine_N].tolist()),
                    "teacher_minus_student": [round(g, 4) for g in gap_N[mine_N].tolist()],
                }
            )
