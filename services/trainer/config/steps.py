"""Settings of a step: the optimiser, how a batch is cut, what is kept of it, what it tolerates."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rgopd.common.parts import Part

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Part):
    """AdamW with linear warm-up and a cosine (or constant) schedule. The defaults are the paper's (Appendix A.1)."""

    word_key: ClassVar[str] = "lr"

    lr: float = Field(5e-6, gt=0, description="Peak learning rate.")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="Where the cosine ends, as a share of lr.")
    warmup_steps: int = Field(50, ge=0, description="Steps over which the rate rises to lr.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="The rate after the warm-up.")
    betas: tuple[Decay, Decay] = Field((0.9, 0.95), description="Decay of Adam's two moments.")
    eps: float = Field(1e-8, gt=0, description="Added to the root of Adam's second moment.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled decay.")
    grad_clip: float = Field(1.0, gt=0, description="Largest norm of the whole gradient.")


class BatchConfig(Part):
    """How a step is cut. The loss does not depend on it (one global normaliser)."""

    micro_batch_tokens: int = Field(16_384, ge=1, description="Prompt + response tokens a forward, padding included.")
    micro_batch_rollouts: int = Field(64, ge=1, description="Most rollouts a forward.")
    packing: bool = Field(True, description="Rollouts end to end in one row: no padding but what attention groups.")


class CheckpointConfig(Part):
    """Checkpoints are written aside and renamed; the newest whole one is resumed from."""

    word_key: ClassVar[str] = "every"

    every: int = Field(50, ge=1, description="Steps between checkpoints; the last step always writes one.")
    keep: int = Field(2, ge=1, description="Newest checkpoints that stay on disk.")
    resume: bool = Field(
        True,
        description="false: start over, once: earlier checkpoints are put aside as checkpoints.abandoned-N, and later "
        "lives of the run with the same settings resume it.",
    )
    asynchronous: bool | None = Field(
        None,
        description="Copy the state and write it while training goes on; needs its size in the host's memory. null: "
        "on a GPU.",
    )

    def is_asynchronous(self, on_gpu: bool) -> bool:
        """What is in force on a device."""
        return on_gpu if self.asynchronous is None else self.asynchronous


class FaultConfig(Part):
    """What a step tolerates."""

    max_redraws: int = Field(3, ge=0, description="A group with fewer than min_rollouts usable ones is drawn again.")
    min_rollouts: int = Field(2, ge=1, description="Usable rollouts that a group needs.")
    max_error_fraction: float = Field(
        0.5, gt=0, le=1, description="A step with a larger share of verifier errors or failures stops the run."
    )
    step_timeout_s: float = Field(
        3600.0,
        gt=0,
        description="No rollout of a step or evaluation got further for this long: the run stops. Like those below for "
        "max_new_tokens up to 1024; grows in proportion.",
    )
    wait_for_services_s: float = Field(
        600.0,
        gt=0,
        description="No answer of any stage for this long, and nobody alive where one is owed: the run stops. Where "
        "workers are alive it grows with max_new_tokens.",
    )
    max_drift: float | None = Field(
        None,
        gt=0,
        description="The first step stops where the student's log-probs of its own rollouts are more than this many "
        "nats a token off the sampler's on average. null: 0.05 with dtype float32, else 0.2: above rounding and what "
        "vLLM's kernels do, below another distribution. Raise it where the sampler differs on purpose (fp8).",
    )
    max_restarts: int = Field(
        3, ge=0, description="How often `rgopd train` starts all its ranks again after one of them died."
    )
    redispatch_s: float = Field(
        300.0,
        ge=0,
        description="An answer in work for this long is asked for again from whoever is free; grows with "
        "max_new_tokens. 0: never.",
    )

    def drift_limit(self, dtype: str) -> float:
        """`max_drift`, or what rounding in `dtype` stays far below."""
        return self.max_drift or (0.05 if dtype == "float32" else 0.2)
