"""What is kept of a step's rollouts, token by token, read back from rollouts/step-NNNNNN*.jsonl.gz.

Lines of kind `step`, then (rank 0 alone) `group` and `rollout`, then (each rank for those it trained on) `tokens`.
docs/run-folder.md lists every field.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rgopd.common import fleeting
from rgopd.common.errors import ConfigError
from rgopd.common.run_files.kept_files import FORMAT, kept_files, unpack


class NothingKept(ConfigError):
    """Of a step; or not any more."""


@dataclass(frozen=True)
class Tokens:
    """Per-token figures of one rollout: T response tokens (fewer where `cut`), K named support ids.

    Of a conversation's tokens that its environment said there are none: NaN, never kept, and -1 as support ids.

    Log-probs in nats at the rollout's temperature. `tail_*`: log of the mass outside the named ids, so that they and
    the tail sum to 1; -inf where nothing is left. Teacher fields are None where the objective asks no teacher.
    """

    student: list[float]
    """Of the sampled token, current policy: the summands of L_S."""
    behaviour: list[float]
    """The same under the policy that sampled."""
    teacher: list[float] | None
    """The summands of L_T."""
    loss: list[float]
    """The objective's, before gate and normaliser; in nats for a divergence."""
    keep: list[bool]
    """What the gate decided."""
    support_ids: list[list[int]]
    """The student's likeliest of the support first; -1 pads."""
    support_student: list[list[float]]
    support_teacher: list[list[float]] | None
    tail_student: list[float]
    tail_teacher: list[float] | None
    cut: bool = False
    """Only the first tokens have figures (`watch.keep.tokens`)."""

    @property
    def gap(self) -> list[float] | None:
        """log pi_T - log pi_theta of the sampled tokens, nats."""
        if self.teacher is None:
            return None
        return [t - s for t, s in zip(self.teacher, self.student, strict=True)]


@dataclass(frozen=True)
class KeptRollout:
    """One rollout, trained on or not."""

    rollout_id: str
    index: int
    response_text: str
    response_ids: list[int]
    finish: str
    """`stop`, `length` (cut at max_new_tokens), `turns` (its environment had not ended after max_turns), or empty where
    there is no response."""
    verdict: dict[str, Any] | None
    """status, reason, extracted, tests (status, reason, duration_ms each), duration_ms."""
    reward: float | None
    advantage: float | None
    outcome: str
    """`trained`, `prefiltered`, `unscored` (the gate masks it anyway), `error` (no reward), `lost`, `redrawn`."""
    reason: str
    """Why it was not trained on; empty for `trained`."""
    policy_version: int
    l_teacher: float | None = None
    """L_T: sum of the teacher's log-probs of the response, nats (Eq. 1)."""
    l_student: float | None = None
    kept_tokens: int | None = None
    """Tokens that the gate kept, of `own_tokens`."""
    rank: int | None = None
    tokens: Tokens | None = None
    own: list[bool] | None = None
    """Of a conversation: which tokens are the student's. The others, its environment's, are not trained on."""

    @property
    def own_tokens(self) -> int:
        """How many response tokens the student sampled."""
        return len(self.response_ids) if self.own is None else sum(self.own)

    @property
    def turns(self) -> int:
        """The student's."""
        own = self.own or [True]
        return int(own[0]) + sum(now and not before for before, now in zip(own, own[1:], strict=False))

    @property
    def sign(self) -> str:
        """Of the advantage: positive, zero, negative; empty where there is none."""
        if self.advantage is None:
            return ""
        return "positive" if self.advantage > 0 else "negative" if self.advantage < 0 else "zero"

    def to_json(self) -> dict[str, Any]:
        """For a page: plain values, numbers to 5 decimals, no NaN or infinity (null in their place)."""
        plain = {k: v for k, v in vars(self).items() if k != "tokens"}
        figures = None if self.tokens is None else {**vars(self.tokens), "gap": self.tokens.gap}
        finite: dict[str, Any] = _finite({**plain, "sign": self.sign, "tokens": figures})
        return finite


@dataclass(frozen=True)
class KeptGroup:
    """A prompt and its kept rollouts."""

    group_id: str
    prompt_id: str
    prompt_text: str
    prompt_ids: list[int]
    domain: str
    teacher: str
    check: dict[str, Any]
    """What the verifier was given: `kind` and its own fields (reference, tests, ...), long ones shortened."""
    policy_version: int
    redraw: int
    rollouts: list[KeptRollout]


@dataclass(frozen=True)
class KeptStep:
    """What is kept of a step. `header`: step, objective, gate, counts (docs/run-folder.md)."""

    header: dict[str, Any]
    groups: list[KeptGroup] = field(default_factory=list)

    @property
    def step(self) -> int:
        """Its number."""
        return int(self.header["step"])

    @property
    def rollouts(self) -> list[tuple[KeptGroup, KeptRollout]]:
        """All of them with their groups."""
        return [(group, rollout) for group in self.groups for rollout in group.rollouts]


