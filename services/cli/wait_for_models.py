"""Waits until model folders are whole: the init container of pods that share a volume with a Job that fetches models.

    python -m rgopd.cli.wait_for_models /models/Qwen2.5-14B-Instruct

Without it pods fail until the models are there, and a trainer's restarts are spent before a large one has come down.
Names that are no absolute paths are the hub's, and fetched by the service itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rgopd.common import fleeting
from rgopd.common.errors import ConfigError
from rgopd.common.weight_files import check_weights

LOOK_S, TELL_S, QUIET_S = 2.0, 30.0, 1800.0
"""Looks, words, and how long nothing may arrive, in seconds."""


def lacks(folder: Path) -> str:
    """What a model's folder does not hold yet; empty: nothing."""
    if not (folder / "config.json").is_file():
        return f"{folder} holds no config.json"
    try:
        check_weights("model", str(folder))
    except ConfigError as error:
        return str(error).partition(": ")[2]
    return "" if any(folder.glob("tokenizer*")) else f"{folder} holds no tokenizer"


def wait(names: Sequence[str], say: Callable[[str], object], *, quiet_s: float = QUIET_S) -> int:
    """Until all are there: 0. Where nothing arrives for `quiet_s`: 1."""
    folders = [Path(name) for name in names if name.startswith("/")]
    size, moved, told = -1, time.monotonic(), -TELL_S
    while missing := next(filter(None, map(lacks, folders)), ""):
        now, here = time.monotonic(), sum(map(fleeting.tree_size, folders))
        if here != size:
            size, moved = here, now
        if now - moved > quiet_s:
            say(f"{missing}, and nothing came for {quiet_s:.0f} s: does the Job that fetches it run, or did it fail?")
            return 1
        if now >= told + TELL_S:
            told = now
            say(f"waiting: {missing} ({here / 1e9:.1f} GB so far)")
        time.sleep(min(LOOK_S, quiet_s / 4))
    return 0


if __name__ == "__main__":
    sys.exit(wait(sys.argv[1:], lambda line: sys.stderr.write(f"{line}\n")))
