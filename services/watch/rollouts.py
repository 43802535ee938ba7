"""The kept rollouts of a step for the page: filtered, explained, and a rollout's tokens piece by piece."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rgopd.common import fleeting
from rgopd.common.errors import InvalidInput
from rgopd.common.run_files import (
    KeptGroup,
    KeptRollout,
    KeptStep,
    Vocabulary,
    explain,
    kept_steps,
    read_step,
)
from rgopd.common.run_files.kept import NothingKept
from rgopd.common.run_files.kept_files import kept_files
from rgopd.watch.run import Run

_CACHED_STEPS = 4
_LOOKS = 3


@dataclass(frozen=True)
class Filter:
    """Which rollouts are wanted; empty: all. `kept`: all, part, none, or skipped (the gate never saw it)."""

    domain: str = ""
    sign: str = ""
    kept: str = ""
    verdict: str = ""
    text: str = ""

    def takes(self, group: KeptGroup, rollout: KeptRollout, kept: str) -> bool:
        """Whether a rollout is wanted; text is looked for in prompt and response, letter case aside."""
        status = (rollout.verdict or {}).get("status", "")
        text = self.text.casefold()
        return (
            (not self.domain or group.domain == self.domain)
            and (not self.sign or rollout.sign == self.sign)
            and (not self.kept or (kept or "skipped") == self.kept)
            and (not self.verdict or status == self.verdict)
            and (not text or text in group.prompt_text.casefold() or text in rollout.response_text.casefold())
        )


def kept_steps_of(run: Run) -> list[int]:
    """Steps of which something is kept."""
    return kept_steps(run.folder)


def rollouts_of(run: Run, step: int | None, chosen: Filter) -> dict[str, Any]:
    """{"steps", "step", "header", "domains", "shown", "of", "groups"}; a step of which nothing is kept: the nearest.

    Never an error for a run that kept nothing: `groups` is then empty and `trouble` says why.
    """
    steps, number, kept = _nearest(run.folder, step)
    if kept is None:
        trouble = (
            "no rollouts are kept: it has trained no step yet, or was told to keep none (train.watch.keep.rollouts=0)"
        )
        return {
            "steps": [],
            "step": None,
            "header": {},
            "domains": [],
            "shown": 0,
            "of": 0,
            "groups": [],
            "trouble": trouble,
        }
    groups, shown, total = [], 0, 0
    for group in kept.groups:
        rows = []
        for rollout in group.rollouts:
            total += 1
            reason = explain(kept, rollout)
            if chosen.takes(group, rollout, reason.kept):
                rows.append({**brief(rollout), "kept": reason.kept or "skipped", "why": reason.text})
        if rows:
            shown += len(rows)
            groups.append(
                {
                    "group_id": group.group_id,
                    "prompt_text": group.prompt_text,
                    "domain": group.domain,
                    "teacher": group.teacher,
                    "check": plain(group.check),
                    "redraw": group.redraw,
                    "policy_version": group.policy_version,
                    "size": len(group.rollouts),
                    "passed": sum((r.verdict or {}).get("status") == "passed" for r in group.rollouts),
                    "rollouts": rows,
                }
            )
    return {
        "steps": steps,
        "step": number,
        "asked": step,
        "header": plain(kept.header),
        "domains": sorted({group.domain for group in kept.groups}),
        "shown": shown,
        "of": total,
        "groups": groups,
        "trouble": "",
    }


def brief(rollout: KeptRollout) -> dict[str, Any]:
    """A rollout without its tokens."""
    return {
        "id": rollout.rollout_id,
        "index": rollout.index,
        "response_text": rollout.response_text,
        "length": rollout.own_tokens,
        "turns": rollout.turns,
        "told": len(rollout.response_ids) - rollout.own_tokens,
        "finish": rollout.finish,
        "verdict": plain(rollout.verdict),
        "reward": plain(rollout.reward),
        "advantage": plain(rollout.advantage),
        "sign": rollout.sign,
        "outcome": rollout.outcome,
        "policy_version": rollout.policy_version,
        "l_teacher": plain(rollout.l_teacher),
        "l_student": plain(rollout.l_student),
        "kept_tokens": rollout.kept_tokens,
        "has_tokens": rollout.tokens is not None,
    }


def rollout_of(run: Run, step: int, rollout_id: str) -> dict[str, Any]:
    """Its tokens: {"pieces", "ids", "special"; "gap", "loss", "keep", "student", "teacher", "cut"}."""
    rollout = find(run, step, rollout_id)
    known = vocabulary(run.folder)
    special = [i for i, token in enumerate(rollout.response_ids) if token in known.special]
    tokens = rollout.tokens
    figures: dict[str, Any] = {}
    if tokens is not None:
        figures = {
            "gap": _short(tokens.gap),
            "loss": _short(tokens.loss),
            "student": _short(tokens.student),
            "teacher": _short(tokens.teacher),
            "behaviour": _short(tokens.behaviour),
            "keep": [int(keep) for keep in tokens.keep],
            "cut": tokens.cut,
        }
    told = [] if rollout.own is None else [i for i, own in enumerate(rollout.own) if not own]
    ids = rollout.response_ids
    return {"pieces": known.pieces(ids), "ids": ids, "special": special, "told": told, **figures}


def support_of(run: Run, step: int, rollout_id: str, first: int, count: int) -> dict[str, Any]:
    """{"first", "rows"}: by position the likeliest tokens, [label, student, teacher, id], and the tails."""
    rollout = find(run, step, rollout_id)
    tokens = rollout.tokens
    if tokens is None:
        raise InvalidInput(f"no figures are kept of the tokens of {rollout_id}")
    known = vocabulary(run.folder)
    end = min(first + count, len(tokens.keep))
    return {"first": first, "rows": [_row(tokens, known, position) for position in range(first, end)]}


def _row(tokens: Any, known: Vocabulary, position: int) -> dict[str, Any]:
    teachers = tokens.support_teacher[position] if tokens.support_teacher is not None else None
    top = [
        [known.label(token), _cut(student), _cut(teachers[i]) if teachers is not None else None, token]
        for i, (token, student) in enumerate(
            zip(tokens.support_ids[position], tokens.support_student[position], strict=True)
        )
        if token >= 0
    ]
    tails = [_cut(tokens.tail_student[position])]
    tails.append(_cut(tokens.tail_teacher[position]) if tokens.tail_teacher is not None else None)
    return {"top": top, "tail": tails}


def _nearest(folder: Path, step: int | None) -> tuple[list[int], int, KeptStep | None]:
    """Steps of which something is kept, the one nearest to `step` (None: the newest), and what is kept of it."""
    steps = kept_steps(folder)
    for _ in range(_LOOKS):
        if not steps:
            break
        number = steps[-1] if step is None else min(steps, key=lambda s: abs(s - step))
        try:
            return steps, number, load_step(folder, number)
        except NothingKept:  # thinned out since it was listed
            steps = kept_steps(folder)
    return [], -1, None


def find(run: Run, step: int, rollout_id: str) -> KeptRollout:
    """One kept rollout. Raises `InvalidInput` where there is none."""
    for _, rollout in load_step(run.folder, step).rollouts:
        if rollout.rollout_id == rollout_id:
            return rollout
    raise InvalidInput(f"step {step} keeps no rollout {rollout_id!r}")


def load_step(folder: Path, step: int) -> KeptStep:
    """`read_step`, remembered until one of the step's files changes: other ranks write their parts a moment later."""
    parts = tuple(
        sorted((str(path), fleeting.changed_ns(path)) for path, number, _ in kept_files(folder) if number == step)
    )
    return _load(folder, step, parts)


@lru_cache(maxsize=_CACHED_STEPS)
def _load(folder: Path, step: int, parts: tuple[tuple[str, int], ...]) -> KeptStep:
    return read_step(folder, step)


def vocabulary(folder: Path) -> Vocabulary:
    """Texts of token ids; not remembered before the file is there."""
    return _vocabulary(folder, fleeting.changed_ns(folder / "rollouts" / "vocabulary.json.gz"))


@lru_cache(maxsize=4)
def _vocabulary(folder: Path, changed: int) -> Vocabulary:
    return Vocabulary.read(folder)


def plain(value: Any) -> Any:
    """For JSON: None for NaN and infinities, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def _cut(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _short(values: Sequence[float] | None) -> list[float | None] | None:
    return None if values is None else [_cut(value) for value in values]
