"""The check behind `rgopd doctor`: a few rollouts of the run's own sampler, and the trainer's log-probs of them.

Two engines compute the same model with other kernels, in 16 bits with other roundings. What they differ by is what a
run on policy is off policy by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rgopd.sampler.config import SamplerConfig
from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.main import make_engine
from rgopd.trainer.batch.micro_batch import Part, assemble
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.gating.gate import gate_preset
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.objectives.step import head_loss
from rgopd.trainer.student.fsdp_options import pick_device
from rgopd.trainer.student.model import Student

ROLLOUTS, TOKENS = 8, 64
Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Mismatch:
    """Over all tokens of some rollouts."""

    drift: float
    """Mean |log pi_trainer - log pi_sampler|, nats a token: the metric `behaviour_drift`."""
    largest: float
    ratio_mean: float
    """Of pi_trainer / pi_sampler: `importance_mean`; 1 where both compute the same distribution."""
    effective_fraction: float
    """Effective sample size over tokens: `importance_effective_fraction`."""
    tokens: int


def mismatch(train: TrainConfig, sampler: SamplerConfig, prompts: list[Ids]) -> Mismatch:
    """Sample as the run will, then compute as the trainer will, in its dtype and on its device, without FSDP."""
    samples = _sample(train, sampler, prompts)
    gaps_T = _gaps(train, prompts, samples)
    ratio_T = np.exp(np.clip(gaps_T, -20, 20))
    return Mismatch(
        float(np.abs(gaps_T).mean()),
        float(np.abs(gaps_T).max()),
        float(ratio_T.mean()),
        float(ratio_T.sum() ** 2 / np.square(ratio_T).sum() / len(ratio_T)),
        len(gaps_T),
    )


def _sample(train: TrainConfig, config: SamplerConfig, prompts: list[Ids]) -> list[Sample]:
    sampling = train.sampling
    tokens = min(TOKENS, sampling.max_new_tokens)
    options = SamplingOptions(sampling.temperature, sampling.top_p, sampling.top_k, tokens, 1)
    engine: Any = make_engine(config)
    found: dict[int, Sample] = {}
    try:
        specs = [SampleSpec(prompt_ids_C, seed) for seed, prompt_ids_C in enumerate(prompts)]
        engine.generate(specs, options, found.__setitem__)
    finally:
        if hasattr(engine, "close"):
            engine.close()
    return [found[index] for index in range(len(prompts))]


@torch.no_grad()
def _gaps(train: TrainConfig, prompts: list[Ids], samples: list[Sample]) -> NDArray[np.float64]:
    """Trainer's less sampler's log-prob of every response token."""
    device = pick_device(train.device, 0)
    student = Student.load(train.student, shared_vocab_size=train.shared_vocab_size, packing=train.batch.packing)
    student = student.to(device, getattr(torch, train.dtype)).eval()
    parts, plans = [], []
    for number, (prompt_ids_C, sample) in enumerate(zip(prompts, samples, strict=True)):
        zeros_T = np.zeros(len(sample.response_ids_T), np.float32)
        support_TK = sample.support_ids_TK
        scored = zeros_T, np.zeros(support_TK.shape, np.float32), zeros_T
        parts.append(Part(prompt_ids_C, sample.response_ids_T, sample.sampled_logprobs_T, support_TK, *scored))
        plans.append(RolloutPlan(f"doctor-{number}", len(prompt_ids_C), len(zeros_T), 1.0, 0.0, 0))
    micro = assemble(parts, plans, step=0, total_steps=1, packing=student.packing).to(device)

    def head(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> tuple[torch.Tensor, Any]:
        objective, gate = get_objective("reverse_kl"), gate_preset("off")  # only the log-probs are looked at
        options = student.head_options(train.sampling.temperature)
        result = head_loss(hidden_ND, weight_VD, micro.tokens, objective, gate, kernels=train.head_kernels, **options)
        return result.sums.loss, result

    _, result = student(micro.input_ids_BS, micro.attention_mask_BS, micro.rows_N, head, micro.packed)
    gaps_N = (result.stats.sampled_logprobs_N - micro.tokens.behaviour_logprobs_N).double().cpu().numpy()
    return np.asarray(gaps_N)
