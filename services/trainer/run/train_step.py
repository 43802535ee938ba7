"""One optimiser step over a plan: forward, gate, loss, backward a micro-batch; one global normaliser; step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rgopd.common.errors import ConfigError
from rgopd.trainer.batch.micro_batch import MicroBatch
from rgopd.trainer.gating.gate import GateConfig
from rgopd.trainer.losses.buckets import bucket_logprobs
from rgopd.trainer.losses.head import HeadStats
from rgopd.trainer.losses.normalise import all_reduce_sums, gradient_scale
from rgopd.trainer.losses.tiles import Kernels
from rgopd.trainer.objectives import Objective
from rgopd.trainer.objectives.step import HeadLoss, head_loss
from rgopd.trainer.run.optimizer import scale_and_clip
from rgopd.trainer.student.compiled import explained
from rgopd.trainer.student.model import CPU, Student
from rgopd.trainer.student.reference import Reference

OnMicroBatch = Callable[[MicroBatch, HeadLoss], None]


@dataclass
class TrainStep:
    """What a step needs besides its batch; built once."""

    student: Student
    optimizer: Optimizer
    scheduler: LRScheduler
    objective: Objective
    gate: GateConfig
    temperature: float
    """Of micro-batches that bring none."""
    grad_clip: float
    single_pass: bool = False
    """Make the gradient while the head's logits are at hand, on the gate that the behaviour log-probs predict, and
    repair what they predicted wrongly: exact either way, cheaper where behaviour and student are one policy."""
    reference: Reference | None = None
    """Gives `reference_logprobs_N` to objectives that ask for it."""
    importance_clip: float | None = None
    """For the metrics: where the objective truncates importance weights."""
    device: torch.device = CPU
    kernels: Kernels = "auto"
    max_drift: float = math.inf
    """Nats a token: a step whose rollouts the student sampled as it is may not differ from them by more."""

    def run(
        self,
        micro_batches: list[MicroBatch],
        on_micro_batch: OnMicroBatch | None = None,
        *,
        unscored_tokens: float = 0.0,
        on_policy: bool = False,
    ) -> dict[str, float]:
        """Take the step; returns metrics that are equal on all ranks. `micro_batches`: as many on every rank.

        `on_policy`: the rollouts are of the very weights that are trained, and `max_drift` is held against them.

        `unscored_tokens`: of all ranks' rollouts that the teacher was not asked about: gated out like the others.
        """
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for host in micro_batches:
            micro = host.to(self.device)
            if self.reference is not None:
                micro = self.reference.add_to(micro)
            result = self._forward_backward(micro)
            _accumulate(sums, _sums_of(micro, result, self.importance_clip), self.device)
            if on_micro_batch is not None and not micro.empty:
                on_micro_batch(micro, result)
        totals = all_reduce_sums(sums)  # empty micro-batches too go through gate and objective: keys agree on all ranks
        metrics = _metrics(totals, unscored_tokens)
        if on_policy:
            self._check_drift(metrics["behaviour_drift"])
        scale = gradient_scale(
            totals["count"],
            kept_fraction=metrics["kept_fraction"],
            min_kept_fraction=self.gate.min_kept_fraction,
            averaged_over=dist.get_world_size(),
        )
        metrics["lr"] = float(self.scheduler.get_last_lr()[0])
        metrics["skipped"] = float(scale is None)
        metrics["grad_norm"] = 0.0 if scale is None else self._apply(scale)
        self.scheduler.step()
        return metrics

    def _check_drift(self, drift: float) -> None:
        """Before the weights change.

        Raises:
            ConfigError: the trainer computes another distribution than the one that was sampled from.
        """
        if not drift <= self.max_drift:
            raise ConfigError(
                f"the student's log-probs of its own rollouts are {drift:.3g} nats a token off those that the sampler "
                f"gave them (limit {self.max_drift:.3g}): sampler and trainer compute different distributions, and "
                "nothing was trained. Check that the sampler holds the same model and shared_vocab_size, and run "
                "`rgopd doctor`; where it differs on purpose (fp8), raise fault.max_drift"
            )

    def _forward_backward(self, micro: MicroBatch) -> HeadLoss:
        def head(hidden_ND: Tensor, weight_VD: Tensor) -> tuple[Tensor, HeadLoss]:
            result = head_loss(
                hidden_ND,
                weight_VD,
                micro.tokens,
                self.objective,
                self.gate,
                **self.student.head_options(micro.temperature or self.temperature),
                single_pass=self.single_pass,
                kernels=self.kernels,
            )
            return result.sums.loss, result

        result: HeadLoss
        loss, result = self.student(micro.input_ids_BS, micro.attention_mask_BS, micro.rows_N, head, micro.packed)
        with explained():  # backward is compiled when it is first needed
            loss.backward()
        return result

    def _apply(self, scale: float) -> float:
        """Divide once, clip, step. Returns the gradient norm before clipping.

        Raises:
            FloatingPointError: the gradient is not finite; nothing was changed.
        """
        parameters = [p for p in self.student.parameters() if p.grad is not None]
        value = scale_and_clip(parameters, scale, self.grad_clip)
        if value != value or value in (float("inf"), float("-inf")):
            raise FloatingPointError(
                f"the gradient's norm is {value}; the weights were not changed. Look at the last rollouts and their "
                "teacher scores; lower optim.lr, or set dtype to float32"
            )
        self.optimizer.step()
        return value


def _sums_of(micro: MicroBatch, result: HeadLoss, importance_clip: float | None) -> dict[str, Tensor]:
    log_ratio_N = result.stats.sampled_logprobs_N - micro.tokens.behaviour_logprobs_N
    ratio_N = log_ratio_N.clamp(-20.0, 20.0).exp()
    sums = {
        "count": result.sums.count,
        "loss": result.sums.loss.detach(),
        "tokens": torch.tensor(float(ratio_N.numel())),
        "sequence_tokens": torch.tensor(float(micro.sequence_tokens)),
        "padded_tokens": torch.tensor(float(micro.input_ids_BS.numel() * (not micro.empty))),
        "behaviour_drift": log_ratio_N.abs().sum(),
        "ratio": ratio_N.sum(),
        "ratio_squared": ratio_N.square().sum(),
        "ratio_truncated": (ratio_N > importance_clip).sum() if importance_clip else torch.zeros(()),
        "entropy": _entropy(result.stats, micro.tokens.support_ids_NK).sum(dtype=torch.float64),
        "dropped": torch.tensor(float(micro.dropped.tokens if micro.dropped else 0)),
        **{f"gate/{k}": v for k, v in result.decision.stats.items()},
        **{f"objective/{k}": v for k, v in result.metrics.items()},
    }
    for key, value in (micro.dropped.stats if micro.dropped else {}).items():
        sums[f"gate/{key}"] = sums[f"gate/{key}"] + value.to(sums[f"gate/{key}"].device)
    return sums


def _entropy(stats: HeadStats, support_ids_NK: Tensor) -> Tensor:
    """``[N]`` nats: the vocabulary's where the objective asked for it, else that of support and tail, which is less."""
    if stats.entropy_N is not None:
        return stats.entropy_N
    if support_ids_NK.shape[1] == 0:  # an estimate, right on average where the student sampled
        return -stats.sampled_logprobs_N
    buckets_NB = bucket_logprobs(stats.support_logprobs_NK, stats.tail_logprob_N, support_ids_NK, "tail")
    return -(buckets_NB.exp() * buckets_NB).sum(dim=-1)


