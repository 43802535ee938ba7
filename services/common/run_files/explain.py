"""Why the gate kept a rollout, or why not, in words: the same on the page, in the terminal and in tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rgopd.common.run_files.kept import KeptRollout, KeptStep

_OUTCOMES = {
    "lost": "Not trained on: a stage gave it up",
    "error": "Not trained on: the verifier could not tell, and an error is never a wrong answer",
    "redrawn": "Not trained on: too few usable rollouts in its group, which was drawn again",
    "unscored": "Not trained on: the teacher was not asked",
    "prefiltered": "Not trained on: dropped before the forward pass",
}


@dataclass(frozen=True)
class Explanation:
    """`kept`: `all`, `part`, `none`, or empty where the gate never saw it. `text`: one or two sentences."""

    kept: str
    text: str


def explain(step: KeptStep, rollout: KeptRollout) -> Explanation:
    """Of one rollout."""
    if rollout.outcome != "trained":
        text = _OUTCOMES.get(rollout.outcome, rollout.outcome)
        kept = "none" if rollout.outcome in ("unscored", "prefiltered") else ""
        return Explanation(kept, f"{text}: {rollout.reason}" if rollout.reason else f"{text}.")
    if rollout.kept_tokens is None:
        return Explanation("", "Trained on, but its rank wrote no figures (it was stopped before it could).")
    total = rollout.own_tokens
    kept = "all" if rollout.kept_tokens == total else "part" if rollout.kept_tokens else "none"
    return Explanation(kept, f"{_share(kept, rollout.kept_tokens, total)} {_why(step.header, rollout, kept)}")


def explain_token(step: KeptStep, rollout: KeptRollout, position: int) -> str:
    """Of one response token: the inequality it met or missed."""
    tokens, gate = rollout.tokens, step.header["gate"]
    if tokens is None or position >= len(tokens.keep):
        return "No figures are kept of this token."
    if rollout.own is not None and not rollout.own[position]:
        return "Said by its environment: context for what follows, and not trained on."
    decided = "kept" if tokens.keep[position] else "dropped"
    gap = tokens.gap
    if gap is None:
        return f"{decided}: the objective asks no teacher"
    what = f"log pi_T - log pi_theta = {gap[position]:+.3f}"
    if not gate["enabled"] or step.header["gate_open"]:
        return f"{decided}: {what}; the gate keeps everything"
    if rollout.advantage == 0 and gate["zero_advantage"] == "mask":
        return f"{decided}: {what}; A = 0 is dropped"
    side = _side(gate, rollout)
    if gate["granularity"] == "token":
        return f"{decided}: {what}; {side}: kept {_rule(side, gate['delta'], 'this difference')}"
    unit = "its rollout" if gate["granularity"] == "trajectory" else f"its chunk of {gate['chunk_size']} tokens"
    return f"{decided}: {what}; the gate decides over {unit}"


def _share(kept: str, tokens: int, total: int) -> str:
    words = {"all": f"Kept, all {total} tokens.", "none": f"Dropped, all {total} tokens."}
    return words.get(kept, f"Kept in part: {tokens} of {total} tokens ({tokens / max(1, total):.0%}).")


def _why(header: Mapping[str, Any], rollout: KeptRollout, kept: str) -> str:
    gate = header["gate"]
    if not gate["enabled"]:
        return "The gate is off."
    if header["gate_open"]:
        return f"The gate is open during its warm-up ({gate['warmup_steps']} steps)."
    if rollout.advantage == 0 and gate["zero_advantage"] == "mask":
        return "Its whole group earned the same reward, so A = 0, which gate.zero_advantage=mask drops."
    side = _side(gate, rollout)
    zero = " (A = 0 counts as a failure)" if rollout.advantage == 0 and gate["signal"] == "advantage" else ""
    rule = f"{side[0].upper()}{side[1:]}{zero}: kept {_rule(side, gate['delta'])}"
    if rollout.l_teacher is None or rollout.l_student is None:
        return f"{rule}."
    gap = rollout.l_teacher - rollout.l_student
    if gate["granularity"] != "trajectory":
        unit = "token" if gate["granularity"] == "token" else f"chunk of {gate['chunk_size']} tokens"
        return f"{rule}, {unit} by {unit}; over the whole response L_T - L_S = {gap:+.3f}."
    return f"{rule}; L_T - L_S = {rollout.l_teacher:.3f} - ({rollout.l_student:.3f}) = {gap:+.3f}."


def _side(gate: Mapping[str, Any], rollout: KeptRollout) -> str:
    if gate["signal"] == "reward":
        value, name = rollout.reward or 0.0, "reward"
    else:
        value, name = rollout.advantage or 0.0, "A"
    return f"a success ({name} = {value:+.3f})" if value > 0 else f"a failure ({name} = {value:+.3f})"


def _rule(side: str, delta: float, what: str = "L_T - L_S") -> str:
    if side.startswith("a success"):
        return f"where the teacher likes it better than the student, {what} > {delta:g}"
    return f"where the teacher likes it less than the student, {what} < {-delta if delta else 0:g}"
