"""Settings of `rgopd train`, one small model a concern."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rgopd.common.errors import ConfigError
from rgopd.common.explain import did_you_mean
from rgopd.common.models import Dtype
from rgopd.common.parts import Part, as_meant
from rgopd.common.settings import Settings
from rgopd.trainer.gating.gate import GateConfig, gate_preset
from rgopd.trainer.losses.tiles import Kernels
from rgopd.trainer.objectives import Objective, get_objective
from rgopd.trainer.objectives.registry import names, option_names
from rgopd.trainer.objectives.weighted_sum import WeightedSum
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.environments import environments_named
from rgopd.trainer.records.monitors import MonitorConfig
from rgopd.trainer.records.watch import WatchConfig
from rgopd.trainer.student.fsdp_options import FsdpConfig
from rgopd.trainer.student.lora import LoraOptions

GATES = ("auto", "paper", "released", "off")


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


class DomainSampling(Part):
    """What a domain's prompts are sampled with where it is not `sampling`'s own."""

    word_key: ClassVar[str] = "temperature"

    temperature: float | None = Field(None, gt=0, description="null: sampling.temperature.")
    max_new_tokens: int | None = Field(None, ge=1, description="null: sampling.max_new_tokens.")


class SamplingConfig(Part):
    """How rollouts are made."""

    prompts_per_step: int = Field(32, ge=1, description="Groups a step.")
    n: int = Field(8, ge=1, description="Rollouts in a group.")
    temperature: float = Field(1.0, gt=0, description="Logits are divided by it; the teacher's and the loss's too.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling; 1: off.")
    top_k: int = Field(0, ge=0, description="0: off.")
    max_new_tokens: int = Field(1024, ge=1, description="Longest response; longer ones are cut and marked truncated.")
    domains: dict[str, DomainSampling] = Field(
        {},
        description="By a prompt's domain (its kind, where neither dataset nor row names one): another temperature "
        "or length, e.g. {code: {temperature: 0.6, max_new_tokens: 2048}}. Each rollout is sampled, scored and trained "
        "at its own.",
    )
    groups_per_request: int = Field(
        8, ge=1, description="Groups sampled as one batch. Part of the numbers: float rounding depends on it."
    )

    def temperature_of(self, domain: str) -> float:
        """Of a domain's rollouts."""
        own = self.domains.get(domain)
        return self.temperature if own is None or own.temperature is None else own.temperature

    def length_of(self, domain: str) -> int:
        """Most tokens of a response to a domain's prompts."""
        own = self.domains.get(domain)
        return self.max_new_tokens if own is None or own.max_new_tokens is None else own.max_new_tokens

    def check_domains(self, known: Collection[str]) -> None:
        """Raises ConfigError where `domains` names one that no prompt is of."""
        for name in self.domains.keys() - set(known):
            hint = did_you_mean(name, known)
            raise ConfigError(
                f"sampling.domains: no prompt is of the domain {name!r}{hint}; the data has {', '.join(sorted(known))}"
            )

    @property
    def longest(self) -> int:
        """The longest response of any domain."""
        return max([self.max_new_tokens, *(d.max_new_tokens or 0 for d in self.domains.values())])


class TurnsConfig(Part):
    """Bounds of rollouts with an environment, which are conversations (docs/environments.md)."""

    word_key: ClassVar[str] = "max_turns"

    max_turns: int = Field(8, ge=1, description="The student's turns; sampling.max_new_tokens bounds each of them.")
    max_total_tokens: int = Field(
        4096, ge=1, description="Tokens after the prompt, observations included; no turn begins beyond them."
    )
    max_observation_tokens: int = Field(1024, ge=1, description="Longer observations are cut.")