def _accumulate(sums: dict[str, Tensor], more: dict[str, Tensor], device: torch.device) -> None:
    """On the device that computes: a sum moved to the host would wait for it."""
    for key, value in more.items():
        value = value.detach().to(device, torch.float64)
        sums[key] = sums[key] + value if key in sums else value


def _metrics(totals: dict[str, float], unscored: float) -> dict[str, float]:
    """Ratios of global sums. Tokens dropped before the forward, or never scored, count as gated out, not as padding."""
    forwarded, everything = max(1.0, totals["tokens"]), max(1.0, totals["tokens"] + totals["dropped"])
    kept = sum(totals.get(f"gate/tokens_kept_{s}", 0.0) for s in ("positive", "zero", "negative"))
    metrics = {
        "loss": totals["loss"] / totals["count"] if totals["count"] else 0.0,
        "response_tokens": totals["tokens"] + totals["dropped"],
        "kept_tokens": kept,
        "kept_fraction": kept / max(1.0, totals["tokens"] + totals["dropped"] + unscored),
        "prefiltered_fraction": totals["dropped"] / everything,
        "padding_fraction": 1 - totals["sequence_tokens"] / max(1.0, totals["padded_tokens"]),
        "behaviour_drift": totals["behaviour_drift"] / forwarded,
        "entropy": totals["entropy"] / forwarded,
        "importance_mean": totals["ratio"] / forwarded,
        "importance_effective_fraction": totals["ratio"] ** 2 / max(1e-30, totals["ratio_squared"]) / forwarded,
        "importance_truncated_fraction": totals["ratio_truncated"] / forwarded,
    }
    for sign in ("positive", "zero", "negative"):
        total = totals.get(f"gate/tokens_total_{sign}", 0.0)
        rollouts = totals.get(f"gate/rollouts_total_{sign}", 0.0)
        metrics[f"tokens_{sign}"] = total
        metrics[f"kept_fraction_{sign}"] = totals.get(f"gate/tokens_kept_{sign}", 0.0) / max(1.0, total)
        metrics[f"teacher_gap_{sign}"] = totals.get(f"gate/gap_{sign}", 0.0) / max(1.0, total)
        metrics[f"teacher_above_{sign}"] = totals.get(f"gate/teacher_above_{sign}", 0.0) / max(1.0, rollouts)
    for key, value in totals.items():
        if key.startswith("objective/"):
            metrics[key.removeprefix("objective/")] = value / forwarded
    return metrics
