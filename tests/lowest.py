"""`make test-lowest`: the lowest versions that pyproject.toml allows, all imports, the demo's loop."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import subprocess
import sys
import tempfile
from importlib.metadata import requires, version
from pathlib import Path

from rgopd.trainer.records.metrics import read_json_lines

EXTRAS = {"vllm", "lm_eval", "evaluate", "accelerate", "nltk", "peft", "triton", "flash_attn", "wandb", "trackio"}
EXTRAS |= {"tensorboardX", "obstore", "psutil"}
"""What optional dependencies bring: a module may need one."""

SMALL = ("train.steps=2", "train.eval.n=20", "train.sampling.prompts_per_step=8", "up.samplers=1")


def check_versions() -> None:
    """What is installed is what pyproject.toml names as lowest: the lock may be older than a bound."""
    for name in ("torch", "transformers"):
        [bound] = {line.split(";")[0].strip() for line in requires("rgopd") or () if line.startswith(f"{name}>=")}
        lowest, found = bound.partition(">=")[2], version(name).partition("+")[0]
        assert found.split(".")[:2] == lowest.split(".")[:2], f"{name} {found}, and pyproject.toml says {bound}"
        print(f"{name} {found}")


def import_everything() -> int:
    """Every module of the package; returns how many."""
    package = importlib.util.find_spec("rgopd")
    assert package is not None
    names = [module.name for module in pkgutil.walk_packages(package.submodule_search_locations, "rgopd.")]
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in EXTRAS:
                raise
            print(f"{name}: needs {error.name}")
    return len(names)


def train(folder: Path) -> None:
    """Two steps by two ranks, as `rgopd demo` takes them."""
    sets = [word for setting in SMALL for word in ("--set", setting)]
    command = [sys.executable, "-m", "rgopd.cli.main", "demo", "--no-watch", "--output-dir", str(folder), *sets]
    subprocess.run(command, check=True)
    steps = [row for row in read_json_lines(folder / "metrics.jsonl") if row["event"] == "step"]
    assert len(steps) == 2, steps
    assert all(row["behaviour_drift"] < 1e-5 and row["loss"] > 0 for row in steps), steps


if __name__ == "__main__":
    check_versions()
    print(f"{import_everything()} modules")
    with tempfile.TemporaryDirectory() as work:
        train(Path(work) / "run")
    print("two steps, no drift")
