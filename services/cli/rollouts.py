"""`rgopd rollouts`: the kept rollouts of a step, each with the gate's reason, for a terminal or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rgopd.common.errors import ConfigError
from rgopd.common.run_files import KeptGroup, KeptRollout, KeptStep, RunFolder, Vocabulary, explain

SIGNS, VERDICTS = ("positive", "zero", "negative"), ("passed", "failed", "error")
OUTCOMES = ("trained", "prefiltered", "unscored", "error", "lost", "redrawn")
_SATURATED = 3.0
"""Nats at which a token's colour is full."""
_CONTROL = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)} | {127: "␡"}
"""Shown in their place: a response may hold escape sequences that would drive the terminal."""
_CONTROL |= dict.fromkeys((*range(128, 160), *range(8234, 8239), *range(8294, 8298)), "�")


@dataclass(frozen=True)
class Wanted:
    """Which rollouts to show. Empty: all."""

    kept: bool = False
    """The gate kept at least one token."""
    dropped: bool = False
    """The gate kept none, or it was not trained on."""
    verdict: str = ""
    sign: str = ""
    domain: str = ""
    outcome: str = ""
    text: str = ""
    """In prompt or response, whatever the case."""

    def check(self) -> None:
        """ConfigError for a word that is none of those known."""
        for name, value, known in (
            ("--verdict", self.verdict, VERDICTS),
            ("--sign", self.sign, SIGNS),
            ("--outcome", self.outcome, OUTCOMES),
        ):
            if value and value not in known:
                raise ConfigError(f"{name} {value!r}: use {', '.join(known)}")
        if self.kept and self.dropped:
            raise ConfigError("--kept and --dropped exclude each other: leave one out")

    def takes(self, step: KeptStep, group: KeptGroup, rollout: KeptRollout) -> bool:
        """Whether it is shown."""
        kept = explain(step, rollout).kept in ("all", "part")
        status = rollout.verdict["status"] if rollout.verdict else ""
        text = f"{group.prompt_text}\n{rollout.response_text}".casefold()
        return (
            (not self.kept or kept)
            and (not self.dropped or not kept)
            and (not self.verdict or status == self.verdict)
            and (not self.sign or rollout.sign == self.sign)
            and (not self.domain or group.domain == self.domain)
            and (not self.outcome or rollout.outcome == self.outcome)
            and self.text.casefold() in text
        )


def run_rollouts(run: Path, step: int | None, wanted: Wanted, *, as_json: bool, tokens: bool, limit: int) -> int:
    """The command. Returns 0, also where nothing fits: that is an answer."""
    wanted.check()
    folder = RunFolder(run)
    steps = folder.kept_steps()
    shown = folder.step(steps[-1] if step is None and steps else step or 0)
    chosen = [(g, r) for g, r in shown.rollouts if wanted.takes(shown, g, r)]
    if as_json:
        for group, rollout in chosen[: limit or None]:
            sys.stdout.write(json.dumps(_json(shown, group, rollout, folder.vocabulary)) + "\n")
        return 0
    console = Console(highlight=False, soft_wrap=True)
    console.print(_head(shown, steps, len(chosen)))
    last = ""
    for group, rollout in chosen[: limit or None]:
        if group.group_id != last:
            console.print(_prompt(group))
            last = group.group_id
        for part in _response(shown, rollout, folder.vocabulary, tokens):
            console.print(part)
    if limit and len(chosen) > limit:
        console.print(f"{len(chosen) - limit} more: --limit 0 shows all")
    return 0


def _json(step: KeptStep, group: KeptGroup, rollout: KeptRollout, vocabulary: Vocabulary) -> dict[str, Any]:
    said = explain(step, rollout)
    prompt = {k: v for k, v in vars(group).items() if k not in ("rollouts", "prompt_ids", "policy_version")}
    return {
        "step": step.step,
        **prompt,
        **rollout.to_json(),
        "pieces": vocabulary.pieces(rollout.response_ids),
        "kept": said.kept,
        "explanation": said.text,
    }


def _head(step: KeptStep, steps: list[int], count: int) -> Text:
    header, gate = step.header, step.header["gate"]
    on = f"gate {gate['granularity']}, delta {gate['delta']:g}, A = 0 {gate['zero_advantage']}"
    text = Text(f"step {step.step}", style="bold")
    text.append(
        f"  {header['objective']}, {on if gate['enabled'] else 'gate off'}; {len(step.rollouts)} of "
        f"{header['rollouts']} rollouts are kept, {count} shown; steps {steps[0]} to {steps[-1]} are there",
        style="not bold",
    )
    if sys.stdout.isatty():
        text.append("\nColour: teacher minus student, ", style="not bold")
        text.append(" teacher likes it less ", style=_colour(-_SATURATED)).append(" ")
        text.append(" teacher likes it better ", style=_colour(_SATURATED))
    return text


