"""The whole loop, every service a process and all on the one GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rgopd.trainer.records.metrics import read_json_lines

SMALL = ("train.sampling.prompts_per_step=8", "train.sampling.n=4", "train.eval.n=20", "train.checkpoint.every=2",
         "train.optim.warmup_steps=1", "up.samplers=1", "sampler.engine=transformers")  # fmt: skip
LOOPS = {
    "five steps": (5, (), 1e-4),
    "colocated, bfloat16, LoRA": (
        2,
        ("common.colocated=true", "train.dtype=bfloat16", "sampler.dtype=bfloat16", "teacher.dtype=bfloat16",
         "train.gradient_checkpointing=true", "train.lora.r=8"),
        0.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_the_demo(device: str, tmp_path: Path, name: str) -> None:
    steps, more, drift = LOOPS[name]
    devices = [f"{service}.device={device}" for service in ("teacher", "sampler", "train")]
    sets = [word for setting in (f"train.steps={steps}", *SMALL, *more, *devices) for word in ("--set", setting)]
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "rgopd.cli.main", "demo", "--no-watch", "--output-dir", str(folder), *sets]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = [row for row in read_json_lines(folder / "metrics.jsonl") if row["event"] == "step"]
    assert [row["step"] for row in rows] == list(range(steps))
    for row in rows:
        assert row["loss"] > 0
        assert row["behaviour_drift"] < drift, "sampler and trainer disagree about the student"
        assert row["verdicts"]["passed"] + row["verdicts"]["failed"] == row["rollouts"] == 32
    assert (folder / "student" / "model.safetensors").exists()
