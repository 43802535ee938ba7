"""The reward-teacher likelihood gate: which response tokens the distillation loss uses (paper §3, Eq. 1-2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from rgopd.common.parts import Part

PresetName = Literal["paper", "released", "off"]


class GateConfig(Part):
    """How Eq. 2 is read. The defaults are the paper's; ``gate_preset`` names the two published readings."""

    model_config = ConfigDict(frozen=True)

    word_key: ClassVar[str] = "preset"
    word_replaces: ClassVar[bool] = True

    @classmethod
    def word_schemas(cls) -> list[dict[str, Any]]:
        """The presets, and YAML's bare `off`."""
        return [{"enum": ["auto", "paper", "released", "off", False]}]

    @classmethod
    def from_word(cls, word: Any) -> Any:
        """A preset's name; the run's settings know the presets."""
        return {"preset": "off"} if word is False else super().from_word(word)

    enabled: bool = True
    """False keeps every token: plain on-policy distillation."""
    granularity: Literal["trajectory", "token", "chunk"] = "trajectory"
    """Over what Eq. 1 sums the log-likelihoods: the rollout, one token, or ``chunk_size`` tokens in a row."""
    chunk_size: int = Field(default=64, ge=1)
    """Tokens a chunk, for granularity ``chunk``; the last chunk of a rollout may be shorter."""
    zero_advantage: Literal["negative", "mask"] = "negative"
    """A rollout of advantage 0 (its whole group agreed): counts as negative (Eq. 2), or is dropped."""
    signal: Literal["advantage", "reward"] = "advantage"
    """Whose sign Eq. 2 asks for: the group advantage, or the raw reward (> 0 is a success)."""
    delta: float = Field(default=0.0, ge=0.0)
    """Confidence margin of Eq. 2, in nats per gated unit (trajectory, chunk or token)."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps at the start for which the gate keeps everything."""
    min_kept_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """A step whose kept share of all response tokens, over all ranks, is below this is skipped, not divided by its
    tiny count (see ``losses.normalise``)."""


def gate_preset(name: PresetName) -> GateConfig:
    """``paper``: Eq. 1-2 as printed. ``released``: what the authors' code runs. ``off``: keep everything."""
    match name:
        case "paper":
            return GateConfig()
        case "released":
            return GateConfig(granularity="token", zero_advantage="mask")
        case "off":
            return GateConfig(enabled=False)
    raise ValueError(f"unknown gate preset {name!r}; known: paper, released, off")


@dataclass(frozen=True)
class GateDecision:
    """``keep_N``: bool per response token. ``stats``: raw sums (0-dim float64), to be added over micro-batches and
    ranks before any fraction is made:

    ``tokens_{total,kept}_{positive,zero,negative}`` and the same for ``rollouts_`` (kept: at least one token kept;
    the sign is that of the group advantage); ``gap_{positive,zero,negative}``: sum over the tokens of
    log pi_T - log pi_theta at the sampled token; ``teacher_above_{…}``: rollouts with L_T > L_S.
    """

    keep_N: Tensor
    stats: dict[str, Tensor]


def decide_gate(
    cfg: GateConfig,
    advantage_R: Tensor,
    reward_R: Tensor,
    teacher_sampled_N: Tensor,
    student_sampled_N: Tensor,
    rollout_N: Tensor,
    *,
    step: int = 0,
    aligned_N: Tensor | None = None,
) -> GateDecision:
    """Eq. 1-2 over the N response tokens of R whole rollouts.

    ``advantage_R``, ``reward_R``: ``[R]``. ``teacher_sampled_N``, ``student_sampled_N``: ``[N]`` log-probs of the
    sampled token; the student's are of the current policy, or of the behaviour policy when used as a pre-filter.
    ``rollout_N``: ``[N]`` int64, sorted, the rollout of each token. Sums run in float64: L_T - L_S is a small
    difference of long sums. No gradient flows. Raises ValueError where a log-prob is not finite, since NaN compares
    false and would drop tokens in silence.

    ``aligned_N``: as in ``TokenBatch``, of a teacher with another tokenizer. Its log-likelihoods are of aligned chunks,
    so those are what ``token`` decides about and ``chunk`` cuts between. A token where the teacher has no value counts
    as no difference and is never kept.
    """
    gap_N = teacher_sampled_N.detach().double() - student_sampled_N.detach().double()
    if not torch.isfinite(gap_N).all():
        raise ValueError(
            "the gate needs finite sampled log-probs of teacher and student; "
            "a missing teacher value must be fixed at the teacher, not filled in"
        )
    unit_N = None
    if aligned_N is not None:
        gap_N = torch.where(aligned_N < 0, 0.0, gap_N)
        unit_N = torch.where(aligned_N < 0, torch.arange(len(aligned_N), device=aligned_N.device), aligned_N)
    rollouts = advantage_R.shape[0]
    gap_R = _segment_sum(gap_N, rollout_N, rollouts)
    if not cfg.enabled or step < cfg.warmup_steps:
        keep_N = torch.ones_like(rollout_N, dtype=torch.bool)
    else:
        keep_N = _eq2(cfg, advantage_R, reward_R, gap_N, gap_R, rollout_N, unit_N)
    if aligned_N is not None:
        keep_N = keep_N & (aligned_N >= 0)
    return GateDecision(keep_N, _stats(advantage_R.double(), gap_N, gap_R, keep_N, rollout_N))


