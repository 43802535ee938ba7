"""An environment that is a Python class: each answer plays the conversation again in a fresh process of the sandbox.

Nothing of it outlives a turn: a killed worker costs the answer it was at, and no state is ever unpickled. What was said
before must come out again, which finds environments that are not a function of their arguments, seed and actions.
"""

from __future__ import annotations

from typing import Any

from rgopd.verifier.code.outcome import how_it_ended
from rgopd.verifier.environments.base import Episode, Observation, broken, observed
from rgopd.verifier.environments.player import PLAYER
from rgopd.verifier.sandbox import plain
from rgopd.verifier.sandbox.command import Command, Finished, SandboxError
from rgopd.verifier.tools import Tools


class PythonEnvironment:
    """One file.

    Args:
        source: its Python.
        tools: the sandbox, and the limits of one answer (all the turns that are played again included).
        max_chars: of an observation.
    """

    def __init__(self, source: str, tools: Tools, max_chars: int) -> None:
        self.program = f"{source}\n{PLAYER}"
        self.tools = tools
        self.max_chars = max_chars

    def answer(self, episode: Episode) -> Observation:
        """See `Environment`."""
        limits = self.tools.default_limits
        arguments = [episode.args, list(episode.actions), episode.seed, self.max_chars, episode.calls]
        call = {"f": "rgopd_play", "a": [plain.encode(argument) for argument in arguments], "k": {}}
        payload = {"program": self.program, "setup": "", "calls": [call], "value_bytes": limits.value_bytes}
        try:
            end = self.tools.sandbox.run(Command("calls", limits, payload))
        except SandboxError as problem:
            return broken(f"sandbox: {problem}")
        lines = _lines(end, how_it_ended(end, limits))
        return broken(lines) if isinstance(lines, str) else self._last(episode, lines)

    def close(self) -> None:
        """See `Environment`. The sandbox is the verifier's."""

    def _last(self, episode: Episode, lines: list[Any]) -> Observation:
        if len(lines) != len(episode.actions):
            return broken(f"it answered {len(lines)} of {len(episode.actions)} turns")
        said = [observed(text, done, reward, self.max_chars) for text, done, reward in lines]
        if (bad := next((each for each in said if each.error), None)) is not None:
            return bad
        for turn, (now, before) in enumerate(zip(said, episode.observations, strict=False)):
            if now.text != before or now.done:
                return broken(
                    f"played again, it answers turn {turn} otherwise ({plain.short(now.text)}, before "
                    f"{plain.short(before)}): it must depend on reset's arguments, seed and the actions alone"
                )
        return said[-1]


def _lines(end: Finished, ended: str) -> list[Any] | str:
    """One [text, done, reward] a turn, or why there are none. The bytes are the environment's to forge."""
    lines = end.channel.split(b"\n")[:-1]
    if end.killed == "starved":
        return "the machine was too busy to run it"
    try:
        answer = plain.parse(lines[-1]) if lines else {}
        if isinstance(answer, dict) and isinstance(answer.get("e"), list):
            return f"it raised {': '.join(str(part)[:500] for part in answer['e'][:2])}"
        if not isinstance(answer, dict) or "v" not in answer or len(lines) != 2:
            return ended or "it ended before it had answered"
        value = plain.decode(answer["v"])
    except plain.NotPlain as problem:
        return str(problem)
    if not isinstance(value, list) or not all(isinstance(line, list) and len(line) == 3 for line in value):
        return f"it answered {plain.short(value)}"
    return value
