"""One micro-batch from hidden states to the raw sums of Eq. 3: head, gate, objective, in two passes or in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rgopd.trainer.gating.gate import GateConfig, GateDecision, decide_gate
from rgopd.trainer.losses.eager import outside_graphs
from rgopd.trainer.losses.fused import fused_head_loss
from rgopd.trainer.losses.head import HeadStats, head_stats
from rgopd.trainer.losses.normalise import RawSums, raw_sums
from rgopd.trainer.losses.tiles import Kernels, Walk, compute_dtype
from rgopd.trainer.objectives.base import Objective, TokenBatch
from rgopd.trainer.objectives.current_support import on_current_support


@dataclass(frozen=True)
class HeadLoss:
    """``sums.loss`` is what to call backward on; the rest is detached."""

    sums: RawSums
    decision: GateDecision
    metrics: dict[str, Tensor]
    stats: HeadStats


@outside_graphs
def head_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    batch: TokenBatch,
    objective: Objective,
    gate: GateConfig,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    chunk_size: int | None = None,
    single_pass: bool = False,
    kernels: Kernels = "auto",
    walk: Walk = "auto",
    bias_V: Tensor | None = None,
    soft_cap: float = 0.0,
) -> HeadLoss:
    """The gated loss of whole rollouts, gate and loss from the same forward pass.

    Two passes (default): ``head_stats``, gate on the current student's log-probs, objective, and the backward pass
    makes the kept rows' logits again. ``single_pass``: the gate is first predicted from the behaviour log-probs,
    which on policy are the current ones up to rounding; gradients are made on that prediction in the forward pass,
    the true gate is then read off the same statistics, and the rows it disagrees on are repaired by a second pass
    over them alone. Loss and gradient are those of the exact gate either way. Objectives that look at more than one
    token at a time (``row_local`` False), teachers with another tokenizer, and supports of the current student
    (``batch.current_k``) always take two passes.
    """
    options: dict[str, Any] = {"temperature": temperature, "vocab_size": vocab_size, "chunk_size": chunk_size}
    options |= {"kernels": kernels, "walk": walk, "bias_V": bias_V, "soft_cap": soft_cap}
    one_pass = single_pass and objective.row_local and batch.aligned_N is None and not batch.current_k
    if one_pass and hidden_ND.shape[0]:
        return _one_pass(hidden_ND, weight_VD, batch, objective, gate, options)
    stats = head_stats(
        hidden_ND,
        weight_VD,
        batch.sampled_ids_N,
        batch.support_ids_NK,
        need_entropy=objective.needs_entropy,
        **options,
    )
    own, on_own, support = on_current_support(stats, batch)
    output = objective.token_losses(own, on_own)
    decision = _decide(gate, batch, stats.sampled_logprobs_N)
    # Ranks add these up key by key, so a rank without a row names the same ones as a rank with some.
    metrics = output.metrics | support | ({"gate_mispredicted_tokens": torch.zeros(())} if one_pass else {})
    return HeadLoss(raw_sums(output, decision.keep_N), decision, metrics, _detached(stats))


def _one_pass(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    batch: TokenBatch,
    objective: Objective,
    gate: GateConfig,
    options: Mapping[str, object],
) -> HeadLoss:
    predicted_N = _decide(gate, batch, batch.behaviour_logprobs_N).keep_N
    metrics: dict[str, Tensor] = {}

    def token_loss(stats: HeadStats, rows: Tensor) -> Tensor:
        output = objective.token_losses(stats, batch.take(rows))
        for key, value in output.metrics.items():
            metrics[key] = metrics[key] + value if key in metrics else value
        return output.loss_N

    fused = fused_head_loss(
        hidden_ND,
        weight_VD,
        batch.sampled_ids_N,
        batch.support_ids_NK,
        token_loss,
        predicted_N.to(compute_dtype(hidden_ND)),
        need_entropy=objective.needs_entropy,
        **options,  # type: ignore[arg-type]
    )
    decision = _decide(gate, batch, fused.stats.sampled_logprobs_N)
    loss = fused.loss
    wrong_W = (decision.keep_N != predicted_N).nonzero().squeeze(1)
    if wrong_W.numel():
        part = batch.take(wrong_W)
        stats = head_stats(
            hidden_ND[wrong_W],
            weight_VD,
            part.sampled_ids_N,
            part.support_ids_NK,
            need_entropy=objective.needs_entropy,
            **options,  # type: ignore[arg-type]
        )
        sign_W = torch.where(decision.keep_N[wrong_W], 1.0, -1.0)
        loss = loss + (sign_W * objective.token_losses(stats, part).loss_N).sum()
    metrics["gate_mispredicted_tokens"] = torch.tensor(float(wrong_W.numel()))
    return HeadLoss(RawSums(loss, decision.keep_N.double().sum()), decision, metrics, fused.stats)


def _decide(gate: GateConfig, batch: TokenBatch, student_sampled_N: Tensor) -> GateDecision:
    teacher_N = batch.teacher_sampled_N
    if teacher_N is None:
        if gate.enabled:
            raise ValueError("the gate compares teacher and student, and the batch has no teacher log-probs")
        teacher_N = student_sampled_N
    return decide_gate(
        gate,
        batch.advantage_R,
        batch.reward_R,
        teacher_N,
        student_sampled_N,
        batch.rollout_N,
        step=batch.step,
        aligned_N=batch.aligned_N,
    )


def _detached(stats: HeadStats) -> HeadStats:
    return HeadStats(
        stats.sampled_logprobs_N.detach(),
        stats.support_logprobs_NK.detach(),
        stats.tail_logprob_N.detach(),
        None if stats.entropy_N is None else stats.entropy_N.detach(),
    )
