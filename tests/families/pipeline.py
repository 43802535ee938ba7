"""One model folder through every service, in one process; every number against the model's own forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM

from rgopd.sampler.config import SamplerConfig
from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.main import make_engine as make_sampler
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines import make_engine
from rgopd.teacher.items import Score, ScoreItem, Scoring
from rgopd.trainer.batch.micro_batch import Part, assemble
from rgopd.trainer.batch.plan import RolloutPlan
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.student.fsdp_options import make_mesh
from rgopd.trainer.student.model import Student, as_stored, full_weights, shard
from rgopd.trainer.student.self_check import load_checked
from rgopd.trainer.student.weights import write_weights

K, STEPS, TEMPERATURE = 5, 2, 0.7
PROMPTS = (13, 5, 13, 8)
"""Tokens of the rollouts' prompts: unequal ones, and two that are sampled as one group."""


@dataclass
class Found:
    """Largest differences, in nats, from the model's own log-probs; relative ones of weights."""

    teacher: float = 0.0
    sampler: float = 0.0
    drift: float = 0.0
    self_loss: float = 0.0
    packed: bool = False
    why: str = ""
    packed_against_padded: float = 0.0
    moved: float = 0.0
    reloaded: float = 0.0
    resampled: float = 0.0
    published: Path | None = field(default=None, repr=False)


def run(folder: Path, work: Path) -> Found:
    """Sample, score, train two steps packed and padded, publish, reload. A refusal is a `ConfigError`.

    The process group of one rank must be up.
    """
    found = Found()
    sampler = make_sampler(SamplerConfig(student=str(folder), device="cpu"))
    model = own_model(folder)
    specs = prompts()
    samples = sample(sampler, specs)
    found.sampler = worst_of_samples(model, specs, samples)
    scores = score(folder, specs, samples)
    found.teacher = worst_of_scores(model, specs, samples, scores)
    padded, metrics, _, _ = train(folder, specs, samples, scores, packing=False)
    found.drift, found.self_loss = metrics[0]["behaviour_drift"], metrics[0]["loss"]
    weights, _, student, config = train(folder, specs, samples, scores, packing=True)
    found.packed, found.why = student.packing, student.unpacked
    before = as_stored(model, dict(model.named_parameters()))
    found.packed_against_padded = worst_weight(padded, weights)
    found.moved = worst_weight({k: v for k, v in before.items() if k in weights}, weights)
    found.published = work / "v00000002"
    write_weights(found.published, weights, config)
    reloaded = own_model(found.published)
    ids = torch.randint(3, 60, (1, 20), generator=torch.Generator().manual_seed(5))
    expected = student.own_logits(ids[0]).log_softmax(-1)
    with torch.no_grad():
        found.reloaded = float((reloaded(ids).logits[0].log_softmax(-1) - expected).abs().max())
    sampler.load_weights(found.published)
    found.resampled = worst_of_samples(reloaded, specs, sample(sampler, specs))
    return found


def own_model(folder: Path) -> Any:
    """The model as transformers loads it, nothing missing; what sees is left out where its text alone is loaded."""
    model, told = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    sees = ("vision_model.", "vision_encoder.", "audio_encoder.", "multi_modal")
    unexpected = [key for key in told["unexpected_keys"] if not key.startswith(sees)]
    assert not any([unexpected, told["missing_keys"], told["mismatched_keys"]]), told
    return model.eval()


def prompts() -> list[SampleSpec]:
    rng = np.random.default_rng(3)
    ids = [rng.integers(3, 60, n, dtype=np.int32) for n in PROMPTS]
    ids[2] = ids[0]
    return [SampleSpec(prompt, seed) for seed, prompt in enumerate(ids)]


def sample(sampler: Any, specs: Sequence[SampleSpec]) -> list[Sample]:
    options = SamplingOptions(temperature=TEMPERATURE, top_p=1.0, top_k=0, max_new_tokens=9, support_k=K)
    got: dict[int, Sample] = {}
    sampler.generate(specs, options, got.__setitem__)
    return [got[i] for i in range(len(specs))]


def score(folder: Path, specs: Sequence[SampleSpec], samples: Sequence[Sample]) -> list[Score]:
    engine = make_engine(TeacherConfig(model=str(folder), dtype="float32", device="cpu"))
    scoring = Scoring("student", K, TEMPERATURE)
    items = [
        ScoreItem(f"r{i}", spec.prompt_ids_C, s.response_ids_T, scoring, s.support_ids_TK)
        for i, (spec, s) in enumerate(zip(specs, samples, strict=True))
    ]
    scores = engine.score(items)
    engine.close()
    return scores


