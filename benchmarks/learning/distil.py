"""One run in one process, out of the trainer's own parts: sampler, objective, gate, train step, schedule.

Only the services around them are left out: the teacher is a forward pass here, and the demo's small judge stands in for
the verifier.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.learning.methods import MAX_TOKENS, PROMPTS, STEPS, Method, N
from rgopd.common.identity import derive_seed
from rgopd.sampler.engine import Sample, SampleSpec, SamplingOptions
from rgopd.sampler.transformers import TransformersSampler
from rgopd.trainer.batch.micro_batch import MicroBatch, Part, assemble
from rgopd.trainer.batch.plan import RolloutPlan, cut_micro_batches
from rgopd.trainer.config import OptimConfig
from rgopd.trainer.demo.rollout import encode_prompt, is_right
from rgopd.trainer.demo.simulate import CHECKPOINTS
from rgopd.trainer.demo.task import generate
from rgopd.trainer.gating.advantage import group_advantage
from rgopd.trainer.gating.gate import gate_preset
from rgopd.trainer.losses.head import HeadStats, head_stats
from rgopd.trainer.objectives import get_objective
from rgopd.trainer.objectives.step import HeadLoss
from rgopd.trainer.run.schedule import lr_factor
from rgopd.trainer.run.train_step import TrainStep
from rgopd.trainer.student.model import Student

OPTIM = OptimConfig(lr=1e-3, warmup_steps=10)
ROWS = 256
"""Rollouts sampled as one batch; held-out problems answered as one batch."""

Row = dict[str, Any]


class Arena:
    """Student, teacher and sampler of the demo's task."""

    def __init__(self, seed: int, steps: int = STEPS, eval_problems: int = 500) -> None:
        self.seed, self.steps = seed, steps
        self.student = Student.load(str(CHECKPOINTS / "student"), packing=True)
        self.teacher = Student.load(str(CHECKPOINTS / "teacher"), packing=True).eval()
        self.sampler = TransformersSampler(str(CHECKPOINTS / "student"), device="cpu")
        self.tokenizer = self.sampler.tokenizer
        self.stream = generate(seed, steps * PROMPTS, "train")
        self.held_out = generate(0, eval_problems, "eval")

    def run(self, method: Method, note: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
        """Train with a method; accuracies before and after, and every step's metrics."""
        optimizer = AdamW(
            self.student.parameters(), lr=OPTIM.lr, betas=OPTIM.betas, weight_decay=OPTIM.weight_decay, foreach=False
        )
        runner = TrainStep(
            self.student,
            optimizer,
            LambdaLR(optimizer, lambda step: lr_factor(step, self.steps, OPTIM)),
            get_objective(method.objective, **method.options),
            gate_preset(method.gate),
            temperature=1.0,
            grad_clip=OPTIM.grad_clip,
            single_pass=True,
        )
        result: dict[str, Any] = {"before": self.accuracy(), "steps": []}
        for step in range(self.steps):
            started = time.perf_counter()
            metrics = self._step(step, runner, method)
            metrics["seconds"] = time.perf_counter() - started
            result["steps"].append(metrics)
            note(metrics)
        result["after"] = self.accuracy()
        return result

    def accuracy(self) -> dict[str, float]:
        """Greedy, on held-out problems, by family, by domain and kind, and over all."""
        hits: dict[str, list[bool]] = {}
        for start in range(0, len(self.held_out), ROWS):
            rows = self.held_out[start : start + ROWS]
            for row, sample in zip(rows, self._sample(rows, "eval", temperature=0.0, k=1), strict=True):
                right = is_right(row, self.sampler.decode(sample.response_ids_T))
                for name in ("all", row["domain"][0], f"{row['domain'][0]}/{row['kind']}", row["domain"]):
                    hits.setdefault(name, []).append(right)
        return {name: sum(found) / len(found) for name, found in sorted(hits.items())}

    def _sample(self, rows: Sequence[Row], *seed: object, temperature: float = 1.0, k: int) -> list[Sample]:
        self.sampler.model.load_state_dict(self.student.hf.state_dict())
        prompts = [np.array(encode_prompt(self.tokenizer, row["prompt"]), dtype=np.int32) for row in rows]
        specs = [SampleSpec(p, derive_seed(self.seed, *seed, i)) for i, p in enumerate(prompts)]
        found: dict[int, Sample] = {}
        self.sampler.generate(specs, SamplingOptions(temperature, 1.0, 0, MAX_TOKENS, k), found.__setitem__)
        return [found[i] for i in range(len(rows))]

    def _step(self, step: int, runner: TrainStep, method: Method) -> dict[str, Any]:
        rows = [row for row in self.stream[step * PROMPTS : (step + 1) * PROMPTS] for _ in range(N)]
        samples = [
            sample
            for start in range(0, len(rows), ROWS)
            for sample in self._sample(rows[start : start + ROWS], step, start, k=method.k)
        ]
        rewards = [
            float(is_right(row, self.sampler.decode(s.response_ids_T))) for row, s in zip(rows, samples, strict=True)
        ]
        advantages = torch.cat([group_advantage(g) for g in torch.tensor(rewards).split(N)]).tolist()
        parts = {f"r{i:04d}": self._part(row, s) for i, (row, s) in enumerate(zip(rows, samples, strict=True))}
        plans = [
            RolloutPlan(name, len(p.prompt_ids_C), len(p.response_ids_T), rewards[i], advantages[i], step)
            for i, (name, p) in enumerate(parts.items())
        ]
        [micros] = cut_micro_batches(plans, 1, 4096, 128, packing=True)
        batches = [self._scored(assemble([parts[r.rollout_id] for r in m], m, step=step, total_steps=self.steps,
                                         packing=True)) for m in micros]  # fmt: skip
        by_domain = _ByDomain({f"r{i:04d}": row["domain"][0] for i, row in enumerate(rows)})
        metrics: dict[str, Any] = dict(runner.run(batches, by_domain.note))
        metrics["reward"] = sum(rewards) / len(rewards)
        metrics["length"] = sum(len(s.response_ids_T) for s in samples) / len(samples)
        for domain in "AB":
            mine = [r for r, row in zip(rewards, rows, strict=True) if row["domain"][0] == domain]
            metrics[f"reward_{domain}"] = sum(mine) / len(mine)
        return metrics | by_domain.fractions()

    def _part(self, row: Row, sample: Sample) -> Part:
        prompt = np.array(encode_prompt(self.tokenizer, row["prompt"]), dtype=np.int32)
        return Part(prompt, sample.response_ids_T, sample.sampled_logprobs_T, sample.support_ids_TK, None, None, None)

    @torch.no_grad()
    def _scored(self, micro: MicroBatch) -> MicroBatch:
        """With the teacher's log-probs at the student's support."""

        def head(hidden_ND: Tensor, weight_VD: Tensor) -> tuple[Tensor, HeadStats]:
            stats = head_stats(hidden_ND, weight_VD, micro.tokens.sampled_ids_N, micro.tokens.support_ids_NK)
            return stats.sampled_logprobs_N, stats

        _, stats = self.teacher(micro.input_ids_BS, None, micro.rows_N, head, micro.packed)
        tokens = dataclasses.replace(
            micro.tokens,
            teacher_sampled_N=stats.sampled_logprobs_N,
            teacher_support_NK=stats.support_logprobs_NK,
            teacher_tail_N=stats.tail_logprob_N,
        )
        return dataclasses.replace(micro, tokens=tokens)


class _ByDomain:
    """What the gate keeps where the teacher is right (A) and where it is not (B), by the sign of the advantage."""

    def __init__(self, domain_of: dict[str, str]) -> None:
        self.domain_of = domain_of
        self.counts: Counter[str] = Counter()

    def note(self, micro: MicroBatch, result: HeadLoss) -> None:
        kept_R = torch.bincount(micro.tokens.rollout_N[result.decision.keep_N], minlength=len(micro.rollout_ids))
        total_R = micro.tokens.tokens_R()
        for r, name in enumerate(micro.rollout_ids):
            advantage, reward = float(micro.tokens.advantage_R[r]), float(micro.tokens.reward_R[r])
            sign = "zero_right" if reward else "zero_wrong"
            if advantage:
                sign = "positive" if advantage > 0 else "negative"
            key = f"{self.domain_of[name]}_{sign}"
            self.counts[f"kept_{key}"] += int(kept_R[r])
            self.counts[f"tokens_{key}"] += int(total_R[r])

    def fractions(self) -> dict[str, float]:
        return {k: float(v) for k, v in self.counts.items()}


def save_student(folder: Path, student: Student) -> None:
    """For a look at a run's end."""
    student.hf.save_pretrained(folder)
