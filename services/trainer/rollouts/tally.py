"""What happened to a step's rollouts; becomes metrics."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rgopd.common.conversation import own_tokens
from rgopd.common.streams import GENERATE, VERIFY
from rgopd.protos import rollout_pb2


@dataclass
class Tally:
    """Counts and sums over one step."""

    rewards: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    truncated: int = 0
    turns: list[int] = field(default_factory=list)
    """Of each conversation, the student's."""
    between: int = 0
    """Tokens that their environments said."""
    out_of_turns: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    unscored: int = 0
    unscored_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    redraws: int = 0
    dropped_groups: int = 0
    by_domain: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def total(self) -> int:
        """Rollouts that were asked for."""
        # One that the teacher failed on has its verdict, and is counted there.
        return sum(self.verdicts.values()) + self.failures[GENERATE] + self.failures[VERIFY]

    @property
    def error_fraction(self) -> float:
        """Share of rollouts that a stage could not tell or make."""
        return (self.verdicts["error"] + sum(self.failures.values())) / self.total if self.total else 0.0

    def note(self, rollout: rollout_pb2.Rollout) -> None:
        """Its length in tokens of the student's own, and how it ended."""
        own_T = own_tokens(rollout)
        self.lengths.append(rollout.response_ids.shape[0] if own_T is None else int(own_T.sum()))
        self.truncated += rollout.finish_reason == rollout_pb2.FINISH_LENGTH
        if own_T is not None or rollout.HasField("check"):
            own_T = np.ones(rollout.response_ids.shape[0], bool) if own_T is None else own_T
            self.turns.append(int(own_T[0]) + int((np.diff(own_T.astype(np.int8)) == 1).sum()))
            self.between += int((~own_T).sum())
            self.out_of_turns += rollout.finish_reason == rollout_pb2.FINISH_TURNS

    def metrics(self) -> dict[str, Any]:
        """Flat scalars for metrics.jsonl."""
        count = max(1, len(self.rewards))
        return {
            "rollouts": self.total,
            "reward_mean": sum(self.rewards) / count,
            "pass_rate": self.verdicts["passed"] / max(1, self.verdicts["passed"] + self.verdicts["failed"]),
            "verdicts": {s: self.verdicts[s] for s in ("passed", "failed", "error")},
            "response_length_mean": sum(self.lengths) / max(1, len(self.lengths)),
            "truncated_fraction": self.truncated / max(1, len(self.lengths)),
            "unscored_rollouts": self.unscored,
            "unscored_tokens": self.unscored_tokens,
            "stage_failures": dict(self.failures),
            "redrawn_groups": self.redraws,
            "dropped_groups": self.dropped_groups,
            "reward_by_domain": {d: sum(r) / len(r) for d, r in sorted(self.by_domain.items())},
            **self._conversations(),
        }

    def _conversations(self) -> dict[str, Any]:
        """Of a step that has some; other runs' rows stay as they are."""
        if not self.turns:
            return {}
        return {
            "turns_mean": sum(self.turns) / len(self.turns),
            "observation_tokens_mean": self.between / len(self.turns),
            "out_of_turns_fraction": self.out_of_turns / len(self.turns),
        }