class OptimConfig(Part):
    """AdamW with linear warm-up and a cosine (or constant) schedule. The defaults are the paper's (Appendix A.1)."""

    word_key: ClassVar[str] = "lr"

    lr: float = Field(5e-6, gt=0, description="Peak learning rate.")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="Where the cosine ends, as a share of lr.")
    warmup_steps: int = Field(50, ge=0, description="Steps over which the rate rises to lr.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="The rate after the warm-up.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Decay of Adam's two moments.")
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


class TrainConfig(Settings):
    """Everything of a training run."""

    student: str = Field(description="Hugging Face folder or id of the student to start from.")
    dataset: DatasetConfig = Field(description="Prompts to train on.")
    output_dir: Path = Field(Path("runs/run"), description="The run's folder: metrics, checkpoints, the student.")
    steps: int = Field(0, ge=0, description="Optimiser steps; 0: as many as `epochs` passes over the data need.")
    epochs: int = Field(1, ge=1, description="Passes over the data, where `steps` is 0.")
    seed: int = Field(0, ge=0, description="Decides prompts' order, samples and adapters: same seed, same run.")
    objective: ObjectiveConfig = ObjectiveConfig()
    gate: GateConfig | Literal["auto", "paper", "released", "off"] = Field(
        "auto", description="A preset's name or the gate's own keys; auto: what the objective asks for."
    )
    distillation: DistillationConfig = DistillationConfig()
    sampling: SamplingConfig = SamplingConfig()
    turns: TurnsConfig = TurnsConfig()
    optim: OptimConfig = OptimConfig()
    batch: BatchConfig = BatchConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    fault: FaultConfig = FaultConfig()
    monitor: MonitorConfig = MonitorConfig()
    watch: WatchConfig = WatchConfig()
    scale_advantage_by_std: bool = Field(True, description="False: Dr.GRPO.")
    score: Literal["immediately", "after_verdict"] = Field(
        "immediately", description="after_verdict: rollouts that the gate will mask anyway are not sent to the teacher."
    )
    max_staleness: int = Field(
        0, ge=0, le=16, description="0: exactly on-policy. s: rollouts may be s policy versions old (overlaps stages)."
    )
    importance_clip: float | None = Field(
        2.0, gt=0, description="Truncation of the importance weights of stale rollouts; null: no correction."
    )
    importance_correction: Literal["stale", "always"] = Field(
        "stale",
        description="Which tokens get those weights: where rollouts may be stale, or on policy too, against what "
        "sampler and trainer differ by (vLLM's kernels, 16 bits; `rgopd doctor` measures it).",
    )
    gate_prefilter: Literal["off", "behaviour"] = Field(
        "off", description="behaviour: rollouts that the gate wholly drops on behaviour log-probs get no forward."
    )
    dtype: Dtype = Field("float32", description="Computing; master weights and the optimiser stay float32.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU a rank where there is one.")
    fsdp: FsdpConfig = FsdpConfig()
    lora: LoraOptions | None = Field(None, description="Train adapters alone (needs the extra `peft`); null: all.")
    nproc: int = Field(1, ge=1, description="Trainer processes that `rgopd train` starts on this machine.")
    gradient_checkpointing: bool | Literal["selective"] = Field(
        False,
        description="Make activations again in backward: memory for time. selective: products and attention are kept.",
    )
    compile_backend: str = Field(
        "", description="torch.compile's backend for the decoder's MLPs and norms, e.g. inductor; empty: none."
    )
    shared_vocab_size: int = Field(
        0, ge=0, description="Ids from here on exist on neither side (padding rows of the larger vocabulary). 0: all."
    )
    head_kernels: Kernels = Field(
        "auto", description="Passes over the head's logits: Triton's on a GPU (auto checks them first), or PyTorch's."
    )
    threads: int = Field(0, ge=0, description="CPU threads a process; 0: torch's default.")
    colocated: bool = Field(
        False,
        description="Samplers (colocated too) compute on the same device: train only while none of them is at work. "
        "Needs max_staleness 0.",
    )
    policies_dir: Path | None = Field(
        None,
        description="Where policy versions are written; default: the run's folder. On one machine /dev/shm/NAME hands "
        "weights to the samplers through memory alone; after a reboot the newest is made again from the checkpoint.",
    )
    keep_policies: int = Field(2, ge=1, description="Published policy folders kept besides those still needed.")

    @field_validator("gate", mode="before")
    @classmethod
    def _preset_with_changes(cls, value: Any, info: ValidationInfo) -> Any:
        """{preset: released, delta: 0.1} is the preset with one key changed."""
        if isinstance(value, dict) and "preset" in value:
            preset = as_meant(cls, {"gate": value["preset"]})["gate"]
            if preset == "auto" and "objective" in info.data:
                preset = info.data["objective"].build().default_gate
            cls._check_gate_name(preset)
            rest = {k: v for k, v in value.items() if k != "preset"}
            return {**gate_preset(preset).model_dump(), **rest} if rest else preset
        if not isinstance(value, (dict, GateConfig)):
            cls._check_gate_name(value)
        return value

    @staticmethod
    def _check_gate_name(name: Any) -> None:
        if name not in GATES:
            hint = did_you_mean(str(name), GATES)
            raise ValueError(f"unknown gate {name!r}; known: {', '.join(GATES)}, or its own keys{hint}")

    @model_validator(mode="after")
    def _buildable(self) -> TrainConfig:
        objective = self.objective.build()
        if self.dataset.streaming and not self.steps:
            raise ValueError("dataset.streaming does not count its rows, so an epoch has no length: set steps")
        if self.colocated and self.max_staleness:
            raise ValueError("colocated: trainer and samplers take turns on one device; set max_staleness=0")
        if objective.needs_teacher and self.distillation.support not in objective.supports:
            raise ValueError(
                f"objective {objective.name!r} cannot use distillation.support={self.distillation.support!r}; "
                f"it takes {sorted(objective.supports)}"
            )
        if self.gate_prefilter != "off" and not (objective.needs_teacher and objective.row_local):
            raise ValueError(
                f"gate_prefilter={self.gate_prefilter!r} leaves rollouts out, and objective {objective.name!r} has a "
                "part that the gate does not decide about; set gate_prefilter=off"
            )
        gate = self.gate_config()
        if gate.enabled and not objective.needs_teacher:
            raise ValueError(
                f"the gate compares student and teacher, and objective {objective.name!r} asks none; set gate=off"
            )
        drops = self.score == "after_verdict" and gate.enabled and gate.zero_advantage == "mask"
        if drops and not objective.wholly_gated:
            raise ValueError(
                f"score={self.score!r} with gate.zero_advantage='mask' leaves groups of advantage 0 out, and objective "
                f"{objective.name!r} has a part that the gate does not decide about and that learns from them; set "
                "score=immediately"
            )
        return self

    @property
    def environments(self) -> dict[str, str]:
        """Those that the first rows name, to train or to evaluate, and the role of their observations."""
        held_out = environments_named(self.eval.dataset) if self.eval.dataset is not None else {}
        return {**held_out, **environments_named(self.dataset)}

    @property
    def longest_response(self) -> int:
        """Most tokens after a prompt: of a response, or of a conversation where the first rows name environments."""
        if not self.environments:
            return self.sampling.longest
        return max(self.sampling.longest, self.turns.max_total_tokens)

    def gate_config(self) -> GateConfig:
        """The gate in force."""
        if isinstance(self.gate, GateConfig):
            return self.gate
        return gate_preset(self.objective.build().default_gate if self.gate == "auto" else self.gate)

    def build_objective(self) -> Objective:
        """The objective in force, with the run's settings in those of its options that were not given.

        `distillation.tail`; and, where rollouts may be stale (or always), `importance_clip`: a token weighs
        min(pi_theta / mu, clip), truncated importance sampling (Ionides 2008; with the token's ratio as in IMPALA,
        arXiv 1802.01561). Objectives with a ratio of their own have no such option. The parts of a weighted sum are
        filled in the same way.
        """
        return get_objective(self.objective.name, **self._filled(self.objective.name, self.objective.options))

    def _filled(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        settings: dict[str, Any] = {"tail": self.distillation.tail}
        corrects = self.max_staleness or self.importance_correction == "always"
        if corrects and self.importance_clip is not None:
            settings["importance_clip"] = self.importance_clip
        filled = {key: value for key, value in settings.items() if key in option_names(name)} | options
        if name == WeightedSum.name:
            filled["parts"] = [
                {**part.model_dump(), "options": self._filled(part.name, part.options)}
                for part in WeightedSum(**options).parts
            ]
        return filled
