"""`rgopd demo`: a run on the bundled toy task and models, and its report."""

from __future__ import annotations

import json
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from rgopd.cli.checked import check_sections
from rgopd.cli.report import summary_table, write_report
from rgopd.cli.sections import lay_sections, override, read_sections, sectioned
from rgopd.cli.up import supervise
from rgopd.common.errors import ConfigError
from rgopd.common.settings import ConfigFiles
from rgopd.trainer.demo.task import generate

TRAIN_ROWS = 4096
EVAL_ROWS = 500


def demo_sections(
    config: ConfigFiles, overrides: list[str], gate: str, seed: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """The demo's config with models, data and names filled in; overrides win over all of it."""
    packaged = Path(str(files("rgopd.configs") / "demo.yaml"))
    checkpoints = Path(str(files("rgopd.trainer.demo") / "checkpoints"))
    data = folder / "data"
    filled: dict[str, Any] = {
        "common": {"run_id": folder.name},
        "teacher": {"model": str(checkpoints / "teacher")},
        "sampler": {"student": str(checkpoints / "student")},
        "train": {
            "student": str(checkpoints / "student"),
            "output_dir": str(folder),
            "seed": seed,
            "dataset": {"path": str(data / "train.jsonl")},
            "eval": {"dataset": {"path": str(data / "eval.jsonl")}},
        },
    }
    if gate:
        filled["train"]["gate"] = gate
    base = lay_sections(read_sections(config or packaged, []), filled)
    return override(base, sectioned(overrides))


def run_demo(
    config: ConfigFiles, overrides: list[str], gate: str, seed: int, output_dir: Path | None, watch: bool = True
) -> int:
    """The command; returns an exit code."""
    if gate not in ("", "paper", "released", "off"):
        raise ConfigError(f"--gate {gate!r}: use paper, released or off")
    folder = (output_dir or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")).resolve()
    sections = demo_sections(config, overrides, gate, seed, folder)
    said = Path(sections["train"]["output_dir"]).resolve()
    if said != folder:  # --set train.output_dir: data and report belong there, too
        folder = said
        sections = demo_sections(config, overrides, gate, seed, folder)
    if not watch:
        sections.setdefault("up", {})["watch"] = False
    check_sections(sections)  # before anything is written
    write_rows(folder / "data" / "train.jsonl", generate(seed, TRAIN_ROWS, "train"))
    write_rows(folder / "data" / "eval.jsonl", generate(0, EVAL_ROWS, "eval"))
    started = time.monotonic()
    code = supervise(sections, folder)
    if code != 0:
        return code
    report = write_report(folder)
    console = Console()
    console.print(summary_table(folder))
    console.print(f"{time.monotonic() - started:.0f} s. Report: {report}", highlight=False, soft_wrap=True)
    console.print(f"Distilled student: {folder / 'student'}", highlight=False, soft_wrap=True)
    return 0


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSON lines; a file with other rows is another run's and is left alone."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.exists() and path.read_text() != text:
        raise ConfigError(f"{path} holds another run's data (another --seed?): name a new folder with --output-dir")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
