"""What every objective reads and returns: one batch format, one function of small tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rgopd.trainer.gating.gate import PresetName
from rgopd.trainer.losses.buckets import TailMode, bucket_logprobs
from rgopd.trainer.losses.head import HeadStats

SupportOwner = Literal["student", "teacher", "none"]
Across = Literal["mapped", "ranked", "hybrid"]
"""Which rows a teacher with another tokenizer is to fill; docs/objectives.md."""


@dataclass(frozen=True)
class TokenBatch:
    """The response tokens of R WHOLE rollouts, flat: N tokens, K support ids. Everything but the student's forward.

    All log-probs are float32, at the run's temperature, over the shared vocabulary. Rewards and teacher values that
    are missing are None, never a constant in their place.
    """

    sampled_ids_N: Tensor
    """int64."""
    behaviour_logprobs_N: Tensor
    """of the sampled token under the policy that sampled it."""
    support_ids_NK: Tensor
    """int64, -1 = padding; K = 0 without a support."""
    rollout_N: Tensor
    """int64, sorted: the row of ``advantage_R`` that a token belongs to."""
    advantage_R: Tensor
    reward_R: Tensor
    teacher_sampled_N: Tensor | None = None
    teacher_support_NK: Tensor | None = None
    teacher_tail_N: Tensor | None = None
    """log mass outside the support; -inf where it holds none."""
    aligned_N: Tensor | None = None
    """int64, of a teacher with another tokenizer: the first token (0..N-1) of the aligned chunk that a token is in, -1
    where the teacher has no value. ``teacher_sampled_N`` is then a chunk's log-likelihood in equal parts, and the
    support of a token without a counterpart is all padding. None: the teacher's tokens are the student's."""
    foreign_N: Tensor | None = None
    """bool, with ``aligned_N``: whether the token's teacher has another tokenizer; of several teachers some may not."""
    ranked_N: Tensor | None = None
    """bool, of teachers that were asked for ranks: the first token of a chunk that is compared by rank. There
    ``teacher_support_NK`` holds the teacher's own K largest log-probs, ``support_ids_NK`` the student's ids."""
    teacher_rest_N: Tensor | None = None
    """with ``ranked_N``: there the teacher's log-prob of its tokens of the chunk after its first."""
    teacher_entropy_N: Tensor | None = None
    """full-vocabulary entropy, where the teacher returned it; else objectives use the buckets'."""
    reference_logprobs_N: Tensor | None = None
    """of the sampled token under a frozen reference policy."""
    proximal_logprobs_N: Tensor | None = None
    """of the sampled token at the start of this optimiser step; default: the behaviour's."""
    step: int = 0
    total_steps: int = 1
    current_k: int = 0
    """How many of the K ids the loss is summed on: those that the current student finds likeliest. 0: all K."""

    def tokens_R(self) -> Tensor:
        """``[R]`` float: response tokens per rollout."""
        return torch.bincount(self.rollout_N, minlength=self.advantage_R.shape[0]).to(self.advantage_R.dtype)

    def take(self, rows: Tensor) -> TokenBatch:
        """The same of some tokens, for objectives that look at one token at a time (``row_local``)."""
        changed = {
            item.name: value[rows]
            for item in dataclasses.fields(self)
            if item.name.endswith(("_N", "_NK")) and (value := getattr(self, item.name)) is not None
        }
        return dataclasses.replace(self, **changed)


@dataclass(frozen=True)
class ObjectiveOutput:
    """Per-token losses before gate and normaliser. The step's loss is the ratio of two global sums,
    ``sum keep * loss_N / sum keep * count_N`` (Eq. 3; ``losses.normalise.raw_sums``)."""

    loss_N: Tensor
    """``[N]``, already multiplied by the token's weight."""
    count_N: Tensor
    """``[N]`` what the token adds to the denominator: 1 for a token mean, 1/T_i for a mean of rollout means."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """0-dim detached SUMS over the tokens (or rollouts, where the name says so), to be divided by global counts."""
    ungated_loss_N: Tensor | None = None
    """``[N]`` a part that the gate leaves alone (reinforcement learning beside distillation)."""


class Objective(Protocol):
    """One training objective: pure, and the same on any cut of a batch into micro-batches of whole rollouts."""

    @property
    def name(self) -> str:
        """How configurations and metrics call it."""

    @property
    def needs_teacher(self) -> bool:
        """Reads the teacher's log-probs: False, and the teacher is not asked."""

    @property
    def needs_entropy(self) -> bool:
        """Asks ``head_stats`` for the entropy over the whole vocabulary."""

    @property
    def needs_reference(self) -> bool:
        """Asks for ``reference_logprobs_N``."""

    @property
    def distills(self) -> bool:
        """False: reinforcement learning only; in a weighted sum the gate leaves it alone."""

    @property
    def row_local(self) -> bool:
        """A token's loss depends on that token alone, and all of it is gated: it may be taken in the head's forward."""

    @property
    def wholly_gated(self) -> bool:
        """All of the loss is gated: a rollout of which the gate keeps nothing may as well be left out."""

    @property
    def default_gate(self) -> PresetName:
        """The gate preset where the run names none."""

    @property
    def supports(self) -> frozenset[SupportOwner]:
        """Support owners that it works with."""

    @property
    def aligns(self) -> bool:
        """Works with a teacher of another tokenizer: reads ``aligned_N``."""

    @property
    def across_rows(self) -> Across:
        """What such a teacher is asked for."""

    def token_losses(self, stats: HeadStats, batch: TokenBatch) -> ObjectiveOutput:
        """Losses of N response tokens, before gate and normaliser; ValueError where the batch lacks what it needs."""


