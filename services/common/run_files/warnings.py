"""What is wrong with a run, decided from the rows of metrics.jsonl alone, and what to do about it.

The trainer (events.jsonl, its log), the page and the terminal all ask this one function.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Row = Mapping[str, Any]

FIRST, RECENT = 10, 40
"""Rows that `History` holds: a run's first ones, to compare with, and its newest."""
WINDOW = 3
"""Rows that most figures are averaged over: one step's prompts differ from the next one's."""

STARVED = 0.01
ERRORS = 0.02
TRUNCATED = 0.2
ENTROPY_LEFT = 0.25
LENGTH_GREW, LENGTH_SHRANK = 2.0, 0.33
DRIFT_ON_POLICY, DRIFT_STALE, EFFECTIVE = 0.05, 0.5, 0.5
SPIKE = 5.0
SPIKE_NEEDS = 10


@dataclass(frozen=True)
class Warn:
    """One thing that is wrong at the newest step."""

    kind: str
    """Stable name: starving_gate_positive, starving_gate_negative, errors, truncated, entropy_collapse, length_runaway,
    length_collapse, drift, loss_spike, grad_spike, not_finite, skipped, redraws, no_signal, evaluation_fell."""
    level: Literal["warning", "error"]
    step: int
    value: float
    """The figure that it was decided on."""
    text: str
    do: str
    """What to look at or change."""


class History:
    """As much of a run's rows as `warnings_of` needs: bounded, fed row by row."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._first: list[Row] = []
        self._recent: deque[Row] = deque(maxlen=RECENT)
        self._evals: list[Row] = []
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Take in a row of metrics.jsonl, `step` or `eval`; others do not matter."""
        if row["event"] == "step":
            if len(self._first) < FIRST:
                self._first.append(row)
            self._recent.append(row)
        elif row["event"] == "eval" and row.get("problems"):
            best = max([row, *self._evals], key=lambda r: float(r["accuracy"]))
            self._evals = [best, row] if best is not row else [row]

    def rows(self) -> list[Row]:
        """For `warnings_of`."""
        seen = {id(row) for row in self._first}
        return [*self._evals, *self._first, *(row for row in self._recent if id(row) not in seen)]


def warnings_of(rows: Sequence[Row]) -> list[Warn]:
    """What is wrong at the last step row. Pure: the same rows give the same warnings.

    `rows`: of metrics.jsonl in their order, all of them or those of a `History`; rows of older versions, which lack
    some figures, are looked at as far as they go.
    """
    steps = [row for row in rows if row["event"] == "step"]
    evals = [row for row in rows if row["event"] == "eval" and row.get("problems")]
    found = [warn for check in _CHECKS for warn in check(steps)] if steps else []
    return found + _evaluation_fell(evals)


def _mean(rows: Sequence[Row], key: str, count: int = WINDOW) -> float | None:
    values = [float(row[key]) for row in rows[-count:] if key in row]
    return math.fsum(values) / len(values) if values else None


def _start(rows: Sequence[Row], key: str) -> float | None:
    """The figure of the run's first rows; None while there is nothing but them."""
    values = [float(row[key]) for row in rows[:FIRST] if key in row]
    return median(values) if len(rows) >= FIRST + WINDOW and values else None


def _warn(rows: Sequence[Row], kind: str, value: float, text: str, do: str, level: Any = "warning") -> list[Warn]:
    return [Warn(kind, level, int(rows[-1]["step"]), value, text, do)]


def _starving(rows: Sequence[Row]) -> list[Warn]:
    found = []
    for sign in ("positive", "negative"):
        recent = [row for row in rows[-WINDOW:] if f"tokens_{sign}" in row]
        tokens = sum(float(row[f"tokens_{sign}"]) for row in recent)
        kept = sum(float(row[f"kept_fraction_{sign}"]) * float(row[f"tokens_{sign}"]) for row in recent)
        if tokens and kept < STARVED * tokens:
            what = "successes" if sign == "positive" else "failures"
            found += _warn(
                rows,
                f"starving_gate_{sign}",
                kept / tokens,
                f"the gate keeps {kept / tokens:.2%} of the tokens of {sign} advantage ({WINDOW} steps): the student "
                f"learns nothing from its {what}",
                "gate.granularity=token decides token by token (train.gate=released); gate.delta=0 is the widest "
                "margin; see docs/objectives.md",
            )
    return found


