"""status.json: what a run is doing now. One small object, replaced whole, so that a reader never sees half of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rgopd.common import fleeting

STATUS = "status.json"


class StatusFile:
    """Written by the trainer's rank 0, twice a second at most and every two seconds at least while it lives."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATUS

    def write(self, status: Mapping[str, Any]) -> None:
        """Replace it; `time` (Unix seconds) and `pid` are added."""
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps({"time": time.time(), "pid": os.getpid(), **status}), encoding="utf-8")
        os.replace(partial, self.path)


def read_status(folder: Path) -> dict[str, Any] | None:
    """The newest status, with `age_s` by this machine's clock; None where a run has not begun to write one."""
    try:
        status = json.loads(fleeting.text(folder / STATUS))
    except json.JSONDecodeError:  # none yet, or a copy of a run folder in the making
        return None
    return {**status, "age_s": max(0.0, time.time() - float(status["time"]))}
