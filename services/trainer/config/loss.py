"""Settings of what is minimised: the objective, and the ids that it compares student and teacher at."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from rgopd.common.parts import Part
from rgopd.trainer.objectives import Objective, get_objective
from rgopd.trainer.objectives.registry import names


class ObjectiveConfig(Part):
    """Which loss; `options` go to the objective (docs/objectives.md)."""

    word_key: ClassVar[str] = "name"
    word_replaces: ClassVar[bool] = True

    name: str = Field("rg_opd", description="rg_opd is the paper's; `rgopd config reference objective` lists all.")
    options: dict[str, Any] = Field(default_factory=dict, description="The objective's own settings.")

    @classmethod
    def from_word(cls, word: Any) -> Any:
        """Its name, in any case and with - for _."""
        return {"name": word.strip().lower().replace("-", "_")} if isinstance(word, str) else word

    @classmethod
    def word_schemas(cls) -> list[dict[str, Any]]:
        """All objectives' names."""
        return [{"enum": names(), "description": "An objective with its own defaults (docs/objectives.md)."}]

    @classmethod
    def what_is_known(cls) -> str:
        """All objectives."""
        return f"known objectives: {', '.join(names())}"

    def build(self) -> Objective:
        """The objective itself; ValueError lists what is known."""
        return get_objective(self.name, **self.options)


class DistillationConfig(Part):
    """The support of Eq. 4."""

    word_key: ClassVar[str] = "k"

    k: int = Field(50, ge=1, le=1024, description="Ids a position that student and teacher are compared at.")
    support: Literal["student", "teacher", "none"] = Field(
        "student",
        description="Whose k likeliest ids they are. none: the sampled token alone, all that some servers give "
        "(docs/objectives.md); k and tail mean nothing then.",
    )
    tail: Literal["tail", "none", "renormalise"] = Field(
        "tail", description="What becomes of the mass outside the k ids: one more bucket, nothing, or spread over them."
    )

    support_from: Literal["behaviour", "current"] = Field(
        "behaviour",
        description="With support student: whose top k it is, the policy's that sampled, or the current student's, "
        "chosen in the trainer's forward among `margin` x k ids that sampler and teacher name (decision 111).",
    )
    margin: int = Field(2, ge=2, le=16, description="With support_from current: times k, ids that the teacher scores.")

    @model_validator(mode="after")
    def _whose(self) -> DistillationConfig:
        if self.support_from == "current" and self.support != "student":
            raise ValueError(
                f"distillation.support_from=current chooses among the student's ids: set support=student, not "
                f"{self.support!r}"
            )
        return self

    @property
    def width(self) -> int:
        """Ids a position that the teacher is asked about."""
        return 0 if self.support == "none" else self.k * (self.margin if self.current_k else 1)

    @property
    def current_k(self) -> int:
        """How many of them the current student chooses; 0: the loss is summed on all."""
        return self.k if self.support_from == "current" else 0