def _errors(rows: Sequence[Row]) -> list[Warn]:
    recent = [row for row in rows[-WINDOW:] if row.get("rollouts")]
    total = sum(int(row["rollouts"]) for row in recent)
    verdicts = sum(int(row["verdicts"]["error"]) for row in recent)
    failures: dict[str, int] = {}
    for row in recent:
        for stage, count in row["stage_failures"].items():
            failures[stage] = failures.get(stage, 0) + int(count)
    wrong = verdicts + sum(failures.values())
    if not total or wrong <= ERRORS * total:
        return []
    parts = [f"{verdicts} verdicts `error`"] if verdicts else []
    parts += [f"{count} given up by {stage}" for stage, count in sorted(failures.items())]
    return _warn(
        rows,
        "errors",
        wrong / total,
        f"{wrong / total:.1%} of the rollouts cannot be judged ({', '.join(parts)}): what is left is a biased sample",
        "read the reasons: rgopd rollouts RUN --dropped, rgopd queues; over fault.max_error_fraction the run stops",
    )


def _truncated(rows: Sequence[Row]) -> list[Warn]:
    share = _mean(rows, "truncated_fraction")
    if share is None or share <= TRUNCATED:
        return []
    return _warn(
        rows,
        "truncated",
        share,
        f"{share:.0%} of the responses are cut at max_new_tokens: they cannot earn a reward for what was not said",
        "raise sampling.max_new_tokens, or look at them (rgopd rollouts RUN --text ...): a student that never ends its "
        "answer has a wrong end-of-turn id or chat template (rgopd doctor)",
    )


def _entropy(rows: Sequence[Row]) -> list[Warn]:
    start, now = _start(rows, "entropy"), _mean(rows, "entropy")
    if start is None or now is None or start <= 0 or now >= ENTROPY_LEFT * start:
        return []
    return _warn(
        rows,
        "entropy_collapse",
        now,
        f"entropy fell from {start:.3f} to {now:.3f} nats a token: the rollouts of a group grow alike",
        "lower optim.lr, stop at the best evaluation (eval.patience), or take an objective that keeps mass where the "
        "teacher has it (jsd, forward_kl)",
    )


def _length(rows: Sequence[Row]) -> list[Warn]:
    start, now = _start(rows, "response_length_mean"), _mean(rows, "response_length_mean")
    if start is None or now is None or start <= 0:
        return []
    if now > LENGTH_GREW * start:
        return _warn(
            rows,
            "length_runaway",
            now,
            f"responses grew from {start:.0f} to {now:.0f} tokens",
            "look whether they repeat themselves (rgopd rollouts RUN); lower optim.lr, or limit "
            "sampling.max_new_tokens",
        )
    if now < LENGTH_SHRANK * start:
        return _warn(
            rows,
            "length_collapse",
            now,
            f"responses shrank from {start:.0f} to {now:.0f} tokens",
            "look whether the student skips its reasoning (rgopd rollouts RUN); lower optim.lr",
        )
    return []


def _drift(rows: Sequence[Row]) -> list[Warn]:
    drift, stale = _mean(rows, "behaviour_drift"), bool(rows[-1].get("staleness_max"))
    limit = DRIFT_STALE if stale else DRIFT_ON_POLICY
    if drift is not None and drift > limit:
        do = (
            "lower max_staleness or optim.lr"
            if stale
            else "sampler and trainer disagree about the same weights: same dtype on both sides (sampler.dtype, "
            "train.dtype), same temperature; a sampler that serves old weights says so in its log"
        )
        text = f"the student moved {drift:.3f} nats a token away from the policy that sampled"
        return _warn(rows, "drift", drift, text, do)
    effective = _mean(rows, "importance_effective_fraction")
    if effective is not None and effective < EFFECTIVE:
        text = f"importance weights leave {effective:.0%} of the tokens effective"
        return _warn(rows, "drift", effective, text, "lower max_staleness or optim.lr; importance_clip truncates them")
    return []