def train(
    folder: Path, specs: Sequence[SampleSpec], samples: Sequence[Sample], scores: Sequence[Score], *, packing: bool
) -> tuple[dict[str, Tensor], list[dict[str, float]], Student, Any]:
    """Published weights after two steps, their metrics, and the student. Weights move by plain SGD."""

    def load(pack: bool) -> Student:
        student = Student.load(str(folder), packing=pack)
        shard(student, make_mesh(torch.device("cpu"), 1, 1), "float32")
        return student

    student, _ = load_checked(load, packing=packing, temperature=TEMPERATURE)
    optimizer = SGD(student.parameters(), lr=1e-2, foreach=False)
    step = TrainStep(
        student,
        optimizer,
        LambdaLR(optimizer, lambda _: 1.0),
        get_objective("reverse_kl"),
        GateConfig(enabled=False),
        TEMPERATURE,
        1e9,
        single_pass=True,
    )
    parts, plans = [], []
    for i, (spec, s, scored) in enumerate(zip(specs, samples, scores, strict=True)):
        # Not its own teacher in the second step, or nothing would move: another distribution of the same support.
        sampled, topk, tail = scored.sampled_logprobs_T, scored.topk_logprobs_TK, scored.tail_logprob_T
        parts.append(
            Part(spec.prompt_ids_C, s.response_ids_T, s.sampled_logprobs_T, s.support_ids_TK, sampled, topk, tail)
        )
        plans.append(RolloutPlan(f"r{i}", len(spec.prompt_ids_C), len(s.response_ids_T), 1.0, 0.0, 0))
    metrics = []
    for number in range(STEPS):
        if number:
            parts = [_another_teacher(part) for part in parts]
        micro = assemble(parts, plans, step=number, total_steps=STEPS, packing=student.packing)
        metrics.append(step.run([micro]))
    return full_weights(student, "float32"), metrics, student, student.hf.config


def _another_teacher(part: Part) -> Part:
    import dataclasses

    assert part.teacher_support_TK is not None
    uniform = np.full_like(part.teacher_support_TK, np.log(0.9 / K))
    tail = np.full(len(uniform), np.log(0.1), np.float32)
    return dataclasses.replace(part, teacher_support_TK=uniform, teacher_tail_T=tail)


def worst_weight(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest absolute difference of two sets of weights."""
    return max(float((a[k].detach().float() - b[k].detach().float()).abs().max()) for k in a.keys() & b.keys())


def plain_logprobs(model: Any, spec: SampleSpec, s: Sample) -> Tensor:
    ids = torch.tensor(np.concatenate([spec.prompt_ids_C, s.response_ids_T])[None], dtype=torch.long)
    with torch.no_grad():
        logits_TV = model(input_ids=ids, use_cache=False).logits[0, len(spec.prompt_ids_C) - 1 : -1].double()
    return torch.log_softmax(logits_TV / TEMPERATURE, dim=-1)


def worst_of_samples(model: Any, specs: Sequence[SampleSpec], samples: Sequence[Sample]) -> float:
    found = [(plain_logprobs(model, spec, s), s) for spec, s in zip(specs, samples, strict=True)]
    return max(_worst_of_column(own_TV, s.response_ids_T, s.sampled_logprobs_T) for own_TV, s in found)


def worst_of_scores(
    model: Any, specs: Sequence[SampleSpec], samples: Sequence[Sample], scores: Sequence[Score]
) -> float:
    worst = 0.0
    for spec, s, scored in zip(specs, samples, scores, strict=True):
        own_TV = plain_logprobs(model, spec, s)
        own_TK = own_TV.gather(1, torch.tensor(s.support_ids_TK, dtype=torch.long))
        worst = max(worst, float((own_TK - torch.tensor(scored.topk_logprobs_TK)).abs().max()))
        worst = max(worst, _worst_of_column(own_TV, s.response_ids_T, scored.sampled_logprobs_T))
    return worst


def _worst_of_column(own_TV: Tensor, ids_T: Any, given_T: Any) -> float:
    own_T = own_TV.gather(1, torch.tensor(ids_T, dtype=torch.long)[:, None])[:, 0]
    return float((own_T - torch.tensor(given_T)).abs().max())