class ObjectiveOptions(BaseModel):
    """An objective's options are pydantic fields: unknown names and values out of range are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: ClassVar[str]


class ObjectiveBase(ObjectiveOptions):
    """Defaults of an objective that distils over buckets."""

    needs_teacher: ClassVar[bool] = True
    needs_entropy: ClassVar[bool] = False
    distills: ClassVar[bool] = True
    row_local: ClassVar[bool] = True
    wholly_gated: ClassVar[bool] = True
    default_gate: ClassVar[PresetName] = "off"
    owners: ClassVar[frozenset[SupportOwner]] = frozenset({"student", "teacher"})
    aligns: ClassVar[bool] = False

    @property
    def supports(self) -> frozenset[SupportOwner]:
        """Support owners that it works with."""
        return self.owners

    @property
    def needs_reference(self) -> bool:
        """Whether the batch must hold ``reference_logprobs_N``."""
        return False

    @property
    def across_rows(self) -> Across:
        """What a teacher with another tokenizer is asked for."""
        return "mapped"


def student_teacher_buckets(stats: HeadStats, batch: TokenBatch, tail: TailMode) -> tuple[Tensor, Tensor]:
    """Both sides' bucket log-probs ``[N, B]``; raises ValueError where the batch lacks the teacher's."""
    if batch.teacher_support_NK is None or batch.teacher_tail_N is None:
        raise ValueError("this objective needs the teacher's log-probs on the support; distillation.support is none")
    if batch.support_ids_NK.shape[1] == 0:
        raise ValueError("this objective sums over a support, and k is 0")
    dtype = stats.support_logprobs_NK.dtype
    student_NB = bucket_logprobs(stats.support_logprobs_NK, stats.tail_logprob_N, batch.support_ids_NK, tail)
    teacher_NB = bucket_logprobs(
        batch.teacher_support_NK.to(dtype), batch.teacher_tail_N.to(dtype), batch.support_ids_NK, tail
    )
    return student_NB, teacher_NB


def importance_weight(stats: HeadStats, batch: TokenBatch, clip: float | None) -> Tensor | None:
    """``min(pi_theta / mu, clip)`` of the sampled token, detached; None where ``clip`` is None (on policy it is 1).

    One token's ratio, not the prefix's: it corrects the token that was drawn, not the state that was reached.
    """
    if clip is None:
        return None
    log_ratio_N = (stats.sampled_logprobs_N - batch.behaviour_logprobs_N).detach().clamp(-20.0, 20.0)
    return log_ratio_N.exp().clamp(max=clip)


def teacher_sampled(batch: TokenBatch) -> Tensor:
    """``[N]`` teacher log-probs of the sampled tokens; raises ValueError where the batch lacks them."""
    if batch.teacher_sampled_N is None:
        raise ValueError("this objective needs the teacher's log-prob of the sampled tokens")
    return batch.teacher_sampled_N


def token_mean(loss_N: Tensor, metrics: dict[str, Tensor]) -> ObjectiveOutput:
    """Every kept token counts 1 in the denominator: Eq. 3."""
    return ObjectiveOutput(loss_N, torch.ones_like(loss_N), {key: value.detach() for key, value in metrics.items()})


class BucketObjective(ObjectiveBase):
    """A divergence between the two sides' buckets, averaged over kept tokens; subclasses give ``divergence``."""

    tail: TailMode = "tail"
    """``none`` and ``renormalise`` exist for the paper's Table 2; see ``buckets.bucket_logprobs``."""
    importance_clip: float | None = Field(default=None, gt=0.0)
    """Weigh a token by ``min(pi_theta / mu, clip)`` where rollouts are stale; None: no weight."""

    def divergence(self, student_NB: Tensor, teacher_NB: Tensor) -> Tensor:
        """``[N]`` nats from two ``[N, B]`` sets of bucket log-probs; ``losses.divergences`` has the functions."""
        raise NotImplementedError(f"{type(self).__name__} has no divergence")

    def token_losses(self, stats: HeadStats, batch: TokenBatch) -> ObjectiveOutput:
        """The divergence of each token, times its importance weight where rollouts are stale."""
        if batch.teacher_support_NK is None and "none" in self.supports:
            loss_N = self._sampled(stats, batch)
        else:
            loss_N = self.divergence(*student_teacher_buckets(stats, batch, self.tail))
            if batch.aligned_N is not None:
                loss_N = self._aligned(loss_N, stats, batch, batch.aligned_N)
        metrics = {self.name: loss_N.sum()}
        weight_N = importance_weight(stats, batch, self.importance_clip)
        return token_mean(loss_N if weight_N is None else loss_N * weight_N, metrics)

    def _aligned(self, loss_N: Tensor, stats: HeadStats, batch: TokenBatch, aligned_N: Tensor) -> Tensor:
        """The loss of a batch whose teacher has another tokenizer; ``loss_N``: the divergence of each token."""
        raise ValueError(f"objective {self.name!r} cannot use a teacher with another tokenizer")

    def _sampled(self, stats: HeadStats, batch: TokenBatch) -> Tensor:
        """The loss of a batch whose teacher gave the log-probs of the sampled tokens alone."""
        raise ValueError(f"objective {self.name!r} needs the teacher's log-probs on a support")