def _eq2(
    cfg: GateConfig,
    advantage_R: Tensor,
    reward_R: Tensor,
    gap_N: Tensor,
    gap_R: Tensor,
    rollout_N: Tensor,
    first_N: Tensor | None = None,
) -> Tensor:
    """``first_N``: where several tokens are one (an aligned chunk), the first of them."""
    match cfg.granularity:
        case "token":
            unit_gap_N = gap_N if first_N is None else _segment_sum(gap_N, first_N, len(gap_N))[first_N]
        case "trajectory":
            unit_gap_N = gap_R[rollout_N]
        case "chunk":
            unit_N = _chunk_ids(rollout_N, advantage_R.shape[0], cfg.chunk_size)
            unit_N = unit_N if first_N is None else unit_N[first_N]
            unit_gap_N = _segment_sum(gap_N, unit_N, rollout_N.shape[0])[unit_N]
    signal_R = advantage_R if cfg.signal == "advantage" else reward_R
    positive_N = (signal_R > 0)[rollout_N]
    keep_N = torch.where(positive_N, unit_gap_N > cfg.delta, unit_gap_N < -cfg.delta)
    if cfg.zero_advantage == "mask":
        keep_N = keep_N & (advantage_R != 0)[rollout_N]
    return keep_N


def _chunk_ids(rollout_N: Tensor, rollouts: int, chunk_size: int) -> Tensor:
    """A number per token, equal within a chunk of a rollout and nowhere else; below N since a chunk's first token
    names it."""
    position_N = torch.arange(rollout_N.shape[0], device=rollout_N.device)
    start_R = torch.searchsorted(rollout_N.contiguous(), torch.arange(rollouts, device=rollout_N.device))
    within_N = position_N - start_R[rollout_N]
    return position_N - within_N % chunk_size


def _segment_sum(values_N: Tensor, segment_N: Tensor, segments: int) -> Tensor:
    return torch.zeros(segments, dtype=values_N.dtype, device=values_N.device).index_add_(0, segment_N, values_N)


def _stats(advantage_R: Tensor, gap_N: Tensor, gap_R: Tensor, keep_N: Tensor, rollout_N: Tensor) -> dict[str, Tensor]:
    rollouts = advantage_R.shape[0]
    tokens_R = _segment_sum(torch.ones_like(gap_N), rollout_N, rollouts)
    kept_R = _segment_sum(keep_N.double(), rollout_N, rollouts)
    stats: dict[str, Tensor] = {}
    for sign, chosen_R in {
        "positive": advantage_R > 0,
        "zero": advantage_R == 0,
        "negative": advantage_R < 0,
    }.items():
        side_R = chosen_R.double()
        stats[f"tokens_total_{sign}"] = (tokens_R * side_R).sum()
        stats[f"tokens_kept_{sign}"] = (kept_R * side_R).sum()
        stats[f"rollouts_total_{sign}"] = ((tokens_R > 0) * side_R).sum()
        stats[f"rollouts_kept_{sign}"] = ((kept_R > 0) * side_R).sum()
        stats[f"gap_{sign}"] = (gap_R * side_R).sum()
        stats[f"teacher_above_{sign}"] = ((gap_R > 0) * side_R).sum()
    return stats


def starved_signs(stats: dict[str, float], *, below: float = 0.01) -> list[str]:
    """The signs of advantage (``positive``, ``negative``) of which the gate kept less than ``below`` of the tokens.

    ``stats``: the sums of ``GateDecision.stats`` over a whole step. The trainer warns with them: a gate that keeps
    one side only trains on failures (or successes) alone.
    """
    return [
        sign
        for sign in ("positive", "negative")
        if stats[f"tokens_total_{sign}"] > 0 and stats[f"tokens_kept_{sign}"] < below * stats[f"tokens_total_{sign}"]
    ]
