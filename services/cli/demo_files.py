"""The demo's models and data as folders, for deployments whose services share volumes instead of one machine.

    python -m rgopd.cli.demo_files MODELS DATA

writes MODELS/{teacher,student} and DATA/{train,eval}.jsonl. Running it again changes nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from rgopd.trainer.demo.task import generate

TRAIN_ROWS, EVAL_ROWS = 4096, 500  # as `rgopd demo`


def write_demo_files(models: Path, data: Path, seed: int = 0) -> list[Path]:
    """Copy the bundled checkpoints and make the toy rows; returns what is there now."""
    written = []
    checkpoints = Path(str(files("rgopd.trainer.demo") / "checkpoints"))
    for name in ("teacher", "student"):
        shutil.copytree(checkpoints / name, models / name, dirs_exist_ok=True)
        written.append(models / name)
    rows = {"train": generate(seed, TRAIN_ROWS, "train"), "eval": generate(0, EVAL_ROWS, "eval")}
    for name, made in rows.items():
        written.append(_write(data / f"{name}.jsonl", made))
    return written


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    partial.replace(path)  # a reader never sees half of it
    return path


def main(arguments: list[str]) -> int:
    """Command line; returns an exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m rgopd.cli.demo_files MODELS DATA\n")
        return 2
    for path in write_demo_files(Path(arguments[0]), Path(arguments[1])):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