def kept_steps(run: Path) -> list[int]:
    """Steps of which something is kept, in order."""
    return sorted({step for _, step, _ in kept_files(run)})


def read_step(run: Path, step: int) -> KeptStep:
    """Everything kept of a step, all ranks' parts joined. A part that is cut short is read as far as it goes.

    Raises:
        NothingKept: of it; names the nearest step of which something is.
        ConfigError: a part is damaged, or of a newer rgopd.
    """
    parts = sorted((rank, path) for path, number, rank in kept_files(run) if number == step)
    if not parts:
        raise NothingKept(_nothing(run, step))
    rows = [row for _, path in parts for row in _read_rows(path)]
    header = next((row for row in rows if row["kind"] == "step"), {"step": step, "format": FORMAT})
    if header["format"] > FORMAT:
        raise ConfigError(f"step {step} of {run} was written by a newer rgopd (format {header['format']}): update this")
    figures = {row["id"]: row for row in rows if row["kind"] == "tokens"}
    rollouts: dict[str, list[KeptRollout]] = {}
    for row in rows:
        if row["kind"] == "rollout":
            rollouts.setdefault(row["group_id"], []).append(_rollout(row, figures.get(row["id"])))
    groups = [_group(row, rollouts.get(row["group_id"], [])) for row in rows if row["kind"] == "group"]
    return KeptStep(header, groups)


def _nothing(run: Path, step: int) -> str:
    steps = kept_steps(run)
    if not steps:
        return f"{run} holds no rollouts: its run kept none (watch.keep.rollouts=0), or has trained no step yet"
    nearest = min(steps, key=lambda s: abs(s - step))
    return (
        f"nothing is kept of step {step}; of {len(steps)} steps from {steps[0]} to {steps[-1]} something is, the "
        f"nearest is {nearest} (watch.keep bounds what is kept)"
    )


def _read_rows(path: Path) -> list[dict[str, Any]]:
    inflater = zlib.decompressobj(wbits=31)
    data = fleeting.seen(path.read_bytes, b"")  # empty: thinned out a moment ago
    try:
        text = inflater.decompress(data)
    except zlib.error as error:
        raise ConfigError(f"{path} is damaged ({error}): delete it") from error
    whole = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


def _group(row: Mapping[str, Any], rollouts: Sequence[KeptRollout]) -> KeptGroup:
    return KeptGroup(
        row["group_id"],
        row["prompt_id"],
        row["prompt_text"],
        unpack(row["prompt_ids"]).tolist(),
        row["domain"],
        row["teacher"],
        row["check"],
        row["policy_version"],
        row["redraw"],
        sorted(rollouts, key=lambda r: r.index),
    )


def _rollout(row: Mapping[str, Any], figures: Mapping[str, Any] | None) -> KeptRollout:
    outcome, reason = row["outcome"], row["reason"]
    if outcome == "trained" and figures is not None and figures.get("prefiltered"):
        outcome, reason = "prefiltered", "the gate keeps nothing of it on the behaviour log-probs: no forward was spent"
        figures = None
    sums = figures or {}
    own = unpack(row["own"]).astype(bool).tolist() if "own" in row else None
    return KeptRollout(
        row["id"],
        row["index"],
        row["response_text"],
        unpack(row["response_ids"]).tolist(),
        row["finish"],
        row["verdict"],
        row["reward"],
        row["advantage"],
        outcome,
        reason,
        row["policy_version"],
        sums.get("l_teacher"),
        sums.get("l_student"),
        sums.get("kept_tokens"),
        sums.get("rank"),
        None if figures is None or "student" not in figures else _tokens(figures, own),
        own,
    )


def _tokens(row: Mapping[str, Any], own: list[bool] | None) -> Tokens:
    places = _places(own, len(unpack(row["student"])), bool(row.get("cut")))

    def spread(values: Any, fill: float) -> Any:
        if places is None:
            return values.tolist()
        index, length = places
        wide = np.full((length, *values.shape[1:]), fill, values.dtype)
        wide[index] = values
        return wide.tolist()

    def flat(name: str) -> Any:
        return spread(unpack(row[name]).astype(np.float64), math.nan) if name in row else None

    def table(name: str, fill: float = -math.inf) -> Any:
        return spread(unpack(row[name]).reshape(-1, row["k"]), fill) if name in row else None

    return Tokens(
        flat("student"),
        flat("behaviour"),
        flat("teacher"),
        flat("loss"),
        spread(unpack(row["keep"]).astype(bool), False),
        table("support_ids", -1),
        table("support_student"),
        table("support_teacher"),
        flat("tail_student"),
        flat("tail_teacher"),
        bool(row.get("cut")),
    )


def _places(own: list[bool] | None, figures: int, cut: bool) -> tuple[Any, int] | None:
    """Where among the response tokens the figures belong, and how far they reach; None: one after the other."""
    if own is None:
        return None
    index = np.flatnonzero(own)[:figures]
    return index, (int(index[-1]) + 1 if len(index) else 0) if cut else len(own)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return value
