"""Settings of validation on held-out prompts."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from rgopd.common.parts import Part
from rgopd.trainer.prompts.config import DatasetConfig


class EvalConfig(Part):
    """Validation on held-out prompts, through sampler and verifier: greedy, and by sampling where `samples` is set."""

    word_key: ClassVar[str] = "dataset"

    @classmethod
    def from_word(cls, word: Any) -> Any:
        """A dataset's path; `off` is no evaluation."""
        return {"dataset": None} if word is False or word == "off" else super().from_word(word)

    dataset: DatasetConfig | None = Field(None, description="Held-out prompts; null: no evaluation.")
    every: int = Field(0, ge=0, description="Steps between evaluations; 0: only before the first and after the last.")
    n: int = Field(500, ge=1, description="Prompts to use, from the start of the dataset.")
    groups_per_request: int = Field(64, ge=1, description="Prompts sampled as one batch.")
    samples: int = Field(0, ge=0, description="Responses sampled a prompt, for pass@k; 0: greedy alone.")
    k: list[int] = Field([1], min_length=1, description="The ks of pass@k; none over `samples`.")
    temperature: float = Field(0.6, gt=0, description="Of the sampled responses.")
    top_p: float = Field(1.0, gt=0, le=1, description="Of the sampled responses.")
    best: str = Field(
        "accuracy", pattern=r"^accuracy$|^pass@[1-9]\d*$", description="What decides which student is the best."
    )
    keep_best: bool = Field(True, description="Keep the best student so far as the run's folder `best`.")
    patience: int = Field(0, ge=0, description="Stop after so many evaluations without a better one; 0: never.")
    min_delta: float = Field(0.0, ge=0, description="A gain up to this is none.")

    @model_validator(mode="after")
    def _consistent(self) -> EvalConfig:
        if self.samples and not all(1 <= k <= self.samples for k in self.k):
            raise ValueError(f"eval.k={self.k}: each needs at least as many eval.samples (now {self.samples})")
        if self.best != "accuracy" and (not self.samples or int(self.best.partition("@")[2]) not in self.k):
            raise ValueError(f"eval.best={self.best!r}: name a k of eval.k={self.k}, with eval.samples set")
        if self.patience and not self.every:
            raise ValueError("eval.patience counts evaluations: set eval.every to steps between them")
        if self.dataset is not None and (self.dataset.streaming or self.dataset.selection.active):
            raise ValueError("eval.dataset: the same prompts are asked each time, so no streaming and no selection")
        return self
