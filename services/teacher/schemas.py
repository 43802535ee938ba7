"""The JSON door. The binary door says the same in protos/teacher.proto."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from rgopd.teacher.items import Across, SupportKind

# fail_fast: a body of a million bad items must not make a million error records.
Id = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Ids = Annotated[list[Id], Field(fail_fast=True)]
Rows = Annotated[list[Ids], Field(fail_fast=True)]


class RolloutIn(BaseModel):
    """One rollout to score."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Yours; answers carry it back.", examples=["r-1"])
    prompt_ids: Ids = Field(
        [],
        description="The prompt's token ids, at least one; a teacher that aligns reads messages.",
        examples=[[3, 14, 15]],
    )
    messages: list[dict[str, Any]] | None = Field(
        None, description="The prompt as chat messages {role, content}, for a teacher with another tokenizer (/info)."
    )
    response_ids: Ids = Field(description="The sampled token ids, T of them, at least one.", examples=[[9, 2]])
    support_ids: Rows | None = Field(
        None,
        description='With support "student": T rows of K distinct ids; -1 pads a row that has fewer.',
        examples=[[[9, 8, 7], [2, 1, 0]]],
    )


class ScoreTopkRequest(BaseModel):
    """Rollouts to score under one set of options."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field("", description="Optional; refused unless it is the model that this service holds.")
    k: int = Field(0, description='Width of the support. Needed with "teacher"; with "student" the width of its rows.')
    support: SupportKind = Field(
        "student",
        description="student: score at your support_ids; teacher: the teacher's own top-k; none: sampled ids alone.",
    )
    temperature: float = Field(1.0, description="The run's sampling temperature; logits are divided by it.")
    across: Across = Field(
        "mapped",
        description="With support student, of a teacher with another tokenizer (docs/objectives.md): the student's ids "
        "where a token maps one to one; ranked: the teacher's own largest k log-probs at the first token of every "
        "chunk; hybrid: both, ranked where no token maps.",
    )
    rollouts: list[RolloutIn] = Field(fail_fast=True, description="At least one.")


class ScoreOut(BaseModel):
    """One rollout's teacher score; natural-log probabilities."""

    id: str
    sampled_logprobs: list[float] = Field(description="[T], exact")
    topk_ids: list[list[int]] | None = Field(
        None, description="[T, K]; absent with support none; a row of -2 is ranked: the teacher's own, best first"
    )
    topk_logprobs: list[list[float]] | None = Field(None, description="[T, K]; -10000 at padded ids")
    tail_logprob: list[float] | None = Field(None, description="[T], log of the mass outside topk_ids")
    aligned: list[int] | None = Field(
        None,
        description="[T], of a teacher with another tokenizer: the aligned chunk of each token, -1: no value there",
    )
    rest_logprob: list[float] | None = Field(
        None, description="[T], with ranked rows: log-prob of the teacher's tokens of that chunk after its first"
    )


class ScoreTopkResponse(BaseModel):
    """Scores in the order of the rollouts."""

    model: str
    revision: str
    scoring: str = Field(description="Which exact method made the numbers.")
    scores: list[ScoreOut]


def request_schema() -> dict[str, Any]:
    """ScoreTopkRequest's JSON schema in one piece: `$defs` would point nowhere inside an OpenAPI document."""
    schema = ScoreTopkRequest.model_json_schema()
    schema["properties"]["rollouts"]["items"] = schema.pop("$defs")["RolloutIn"]
    return schema


EXAMPLES: dict[str, dict[str, Any]] = {
    "student": {
        "summary": "Score two response ids at three ids each that the student chose",
        "value": {
            "k": 3,
            "support": "student",
            "rollouts": [
                {
                    "id": "r-1",
                    "prompt_ids": [3, 14, 15],
                    "response_ids": [9, 2],
                    "support_ids": [[9, 8, 7], [2, 1, 0]],
                }
            ],
        },
    },
    "teacher": {
        "summary": "The teacher's own top 2 at temperature 0.7",
        "value": {
            "k": 2,
            "support": "teacher",
            "temperature": 0.7,
            "rollouts": [{"id": "r-1", "prompt_ids": [3, 14, 15], "response_ids": [9, 2]}],
        },
    },
    "none": {
        "summary": "The sampled ids' log-probs alone",
        "value": {
            "support": "none",
            "rollouts": [
                {"id": "r-1", "prompt_ids": [3, 14, 15], "response_ids": [9, 2]},
                {"id": "r-2", "prompt_ids": [3, 14, 15], "response_ids": [9, 1, 2]},
            ],
        },
    },
}
