"""Settings of `rgopd train`: everything of a run, and what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rgopd.common.explain import did_you_mean
from rgopd.common.models import Dtype
from rgopd.common.parts import as_meant
from rgopd.common.settings import Settings
from rgopd.trainer.config.evaluation import EvalConfig
from rgopd.trainer.config.loss import DistillationConfig, ObjectiveConfig
from rgopd.trainer.config.sampling import SamplingConfig, TurnsConfig
from rgopd.trainer.config.steps import BatchConfig, CheckpointConfig, FaultConfig, OptimConfig
from rgopd.trainer.gating.gate import GateConfig, gate_preset
from rgopd.trainer.losses.tiles import Kernels
from rgopd.trainer.objectives import Objective, get_objective
from rgopd.trainer.objectives.registry import option_names
from rgopd.trainer.objectives.weighted_sum import WeightedSum
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.environments import environments_named
from rgopd.trainer.records.monitors import MonitorConfig
from rgopd.trainer.records.watch import WatchConfig
from rgopd.trainer.student.compiled import Compile
from rgopd.trainer.student.fsdp_options import FsdpConfig
from rgopd.trainer.student.lora import LoraOptions

GATES = ("auto", "paper", "released", "off")


class TrainConfig(Settings):
    """Everything of a training run."""

    student: str = Field(description="Hugging Face folder or id of the student to start from.")
    dataset: DatasetConfig = Field(description="Prompts to train on.")
    output_dir: Path = Field(Path("runs/run"), description="The run's folder: metrics, checkpoints, the student.")
    steps: int = Field(0, ge=0, description="Optimiser steps; 0: as many as `epochs` passes over the data need.")
    epochs: int = Field(1, ge=1, description="Passes over the data, where `steps` is 0.")
    seed: int = Field(
        0, ge=0, lt=1 << 63, description="Decides prompts' order, samples and adapters: same seed, same run."
    )
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
    compile: Compile = Field(
        "auto",
        description="torch.compile: whole decoder layers, under FSDP and activation checkpointing. auto: layers where "
        "compile_backend is named, else off (decision 026).",
    )
    compile_backend: str = Field("", description="torch.compile's backend; empty: inductor, which needs a compiler.")
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
        if self.sampling.n == 1 and (gate.enabled or not objective.needs_teacher):
            raise ValueError(
                "sampling.n=1: an advantage compares the responses to one prompt, so that it would always be 0; set "
                "sampling.n to 2 or more" + (", or gate=off" if objective.needs_teacher else "")
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
