"""A run's folder as a watcher sees it: which files there are, and one reader for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from rgopd.common import fleeting
from rgopd.common.errors import ConfigError
from rgopd.common.run_files.events import EVENTS
from rgopd.common.run_files.kept import KeptStep, kept_steps, read_step
from rgopd.common.run_files.lines import Lines
from rgopd.common.run_files.status import read_status
from rgopd.common.run_files.vocabulary import Vocabulary


class RunFolder:
    """Readers of one run. Nothing is opened until it is asked for; any file may be missing yet."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where there is no such folder, or it is not a run's."""
        self.path = path.resolve()
        if not self.path.is_dir():
            raise ConfigError(f"{path} is not a folder: name the folder of a run, e.g. runs/demo-20260101-120000")
        if not any((self.path / name).exists() for name in ("config.yaml", "run.yaml", "metrics.jsonl", EVENTS)):
            raise ConfigError(f"{path} is not the folder of a run: it has neither config.yaml nor metrics.jsonl")
        self.metrics = Lines(self.path / "metrics.jsonl")
        self.timings = Lines(self.path / "timings.jsonl")
        self.ledger = Lines(self.path / "ledger.jsonl")
        self.events = Lines(self.path / EVENTS)
        self._vocabulary: Vocabulary | None = None

    @property
    def run_id(self) -> str:
        """Its name in Redis; the folder's name until it has one."""
        told = fleeting.text(self.path / "run.json")
        return str(json.loads(told)["run_id"]) if told else self.path.name

    def config(self) -> dict[str, Any]:
        """The trainer's settings in force, defaults included; empty before it starts."""
        return dict(yaml.safe_load(fleeting.text(self.path / "config.yaml")) or {})

    def status(self) -> dict[str, Any] | None:
        """What it is doing now; see `read_status`."""
        return read_status(self.path)

    def kept_steps(self) -> list[int]:
        """Steps whose rollouts can be looked at."""
        return kept_steps(self.path)

    def step(self, number: int) -> KeptStep:
        """See `read_step`."""
        return read_step(self.path, number)

    @property
    def vocabulary(self) -> Vocabulary:
        """Texts of token ids; read once it is there."""
        if self._vocabulary is None or not self._vocabulary.tokens:
            self._vocabulary = Vocabulary.read(self.path)
        return self._vocabulary
