"""What is compared: each method is an objective with a gate; everything else is one budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rgopd.trainer.gating.gate import PresetName

STEPS, PROMPTS, N, MAX_TOKENS = 40, 32, 8, 64
"""The budget: 40 steps of 32 prompts x 8 rollouts, which decision 010 found enough for the demo's task."""


@dataclass(frozen=True)
class Method:
    """A row of a table."""

    title: str
    objective: str
    gate: PresetName = "off"
    k: int = 16
    options: dict[str, Any] = field(default_factory=dict)


MAIN = {
    "reverse_kl": Method("Reverse KL", "reverse_kl"),
    "rg_opd_paper": Method("RG-OPD (`paper`)", "rg_opd", "paper"),
    "rg_opd_released": Method("RG-OPD (`released`)", "rg_opd", "released"),
    "grpo": Method("GRPO", "grpo"),
    "tsd_kd": Method("TSD-KD (`paper`)", "tsd_kd"),
    "tsd_kd_released": Method("TSD-KD (`released`)", "tsd_kd", options={"mode": "released"}),
}
"""Table 1."""

ABLATION = {
    "k8": Method("K=8", "rg_opd", "paper", k=8),
    "k4": Method("K=4", "rg_opd", "paper", k=4),
    "k4_no_tail": Method("K=4, no tail", "rg_opd", "paper", k=4, options={"tail": "none"}),
    "k16_no_tail": Method("K=16, no tail", "rg_opd", "paper", options={"tail": "none"}),
}
"""Table 2; K=16 with the tail is MAIN's rg_opd_paper. The vocabulary has 102 ids: K is scaled down from the paper's."""

WHY = {
    "sampled_token": Method(
        "Sampled-token reverse KL under the `paper` gate",
        "minillm",
        "paper",
        options={"single_step": False, "gamma": 0.0},
    ),
    "released_reward": Method("RG-OPD, both of them: token gate + GRPO", "weighted_sum", "released"),
}
"""Remedies that decisions/022 names; run last, where there is time."""
WHY["released_reward"].options.update(
    parts=[{"name": "reverse_kl", "weight": 1.0}, {"name": "grpo", "weight": 1.0, "options": {"normalise": "token"}}]
)

ALL = {**MAIN, **ABLATION, **WHY}
