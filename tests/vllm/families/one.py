"""Families of models through a real vLLM, several in one process: sample, publish changed weights, sample again."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rgopd.sampler.vllm import VllmSampler
from rgopd.trainer.student.model import Student, full_weights
from rgopd.trainer.student.weights import write_weights
from tests.families.build import composed, known, save_tiny
from tests.families.family import Family
from tests.families.pipeline import own_model, prompts, sample, worst_of_samples

ARGUMENTS: dict[str, Any] = {
    "max_model_len": 64,
    "enforce_eager": True,
    "num_gpu_blocks_override": 64,
    "max_num_seqs": 8,
}
SIZES = {
    "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32, "n_head": 1, "n_heads": 1, "num_heads": 1,
    "intermediate_size": 64, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
}  # fmt: skip
"""vLLM's kernels on a CPU know heads from 32 on and experts in multiples of 64; the list's models are smaller."""

OWN_SIZES: dict[str, dict[str, Any]] = {"lfm2": {"conv_dim": 32, "block_dim": 32}}
"""What their published config.json files hold and transformers' own configs do not."""


@dataclass(frozen=True)
class InVllm:
    """Largest differences of the sampled log-probs from the model's own, in nats."""

    sampled: float
    resampled: float
    """After the sampler was given weights that the trainer published under the names of checkpoints."""


def build(family: Family, folder: Path) -> Path:
    """The family's tiny model, with heads that vLLM can compute on a CPU where its own sizes leave them open."""
    sizes = {**known(family.model_type, SIZES), **family.config, **composed(family.parts, SIZES)}
    sizes |= OWN_SIZES.get(family.model_type, {})
    return save_tiny(folder, family.model_type, **sizes)


def run_in_vllm(family: Family, work: Path) -> InVllm:
    """Sample, publish, reload, sample again. A refusal is a `ConfigError`."""
    folder = build(family, work / "model")
    published = publish(folder, work / "v00000001")
    before, after = plain(own_model(folder)), plain(own_model(published))
    engine = VllmSampler(str(folder), arguments=ARGUMENTS)
    try:
        specs = prompts()
        sampled = worst_of_samples(before, specs, sample(engine, specs))
        engine.load_weights(published)
        resampled = worst_of_samples(after, specs, sample(engine, specs))
    finally:
        engine.close()
        del engine
        gc.collect()
    return InVllm(sampled, resampled)


def plain(model: Any) -> Any:
    """vLLM's Transformers backend changes transformers' own classes, which are in this process too: models are made
    before it starts, and told not to be compiled."""
    for module in model.modules():
        module.do_not_compile = True
    return model


def publish(folder: Path, out: Path) -> Path:
    """Other weights of the same student, written as the trainer writes a policy version."""
    student = Student.load(str(folder))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    write_weights(out, full_weights(student, "float32"), student.hf.config)
    return out
