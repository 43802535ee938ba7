"""What a run is doing, from its files alone: alive or not, where it stands, what is wrong, what happened."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rgopd.common import fleeting
from rgopd.common.run_files import read_status
from rgopd.watch.run import Run
from rgopd.watch.table import finite

SILENT_S = 10.0
"""The trainer writes status.json at least every two seconds while it lives."""
CLOCK_STEPS = 60
STAGES = ("sampling_s", "verifying_s", "scoring_s", "train_s", "publish_s", "watch_s")
_HOLDER = re.compile(r"pid (\d+) on (\S+)")
_FIGURES = ("loss", "kept_fraction", "reward_mean", "pass_rate", "response_length_mean", "entropy", "grad_norm")


def now_of(run: Run) -> dict[str, Any]:
    """Everything that the tab Now shows but what Redis says.

    `state.kind`: `new` (no step, nothing known to live), `running`, `finished`, `stopped early`, `paused`, `failed`,
    `dead` (it ended without saying so) or `silent` (on another machine, and its files do not change any more).
    """
    status = read_status(run.folder) or {}
    with run.lock:
        step, early, rows = run.steps.last, run.early_stop, len(run.steps)
        figures = {name: {"value": run.steps.value(name), "recent": run.steps.recent(name, 100)} for name in _FIGURES}
        clock = run.clocks.window(run.clocks.columns, run.clocks.last - CLOCK_STEPS + 1, 1 << 60, CLOCK_STEPS)
        tokens_per_s = run.clocks.value("tokens_per_s")
        seconds = run.clocks.recent("seconds", 10)
        memory = {name: run.clocks.value(name) for name in ("rss_bytes", "gpu_bytes")}
        last_eval = run.evals[-1] if run.evals else None
        first_eval = run.evals[0] if len(run.evals) > 1 else None
        warnings, events = list(run.warnings()), list(run.events)
        cuts = list(run.cuts)
    total = int(status.get("steps") or run.total_steps() or 0)
    done = step + 1
    state = _state(run.folder, status, run.silent_s(status), done, total, early)
    alive = state["kind"] == "running"
    mean_s = sum(seconds) / len(seconds) if seconds else None
    return {
        "run": run.name,
        "folder": str(run.folder),
        "state": state,
        "generation": run.generation,
        "last": step,
        "rows": rows,
        "done": done,
        "total": total,
        "policy_version": status.get("policy_version", done),
        "phase": status.get("phase") if alive else None,
        "since": status.get("since"),
        "stages": status.get("stages", {}) if alive else {},
        "tokens_per_s": status.get("tokens_per_s") or tokens_per_s,
        "seconds_per_step": mean_s,
        "eta_s": mean_s * max(0, total - done) if alive and mean_s is not None and total else None,
        "rss_bytes": status.get("rss_bytes") or memory["rss_bytes"],
        "gpu_bytes": status.get("gpu_bytes") or memory["gpu_bytes"],
        "figures": {name: cell for name, cell in figures.items() if cell["value"] is not None},
        "clock": clock,
        "evaluation": _evaluation(last_eval),
        "first_evaluation": _evaluation(first_eval),
        "warnings": warnings,
        "events": events[-50:],
        "cuts": cuts,
        "settings": _settings(run.config()),
    }


def _evaluation(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if row is None or "accuracy" not in row:
        return None
    return {"step": row["step"], "accuracy": finite(float(row["accuracy"])), "problems": row.get("problems", 0)}


def _state(
    folder: Path, status: Mapping[str, Any], age: float | None, done: int, total: int, early: Any
) -> dict[str, Any]:
    phase = status.get("phase")
    if phase == "finished" or (phase is None and total and done >= total and (folder / "student").is_dir()):
        return {"kind": "stopped early" if early else "finished", "text": _early(early) if early else ""}
    if phase == "paused":
        return {"kind": "paused", "text": f"asked to stop; `rgopd resume {folder}` goes on"}
    if phase == "failed":
        return {"kind": "failed", "text": f"it could not go on: the tab Queues and faults and {folder}/logs say why"}
    if early and (folder / "student").is_dir():
        return {"kind": "stopped early", "text": _early(early)}
    if age is not None and age < SILENT_S:
        return {"kind": "running", "text": ""}
    return _by_lock(folder, age, done)


def _early(row: Mapping[str, Any]) -> str:
    return f"no better {row.get('metric')} since step {row.get('best_step')}"


def _by_lock(folder: Path, age: float | None, done: int) -> dict[str, Any]:
    """Without a fresh status: whether the process that locked the folder lives, else how long the files are silent."""
    holder = _holder(folder)
    again = f"`rgopd resume {folder}` goes on from its last checkpoint"
    if holder is None:
        return (
            {"kind": "new", "text": "no trainer has begun here yet"} if done == 0 else {"kind": "dead", "text": again}
        )
    pid, host = holder
    if host == socket.gethostname():
        if not _lives(pid):
            return {"kind": "dead", "text": f"its trainer (pid {pid}) is gone without a word; {again}"}
        if age is None or age < 3 * SILENT_S:
            return {"kind": "running", "text": ""}
        return {"kind": "silent", "text": f"its trainer (pid {pid}) lives but says nothing for {age:.0f} s"}
    changed = _changed(folder)
    if time.time() - changed < 6 * SILENT_S:
        return {"kind": "running", "text": f"on {host}"}
    return {"kind": "silent", "text": f"on {host}; nothing was written here for {time.time() - changed:.0f} s"}


def _holder(folder: Path) -> tuple[int, str] | None:
    try:
        match = _HOLDER.search((folder / "trainer.lock").read_text())
    except (OSError, UnicodeDecodeError):
        return None
    return (int(match.group(1)), match.group(2)) if match else None


def _lives(pid: int) -> bool:
    """Whether the process is there and is one of ours: numbers come back."""
    try:
        return b"rgopd" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _changed(folder: Path) -> float:
    names = ("status.json", "metrics.jsonl", "timings.jsonl", "events.jsonl")
    return max(fleeting.changed_ns(folder / name) for name in names) / 1e9


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    """The few settings by which people tell runs apart."""
    gate = config.get("gate") or {}
    found = {
        "student": Path(str(config.get("student", ""))).name,
        "objective": (config.get("objective") or {}).get("name"),
        "gate": "off" if gate.get("enabled") is False else gate.get("granularity"),
        "learning rate": (config.get("optim") or {}).get("lr"),
        "k": (config.get("distillation") or {}).get("k"),
        "seed": config.get("seed"),
    }
    return {name: str(value) for name, value in found.items() if value not in (None, "")}
