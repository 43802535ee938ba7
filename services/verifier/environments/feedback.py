"""The built-in environment `feedback`: the student hears what the task's own check says of its answer, and tries again.

The judging is that of the last answer, done by the same grader, so nothing of the student's can reach it.
"""

from __future__ import annotations

from rgopd.common.errors import InvalidInput
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.environments.base import Episode, Observation, broken, observed
from rgopd.verifier.schemas import Item
from rgopd.verifier.verdict import Status

MESSAGE = "That is not right: {reason}\nRepair it and answer again."
MAX_CHARS = 4096


class FeedbackEnvironment:
    """Reset's argument `message` is what the student is told, with {reason} in it."""

    def __init__(self, engine: VerifierEngine) -> None:
        self.engine = engine

    def answer(self, episode: Episode) -> Observation:
        """See `Environment`."""
        message = episode.args.get("message", MESSAGE)
        if not isinstance(message, str) or set(episode.args) - {"message"}:
            return broken("feedback takes one argument, message: a text with {reason} in it")
        item = Item(episode.id, episode.kind, episode.actions[-1], episode.check)
        try:
            (verdict,) = self.engine.check([item])
        except InvalidInput as problem:
            return broken(str(problem))
        if verdict.status is Status.error:
            return broken(verdict.reason)
        done = verdict.status is Status.passed
        text = "" if done else message.replace("{reason}", verdict.reason)
        return observed(text, done, verdict.reward, MAX_CHARS)

    def close(self) -> None:
        """See `Environment`. The engine is the verifier's."""