def _spikes(rows: Sequence[Row]) -> list[Warn]:
    found = []
    for key, kind, what in (("loss", "loss_spike", "the loss"), ("grad_norm", "grad_spike", "the gradient's norm")):
        if key not in rows[-1]:
            continue
        now = float(rows[-1][key])
        if not math.isfinite(now):
            do = "lower optim.lr, or train in float32; look at the last rollouts and their teacher scores"
            found += _warn(rows, "not_finite", now, f"{what} is {now}", do, "error")
            continue
        before = [abs(float(row[key])) for row in rows[-1 - RECENT : -1] if key in row and not row.get("skipped")]
        usual = median(before) if len(before) >= SPIKE_NEEDS else 0.0
        if usual > 0 and abs(now) > SPIKE * usual and abs(now) > max(before):
            text = f"{what} is {now:.3g}, {abs(now) / usual:.0f} times its usual {usual:.3g}"
            do = "one spike is the batch (rgopd rollouts RUN --step N); if they return, lower optim.lr or grad_clip"
            found += _warn(rows, kind, now, text, do)
    return found


def _skipped(rows: Sequence[Row]) -> list[Warn]:
    row = rows[-1]
    if not row.get("skipped"):
        return []
    kept, share = float(row.get("kept_tokens", 0)), float(row.get("kept_fraction", 0))
    return _warn(
        rows,
        "skipped",
        share,
        f"weights unchanged: the gate kept {kept:.0f} tokens, {share:.2%}, which is none or under "
        "gate.min_kept_fraction",
        "lower gate.min_kept_fraction, or see why the gate starves (docs/objectives.md)",
    )


def _redraws(rows: Sequence[Row]) -> list[Warn]:
    row = rows[-1]
    redrawn, dropped = int(row.get("redrawn_groups", 0)), int(row.get("dropped_groups", 0))
    if not redrawn and not dropped:
        return []
    text = f"{redrawn} groups had too few usable rollouts and were drawn again"
    text += f"; {dropped} were given up" if dropped else ""
    do = "read the reasons: rgopd rollouts RUN --dropped; fault.min_rollouts and fault.max_redraws are the limits"
    return _warn(rows, "redraws", redrawn + dropped, text, do, "error" if dropped else "warning")


def _no_signal(rows: Sequence[Row]) -> list[Warn]:
    recent = [row for row in rows[-WINDOW:] if "tokens_positive" in row]
    if len(recent) < WINDOW or any(float(row["tokens_positive"]) + float(row["tokens_negative"]) for row in recent):
        return []
    rate = float(recent[-1]["pass_rate"])
    state = "all" if rate >= 1 else "none" if rate <= 0 else "in every group all or none"
    text = f"{state} of the rollouts are right for {WINDOW} steps: every advantage is 0"
    do = "take prompts that the student solves now and then (rgopd data), or raise sampling.n; check the references"
    return _warn(rows, "no_signal", rate, text, do)


def _evaluation_fell(evals: Sequence[Row]) -> list[Warn]:
    """By over two standard errors of the difference, as if the two were independent."""
    if len(evals) < 2:
        return []
    best, last = max(evals, key=lambda r: float(r["accuracy"])), evals[-1]
    fall = float(best["accuracy"]) - float(last["accuracy"])
    error = math.sqrt(sum(float(r["accuracy"]) * (1 - float(r["accuracy"])) / int(r["problems"]) for r in (best, last)))
    if fall <= 0 or fall <= 2 * error:
        return []
    text = f"accuracy fell from {best['accuracy']:.1%} (step {best['step']}) to {last['accuracy']:.1%}"
    do = "the best student is kept in RUN/best (eval.keep_best); eval.patience stops a run that gets worse"
    return _warn(evals, "evaluation_fell", fall, text, do)


_CHECKS: tuple[Callable[[Sequence[Row]], list[Warn]], ...] = (
    _starving,
    _errors,
    _truncated,
    _entropy,
    _length,
    _drift,
    _spikes,
    _skipped,
    _redraws,
    _no_signal,
)
