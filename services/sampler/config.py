"""Settings of `rgopd sampler`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rgopd.common.models import Dtype
from rgopd.common.settings import ServiceSettings

EngineName = Literal["transformers", "vllm"]


class SamplerConfig(ServiceSettings):
    """A sampler holds the student and serves the stream `generate`."""

    student: str = Field(description="Hugging Face folder or id of the student; later weights come by policy version.")
    engine: Literal["auto", "transformers", "vllm"] = Field(
        "auto", description="auto: vLLM on CUDA where it is installed, else transformers."
    )
    vllm: dict[str, Any] = Field(
        default_factory=dict, description="Engine arguments of vLLM, e.g. gpu_memory_utilization, max_model_len."
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that vLLM spreads the student over.")
    dtype: Dtype = Field("float32", description="Of weights and activations.")
    device: str = Field("auto", description="auto: cuda where there is one, else cpu.")
    threads: int = Field(0, ge=0, description="CPU threads; 0: torch's default.")
    shared_vocab_size: int = Field(0, ge=0, description="Ids from here on are never sampled. 0: all may be.")
    lora_rank: int = Field(
        0,
        ge=0,
        le=512,
        description="vLLM: take policy versions that are adapters of up to this rank (train.lora.publish=adapter; "
        "`up` fills it in). 0: whole weights.",
    )
    colocated: bool = Field(
        False,
        description="Give the device's memory back after every request: the trainer, which must be colocated too, "
        "computes on the same one.",
    )
    policy_timeout_s: float = Field(
        300.0, gt=0, description="How long to wait for a policy version that a request asks for."
    )

    def pick_engine(self, *, cuda: bool, vllm: bool) -> EngineName:
        """The engine in force, by whether it computes on CUDA and vLLM is installed."""
        if self.engine != "auto":
            return self.engine
        return "vllm" if cuda and vllm and self.device != "cpu" else "transformers"
