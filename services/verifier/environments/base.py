"""What is asked of an environment, and what it says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rgopd.verifier.sandbox import plain
from rgopd.verifier.verdict import printable


@dataclass(frozen=True)
class Episode:
    """A conversation so far. `observations` are the answers to all `actions` but the last."""

    id: str
    name: str
    args: dict[str, Any]
    seed: int
    actions: tuple[str, ...]
    observations: tuple[str, ...] = ()
    kind: str = ""
    check: dict[str, Any] = field(default_factory=dict)
    """Kind and fields of the task's own check."""
    calls: str = "auto"
    """The form in which the student calls tools, one of `tool_calls.FORMS`, or auto."""


@dataclass(frozen=True)
class Observation:
    """The answer to the last action. `error`: why the environment could not tell; then nothing else counts."""

    text: str = ""
    done: bool = False
    reward: float | None = None
    error: str = ""
    duration_ms: float = 0.0
    id: str = ""

    def but(self, **changes: Any) -> Observation:
        """A copy with changes."""
        return replace(self, **changes)


class Environment(Protocol):
    """One environment. Called from many threads."""

    def answer(self, episode: Episode) -> Observation:
        """Answer an episode's last action. What goes wrong in the environment is an observation with `error`."""

    def close(self) -> None:
        """Give back what it holds."""


def broken(reason: str) -> Observation:
    """The environment could not tell."""
    return Observation(error=printable(reason))


def observed(text: Any, done: Any, reward: Any, max_chars: int) -> Observation:
    """An observation out of what an environment claims; an `error` that says which part is not what it must be."""
    if not isinstance(done, bool):
        return broken(f"its done is {plain.short(done)}, not true or false")
    if text is None and done:
        text = ""  # the end needs no words
    if text is None:
        return broken("it gave no observation, and the conversation goes on")
    if not isinstance(text, str):
        return broken(f"its observation is {plain.short(text)}, not a text")
    if reward is not None and not (isinstance(reward, (bool, int, float)) and 0 <= reward <= 1):  # no NaN either
        return broken(f"its reward is {plain.short(reward)}: give a number in [0, 1], or none")
    if len(text) > max_chars + 64:  # the player has cut it already, unless somebody speaks in its place
        text = f"{text[:max_chars]} [{len(text) - max_chars} characters more]"
    return Observation(printable(text, max_chars + 64), done, None if reward is None else float(reward))
