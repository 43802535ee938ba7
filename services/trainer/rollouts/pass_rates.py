"""How often each prompt was solved, step by step: what `dataset.selection` goes by, kept in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.records.metrics import JsonLines, read_json_lines

FILE = "pass_rates.jsonl"


class PassRates:
    """Measurements of a run. Without a selection nothing is kept.

    Args:
        start: the step the run (re)starts at; later rows of an earlier life are made again.
    """

    def __init__(self, prompts: PromptSource, folder: Path, start: int) -> None:
        self.prompts = prompts
        self._path: Path | None = None
        self._noted: dict[int, dict[str, float]] = {}
        if not prompts.config.selection.active:
            return
        self._path = folder / FILE
        JsonLines(self._path, lambda row: row["step"] < start).close()
        for row in read_json_lines(self._path):
            for prompt_id, rate in row["rates"].items():
                prompts.selection.note(int(row["step"]), prompt_id, float(rate))

    def note(self, step: int, prompt_id: str, rewards: Sequence[float | None]) -> None:
        """The rewards of a prompt's rollouts in a step; those without a verdict are None."""
        known = [reward for reward in rewards if reward is not None]
        if self._path is None or not known:
            return
        rate = sum(known) / len(known)
        self._noted.setdefault(step, {})[prompt_id] = rate
        self.prompts.selection.note(step, prompt_id, rate)

    def release(self, step: int) -> None:
        """A step is trained on: write what it measured."""
        if self._path is not None and (rates := self._noted.pop(step, None)):
            lines = JsonLines(self._path, lambda row: True)
            lines.write({"step": step, "rates": rates})
            lines.sync()
            lines.close()
