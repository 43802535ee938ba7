"""The processes of a run as their logs tell it, and where else the run can be looked at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rgopd.common import fleeting
from rgopd.watch.run import Run

_END = 32 << 10
_LINES = 8


def processes_of(folder: Path) -> list[dict[str, Any]]:
    """[{name, url, problems}] of the processes that `rgopd up` started; problems: the last complaints in their logs."""
    return [
        {"name": log.stem, "url": url_of(log.with_suffix(".out")), "problems": _problems(log)}
        for log in fleeting.listed(folder / "logs", "*.log")
    ]


def url_of(out: Path) -> str:
    """The address of a service's ready line; empty where it has none."""
    lines = _end(out).splitlines()
    ready = next((line for line in reversed(lines) if " ready at " in line), "")
    return ready.rpartition(" ready at ")[2].strip() if ready else ""


def _problems(log: Path) -> list[dict[str, str]]:
    found = []
    for line in _end(log).splitlines():
        if '"level": "warning"' in line or '"level": "error"' in line or '"level": "critical"' in line:
            try:
                row = json.loads(line)
            except ValueError:  # cut at the window's edge
                continue
            found.append(
                {"time": str(row.get("ts", "")), "level": str(row.get("level")), "text": str(row.get("msg"))[:2000]}
            )
    return found[-_LINES:]


def _end(path: Path) -> str:
    """The last part of a text file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _END))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def links_of(run: Run, *, alive: bool) -> list[dict[str, str]]:
    """Other views of the run: {name, url or command}. Addresses are those that its own files name;
    those of services only while it is `alive`."""
    links = [
        {"name": f"{process} metrics", "url": f"{url.split('?')[0].rstrip('/')}/metrics"}
        for log in fleeting.listed(run.folder / "logs", "*.out")
        if alive and (process := log.stem) != "watch" and (url := url_of(log)).startswith(("http://", "https://"))
    ]
    monitor = run.config().get("monitor") or {}
    backends, project = monitor.get("backends") or [], str(monitor.get("project") or "rgopd")
    options = monitor.get("options") or {}
    if "tensorboard" in backends or (run.folder / "tensorboard").is_dir():
        links.append({"name": "TensorBoard", "command": f"tensorboard --logdir {run.folder / 'tensorboard'}"})
    if "wandb" in backends:
        if options.get("mode") == "offline":
            links.append({"name": "Weights & Biases", "command": "wandb sync wandb/offline-run-*"})
        else:
            entity = options.get("entity") or os.environ.get("WANDB_ENTITY") or ""
            base = str(os.environ.get("WANDB_BASE_URL") or "https://wandb.ai").rstrip("/")
            links.append(
                {"name": "Weights & Biases", "url": f"{base}/{entity}/{project}" if entity else f"{base}/home"}
            )
    if "trackio" in backends:
        space = str(options.get("space_id") or "")
        where = (
            {"url": f"https://huggingface.co/spaces/{space}"}
            if space
            else {"command": f"trackio show --project {project}"}
        )
        links.append({"name": "Trackio", **where})
    return links
