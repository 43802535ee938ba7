"""`rgopd train`: this process is a rank, or starts them; rank 0 says what the run is doing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

from rgopd.cli.display import Progress, RunSource
from rgopd.cli.torchrun import command

OFF = "RGOPD_PROGRESS"
"""Environment: `off` where another process tells (`rgopd up`)."""


def run_train(config: list[Path] | None, overrides: list[str]) -> int:
    """The command. Returns the exit code; does not return where it becomes the launcher of several ranks."""
    rank, silent = os.environ.get("RANK"), os.environ.get(OFF) == "off"
    if not silent and rank in (None, "0"):
        Console().print("Loading PyTorch", highlight=False)  # seconds, before a setting can be read
    from rgopd.trainer.config import TrainConfig

    settings = TrainConfig.from_sources("train", config, overrides)
    if settings.nproc > 1 and rank is None:
        arguments = ["train", *(word for path in config or [] for word in ("--config", str(path)))]
        for override in overrides:
            arguments += ["--set", override]
        argv = command(settings.nproc, arguments, max_restarts=settings.fault.max_restarts)
        os.execv(argv[0], argv)
    mode = "off" if silent or rank not in (None, "0") else settings.watch.progress
    progress = Progress(RunSource(settings.output_dir), mode, settings.watch.progress_s)
    log_file = None
    if not silent and settings.watch.progress in ("auto", "live") and sys.stderr.isatty():
        # JSON lines and bars do not share a terminal; every rank's go to a file.
        log_file = settings.output_dir / "logs" / f"trainer-{rank or 0}.log"
        progress.say(f"Run folder {settings.output_dir}, logs in {log_file.parent}")
    with progress:
        from rgopd.trainer.run.main import train

        return train(settings, log_file)
