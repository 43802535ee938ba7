"""`rgopd reproduce paper`: train every method, evaluate every model, write the tables. Every part of it resumes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from rgopd.cli.compare import wide_console
from rgopd.cli.demo import TRAIN_ROWS, demo_sections, write_rows
from rgopd.cli.sections import override, read_sections, sectioned
from rgopd.cli.stopping import Stopped
from rgopd.common.errors import ConfigError
from rgopd.common.settings import merge
from rgopd.evaluate.progress import span

Sections = dict[str, dict[str, Any]]
Say = Callable[[str], None]

STUDENT, TEACHER = "Student", "Teacher"
METHODS: dict[str, dict[str, Any]] = {
    "Reverse KL": {"objective": {"name": "reverse_kl"}, "gate": "off"},
    "TSD-KD": {"objective": {"name": "tsd_kd"}, "gate": "off"},
    "RG-OPD (paper)": {"objective": {"name": "rg_opd"}, "gate": "paper"},
    "RG-OPD (released)": {"objective": {"name": "rg_opd"}, "gate": "released"},
    "GRPO": {"objective": {"name": "grpo"}, "gate": "off"},
}
"""Table 1's methods as settings of the trainer; the gate in both readings, and the reward alone."""


@dataclass(frozen=True)
class Protocol:
    """One scale.

    Attributes:
        sections: the whole config of a method's run, by its overrides and folder.
        suites: what each model is evaluated on.
        evaluation: further options of `rgopd eval`.
        tables: file name -> options of `rgopd compare`.
    """

    student: str
    teacher: str
    sections: Callable[[str, dict[str, Any], Path], Sections]
    prepare: Callable[[Path], None]
    suites: tuple[str, ...]
    evaluation: tuple[str, ...]
    tables: Mapping[str, tuple[str, ...]]


def slug(method: str) -> str:
    """A folder's name."""
    return "".join(c if c.isalnum() else "-" for c in method.lower()).strip("-").replace("--", "-")


def tiny(output: Path, overrides: list[str], *, steps: int, problems: int) -> Protocol:
    """The demo's models and task; lm-eval asks its held-out problems through local tasks of that kind."""
    checkpoints = Path(str(files("rgopd.trainer.demo") / "checkpoints"))
    held_out = output / "data" / "eval"

    def sections(method: str, changes: dict[str, Any], folder: Path) -> Sections:
        base = demo_sections(None, [], "", 0, folder)
        small = {"train": {**changes, "steps": steps, "eval": {"n": 64}}, "up": {"watch": False}}
        data = {"train": {"dataset": {"path": str(output / "data" / "train.jsonl")},
                          "eval": {"dataset": {"path": str(output / "data" / "watch.jsonl")}}}}  # fmt: skip
        return override(merge(merge(base, small), data), sectioned(overrides))

    def prepare(_: Path) -> None:
        from rgopd.trainer.demo.task import generate

        write_rows(output / "data" / "train.jsonl", generate(0, TRAIN_ROWS, "train"))
        write_rows(output / "data" / "watch.jsonl", generate(0, 64, "eval"))
        write_demo_benchmark(held_out, generate(0, problems, "eval"))

    return Protocol(
        str(checkpoints / "student"),
        str(checkpoints / "teacher"),
        sections,
        prepare,
        ("demo",),
        ("--data", str(held_out), "--batch-size", "250", "--device", "cpu"),
        {"table": ()},
    )


