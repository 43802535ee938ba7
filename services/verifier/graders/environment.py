"""kind "environment": the task is judged by its environment alone; the last reward that it gave is the verdict.

The sampler fills in `outcome` as a conversation ends, of any kind where its environment broke.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rgopd.verifier.graders.base import Grader, Lane, Spec, Tools
from rgopd.verifier.verdict import Verdict, error, failed, passed


class EnvironmentOutcome(BaseModel):
    """How a conversation ended."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["ended", "error"]
    reward: float | None = Field(None, ge=0, le=1, allow_inf_nan=False, description="null: the environment gave none.")
    reason: str = ""


class EnvironmentSpec(Spec):
    """Fields of an item that an environment judges."""

    outcome: EnvironmentOutcome | None = Field(None, description="Filled in by the sampler; rows leave it out.")


class EnvironmentGrader(Grader[EnvironmentSpec]):
    """Passes on what the environment said."""

    kind = "environment"
    lane = Lane.inline
    spec = EnvironmentSpec

    def grade(self, response: str, spec: EnvironmentSpec, tools: Tools) -> Verdict:
        """Passed from reward 1 on; `error` where the environment could not tell."""
        outcome = spec.outcome
        if outcome is None:
            return error("this item is judged by its environment, and no conversation with one was held")
        if outcome.status == "error":
            return error(f"environment: {outcome.reason}")
        if outcome.reward is None:
            return failed(outcome.reason or "the conversation ended before its environment gave a reward")
        return passed(outcome.reason) if outcome.reward >= 1 else failed(outcome.reason, reward=outcome.reward)
