"""The ledger: which rollouts each step was trained on, and what they were worth.

One line a step in ledger.jsonl, cut back to the checkpoint at a resume as metrics.jsonl is. Two lives of a run are the
same run exactly if their ledgers and final weights are.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from rgopd.protos import rollout_pb2
from rgopd.trainer.batch.plan import StepPlan
from rgopd.trainer.records.metrics import JsonLines


def rollout_digest(rollout: rollout_pb2.Rollout) -> str:
    """16 hex digits of the sha256 of the response's ids and behaviour log-probs."""
    sha = hashlib.sha256(rollout.response_ids.data)
    sha.update(rollout.sampled_logprobs.data)
    return sha.hexdigest()[:16]


class Ledger:
    """Append-only; `start` is the step a resumed run continues with."""

    def __init__(self, folder: Path, start: int) -> None:
        self._lines = JsonLines(folder / "ledger.jsonl", lambda row: row["step"] < start)

    def write(self, plan: StepPlan) -> None:
        """Note a step that was taken."""
        used = sorted((r for rank in plan.micro_batches for micro in rank for r in micro), key=lambda r: r.rollout_id)
        rollouts = [
            {"id": r.rollout_id, "digest": r.digest, "reward": r.reward, "advantage": r.advantage} for r in used
        ]
        self._lines.write({"step": plan.step, "rollouts": rollouts})

    def sync(self) -> None:
        """See `JsonLines.sync`."""
        self._lines.sync()

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
