"""`rgopd init`: a commented config for a student, a teacher, data and this machine, which `doctor` and `plan` pass."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import typer
import yaml

from rgopd.cli.advice import fitting
from rgopd.cli.config_schema import LINE, as_json
from rgopd.cli.hardware import Hardware, this_machine
from rgopd.cli.plan import Planner, find_device
from rgopd.common.errors import ConfigError
from rgopd.common.models import at_hand, check_model, hub_problem
from rgopd.common.settings import merge
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.guess import Guess, guess
from rgopd.trainer.prompts.problems import Problems
from rgopd.trainer.prompts.rows import dataset_rows

LOOKED_AT = 50

COMMENTS = {
    "common.run_id": "names the run's streams; another run, another name",
    "common.shared_vocab_size": "ids beyond are padding of the larger vocabulary",
    "teacher.engine": "vllm is much faster on a GPU: pip install 'rgopd[vllm]'",
    "train.output_dir": "metrics, checkpoints and the distilled student",
    "train.steps": "0: as many as `epochs` passes over the data need",
    "train.gate": "paper, released or off: docs/objectives.md",
    "train.distillation.k": "ids a position at which student and teacher are compared",
    "train.sampling.prompts_per_step": "more prompts a step: steadier, and slower",
    "train.sampling.n": "responses a prompt; what sets right and wrong apart",
    "train.sampling.max_new_tokens": "longer answers are cut off, and then seldom right",
    "train.optim.lr": "the paper's is 5e-6",
    "train.lora": "adapters of this rank alone are trained",
}


def run_init(target: Path, student: str, teacher: str, data: str, output_dir: Path, *, split: str, force: bool) -> int:
    """The command; returns an exit code."""
    if target.exists() and not force:
        raise ConfigError(f"{target} exists: name another file, or overwrite it with --force")
    machine = this_machine()
    typer.echo(f"This machine: {machine}")
    student = student or _ask("Student (a Hugging Face folder or hub id)", "--student")
    check_model(student, "student")
    teacher = teacher or _ask("Teacher, of the same tokenizer family", "--teacher")
    check_model(teacher, "teacher")
    data = data or _ask("Data (JSONL, Parquet, folder or hub id)", "--data")
    found = look_at(data, split)
    typer.echo(f"{data}: {found.why}")
    if not found.kind:
        raise ConfigError(f"--data {data}: {found.why}; docs/verifier.md lists the kinds of check and what they need")
    dataset = {"path": data, **({"split": split} if split else {}), **found.settings}
    sections = sections_for(student, teacher, dataset, machine, output_dir)
    sections, turned = fit(sections)
    target.parent.mkdir(parents=True, exist_ok=True)
    schema = target.with_name("rgopd.schema.json")
    schema.write_text(as_json())
    target.write_text(as_commented(sections, machine, found, schema.name), encoding="utf-8")
    for text in turned:
        typer.echo(f"to fit in memory: {text}")
    typer.echo(f"Wrote {target}. Next:")
    for command in ("doctor", "plan", "up"):
        typer.echo(f"  rgopd {command} -c {target}")
    return 0


def look_at(data: str, split: str) -> Guess:
    """The kind of check that the first rows allow.

    Raises:
        ConfigError: there is no such data, or it holds no rows.
    """
    problems = Problems(data)
    part = DatasetConfig(path=Path(data), split=split)
    rows = [row for _, row in islice(dataset_rows(part, problems), LOOKED_AT)]
    problems.raise_if_any()
    return guess(rows)


def sections_for(
    student: str, teacher: str, dataset: dict[str, Any], machine: Hardware, output_dir: Path
) -> dict[str, dict[str, Any]]:
    """A small first run: minutes on a CPU, and what to turn up is in the comments."""
    gpu = bool(machine.gpus)
    dtype = "bfloat16" if gpu else "float32"
    common: dict[str, Any] = {"run_id": output_dir.name}
    sizes = vocabularies(student, teacher)
    vocabulary = min(sizes)
    if sizes[0] != sizes[1]:
        common["shared_vocab_size"] = vocabulary
    sampling = {"prompts_per_step": 32, "n": 8, "max_new_tokens": 1024} if gpu else {
        "prompts_per_step": 4, "n": 4, "max_new_tokens": 64, "groups_per_request": 4,
    }  # fmt: skip
    many = len(machine.gpus) > 2
    return {
        "common": common,
        "teacher": {"model": teacher, "dtype": dtype},
        "verifier": {"workers": min(8, machine.cores)},
        "sampler": {"student": student, "dtype": dtype},
        "train": {
            "student": student,
            "output_dir": str(output_dir),
            "dataset": {**dataset, "max_prompt_tokens": 1024 if gpu else 256},
            "steps": 0 if gpu else 20,
            "gate": "paper",
            "distillation": {"k": min(50, vocabulary)},
            "sampling": sampling,
            "optim": {"lr": 5.0e-6, "warmup_steps": 50 if gpu else 2},
            "batch": {"micro_batch_tokens": 16384 if gpu else 2048},
            "checkpoint": {"every": 50 if gpu else 10},
            "dtype": dtype,
        },
        **({"up": {"gpus": {"train": "0", "sampler": "1", "teacher": "2"}}} if many else {}),
    }


def vocabularies(student: str, teacher: str) -> tuple[int, int]:
    """Their sizes; raises ConfigError where a model's config cannot be had."""
    from transformers import AutoConfig

    sizes = []
    for name, setting in ((student, "--student"), (teacher, "--teacher")):
        at_hand(setting, name)
        try:
            sizes.append(int(AutoConfig.from_pretrained(name, trust_remote_code=False).get_text_config().vocab_size))
        except (OSError, ValueError) as error:
            raise ConfigError(hub_problem(setting, name, error)) from error
    return sizes[0], sizes[1]


def fit(sections: dict[str, dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The sections with what must be turned down for this machine's memory, as `rgopd plan` counts it."""
    device, on_gpu = find_device("auto", 0.0)
    planner = Planner(sections, device, on_gpu=on_gpu)
    changes, used = fitting(planner, planner.plan())
    return merge(sections, changes), used


def as_commented(sections: dict[str, dict[str, Any]], machine: Hardware, found: Guess, schema: str) -> str:
    """YAML with a word on what a newcomer would turn."""
    lines = [
        LINE.format(schema).rstrip(),
        f"# Written by `rgopd init` for: {machine}.",
        "# All settings: `rgopd config reference`; where each value comes from: `rgopd config show -c THIS`.",
    ]
    for section, values in sections.items():
        lines += ["", f"{section}:", *_lines(values, section, "  ")]
        if section == "train":
            lines += ["  # eval: heldout.jsonl          # accuracy before and after, on rows that are not trained on"]
            lines += ["  # lora: 16                     # adapters alone: much less memory (pip install 'rgopd[peft]')"]
    text = "\n".join(lines) + "\n"
    return text.replace("\n  dataset:", f"\n  dataset: # {found.why}", 1)


def _lines(values: dict[str, Any], above: str, indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        name = f"{above}.{key}"
        comment = f" # {COMMENTS[name]}" if name in COMMENTS else ""
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:{comment}", *_lines(value, name, indent + "  ")]
            continue
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
        lines.append(f"{indent}{key}: {text.removesuffix(chr(10) + '...' + chr(10)).strip()}{comment}")
    return lines


def _ask(question: str, option: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"rgopd init needs {option} where nobody can be asked")
    answer: str = typer.prompt(question)
    return answer.strip()