def _prompt(group: KeptGroup) -> Text:
    text = Text(f"\n{group.group_id}  {group.domain}", style="bold")
    reference = group.check.get("reference")
    if reference is not None:
        text.append(f"  reference {clean(str(reference))}", style="not bold")
    return text.append(f"\n{clean(group.prompt_text)}", style="not bold dim")


def _response(step: KeptStep, rollout: KeptRollout, vocabulary: Vocabulary, tokens: bool) -> Iterator[Text]:
    verdict = rollout.verdict or {"status": "no verdict", "reason": ""}
    numbers = [
        f"{name} {v:+.3f}" for name, v in (("reward", rollout.reward), ("A", rollout.advantage)) if v is not None
    ]
    status = verdict["status"]
    text = Text(f"\n{rollout.rollout_id}  ")
    text.append(status, style={"passed": "green", "failed": "red"}.get(status, "yellow"))
    text.append(f"  {'  '.join(numbers)}  {rollout.own_tokens} tokens")
    if rollout.own is not None:
        text.append(f" in {rollout.turns} turns")
        text.append(f" + {len(rollout.own) - rollout.own_tokens} of its environment, not trained on", style="dim")
    text.append("  cut at max_new_tokens" if rollout.finish == "length" else "")
    text.append("  out of turns" if rollout.finish == "turns" else "")
    yield text
    if verdict["reason"]:
        yield Text(f"  verdict: {clean(verdict['reason'])}")
    for number, test in enumerate(verdict.get("tests", ())):
        if test["status"] != "passed":
            yield Text(f"  test {number}: {test['status']}: {clean(test['reason'])}")
    yield Text(f"  gate: {explain(step, rollout).text}")
    yield _coloured(rollout, vocabulary)
    if tokens:
        yield from _tokens(rollout, vocabulary)


def _coloured(rollout: KeptRollout, vocabulary: Vocabulary) -> Text:
    gap = rollout.tokens.gap if rollout.tokens is not None else None
    if gap is None and rollout.own is None:
        return Text(clean(rollout.response_text))
    text, gap = Text(), gap or []
    for number, piece in enumerate(vocabulary.pieces(rollout.response_ids)):
        if rollout.own is not None and not rollout.own[number]:
            begins = not number or rollout.own[number - 1]
            ends = number + 1 == len(rollout.own) or rollout.own[number + 1]
            text.append(f"{'⟦' if begins else ''}{clean(piece)}{'⟧' if ends else ''}", style="dim italic")
            continue
        text.append(clean(piece), style=_colour(gap[number]) if number < len(gap) else "dim")
    return text


def _tokens(rollout: KeptRollout, vocabulary: Vocabulary) -> Iterator[Text]:
    figures = rollout.tokens
    if figures is None:
        return
    gap = figures.gap
    yield Text(
        f"  {'token':<14}{'student':>9}{'teacher':>9}{'gap':>9}{'loss':>9}  kept  student's likeliest, student|teacher"
    )
    for n, keep in enumerate(figures.keep):
        if rollout.own is not None and not rollout.own[n]:
            yield Text(f"  {_label(vocabulary, rollout.response_ids[n]):<14}  its environment's", style="dim italic")
            continue
        teacher = figures.teacher[n] if figures.teacher is not None else float("nan")
        there = figures.support_teacher[n] if figures.support_teacher is not None else [float("nan")] * 99
        rows = zip(figures.support_ids[n], figures.support_student[n], there, strict=False)
        likeliest = "  ".join(f"{_label(vocabulary, i)} {s:.2f}|{t:.2f}" for i, s, t in list(rows)[:4] if i >= 0)
        tails = f"tail {figures.tail_student[n]:.2f}"
        tails += f"|{figures.tail_teacher[n]:.2f}" if figures.tail_teacher is not None else ""
        difference = gap[n] if gap is not None else float("nan")
        line = Text(f"  {_label(vocabulary, rollout.response_ids[n]):<14}{figures.student[n]:9.3f}{teacher:9.3f}")
        line.append(f"{difference:+9.3f}", style=_colour(difference))
        yield line.append(f"{figures.loss[n]:9.4f}  {'yes ' if keep else 'no  '}  {likeliest}  {tails}")


def _label(vocabulary: Vocabulary, token_id: int) -> str:
    return repr(clean(vocabulary.label(token_id)))[1:-1].replace(" ", "␣")


def _colour(gap: float) -> str:
    """Blue where the teacher likes the token better than the student does, red where it likes it less."""
    if gap != gap or abs(gap) < 0.05:
        return ""
    share = min(1.0, abs(gap) / _SATURATED)
    pale = round(235 - 115 * share)
    red, green, blue = (pale, pale, 255) if gap > 0 else (255, pale, pale)
    return f"black on rgb({red},{green},{blue})"


def clean(text: str) -> str:
    """Control characters and changes of writing direction made visible."""
    return text.translate(_CONTROL)