def write_demo_benchmark(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The demo's rows as four benchmarks with the columns that services/evaluate/demo_tasks reads."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kept: dict[str, Any] = {"prompt": row["prompt"], "domain": row["domain"]}
        if row["kind"] == "math":
            kept["answer"] = row["reference"]
        else:
            calls = [", ".join(map(repr, test["args"])) for test in row["tests"]]
            kept["test_list"] = [
                f"assert {row['entry_point']}({call}) == {test['expected']!r}"
                for call, test in zip(calls, row["tests"], strict=True)
            ]
        parts.setdefault(f"{row['domain'][0]}-{row['kind']}", []).append(kept)
    for name, members in parts.items():
        write_rows(folder / "rgopd" / "demo" / name / "test.jsonl", members)


def gpu(output: Path, overrides: list[str], data: Path | None) -> Protocol:
    """The paper's models and benchmarks; Tables 1 and 3 at its lengths, vLLM as it has it."""
    packaged = Path(str(files("rgopd.configs") / "qwen2.5-1.5b-ultrainteract.yaml"))
    base = override(read_sections(packaged, []), sectioned(overrides))

    def sections(method: str, changes: dict[str, Any], folder: Path) -> Sections:
        named = {"common": {"run_id": f"reproduce-{slug(method)}"}, "train": {**changes, "output_dir": str(folder)}}
        return merge(base, named)

    def prepare(_: Path) -> None:
        for path in (base["train"]["dataset"]["path"], base["train"]["eval"]["dataset"]["path"]):
            if not Path(path).exists():
                raise ConfigError(
                    f"{path} is not there; make both files with: rgopd data ultrainteract --input "
                    "openbmb/UltraInteract_sft --output data/ultrainteract/train.jsonl --heldout 200 "
                    "--heldout-output data/ultrainteract/heldout.jsonl"
                )

    others = ("--columns", "SciQ,MSTEM,MuSR,BBH", "--lengths", "1024")
    return Protocol(
        str(base["train"]["student"]),
        str(base["teacher"]["model"]),
        sections,
        prepare,
        ("paper-generative", "paper-likelihood"),
        ("--backend", "vllm", *(("--data", str(data)) if data else ())),
        {"table1": ("--columns", "GSM8K,GSM+,MATH,MPMath,MBPP,IFEval", "--paper"), "table3": others},
    )


class Reproduction:
    """Runs a protocol in a folder; what is finished there is not done again."""

    def __init__(self, protocol: Protocol, output: Path, say: Say) -> None:
        self.protocol, self.output, self.say = protocol, output, say

    def run(self) -> None:
        """Train, evaluate, compare."""
        started = time.monotonic()
        self.protocol.prepare(self.output)
        for number, method in enumerate(METHODS, 1):
            self.say(f"[train {number}/{len(METHODS)}] {method}")
            self._train(method)
        models = [(STUDENT, self.protocol.student), (TEACHER, self.protocol.teacher)]
        models += [(m, str(self._run_folder(m))) for m in METHODS]
        for number, (name, model) in enumerate(models, 1):
            for suite in self.protocol.suites:
                self.say(f"[evaluate {number}/{len(models)}] {name} on {suite}")
                self._evaluate(name, model, suite)
        for table, options in self.protocol.tables.items():
            self._command("compare", *self._rows(), "--teacher", TEACHER, "--baseline", STUDENT,
                          "-o", str(self.output / table), *options)  # fmt: skip
        self.say(f"done in {span(time.monotonic() - started)}: {self.output}")

    def _run_folder(self, method: str) -> Path:
        return self.output / "runs" / slug(method)

    def _rows(self) -> list[str]:
        """Student and teacher are evaluations; a method is a run, which has its curves too."""
        named = [f"{name}={self._eval_folder(name, suite)}" for name in (STUDENT, TEACHER)
                 for suite in self.protocol.suites]  # fmt: skip
        return [*named, *(f"{m}={self._run_folder(m)}" for m in METHODS)]

    def _eval_folder(self, name: str, suite: str) -> Path:
        inside = self._run_folder(name) / "evals" if name in METHODS else self.output / "evals" / slug(name)
        return inside / suite

    def _train(self, method: str) -> None:
        folder = self._run_folder(method)
        if (folder / "student" / "config.json").exists():
            self.say("  done before")
            return
        sections = self.protocol.sections(method, METHODS[method], folder)
        config = self.output / "configs" / f"{slug(method)}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(sections, sort_keys=False))
        self._command("up", "--config", str(config))  # which goes on from the run's newest checkpoint

    def _evaluate(self, name: str, model: str, suite: str) -> None:
        folder = self._eval_folder(name, suite)
        done = folder / "summary.json"
        if done.exists() and (found := json.loads(done.read_text()))["done"] == found["cells"]:
            self.say("  done before")
            return
        self._command("eval", model, "--suite", suite, "--name", name, "-o", str(folder), *self.protocol.evaluation)

    def _command(self, *words: str) -> None:
        """In a process of its own: a model's memory is free again when it ends."""
        argv = [sys.executable, "-P", "-m", "rgopd.cli.main", *words]
        with subprocess.Popen(argv) as process:
            try:
                code = process.wait()
            except (Stopped, KeyboardInterrupt):
                process.terminate()  # it ends its step, and what it started, in order
                process.wait()
                raise
        if code in (130, 143):
            raise Stopped(code - 128)
        if code != 0:
            raise ConfigError(f"`rgopd {' '.join(words[:2])} …` ended with {code}; the same command goes on from here")


def run_reproduce(protocol: Protocol, output: Path) -> int:
    """The command; returns an exit code."""
    console = wide_console()
    Reproduction(protocol, output, lambda line: console.print(line, highlight=False, markup=False)).run()
    return 0
