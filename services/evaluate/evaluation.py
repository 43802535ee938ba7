"""`rgopd eval`: all cells of a suite for one model, with one engine, resumable, judged twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rgopd.common.errors import ConfigError
from rgopd.evaluate import cells
from rgopd.evaluate.ask import ask, value
from rgopd.evaluate.cells import Cell
from rgopd.evaluate.checks import ask_alone
from rgopd.evaluate.harness import Harness
from rgopd.evaluate.judge import Judge, disagrees
from rgopd.evaluate.models import Engine, ModelSpec
from rgopd.evaluate.progress import Progress, span
from rgopd.evaluate.replay import replay_engine
from rgopd.evaluate.sandbox import CodeEval, code_eval_in_sandbox
from rgopd.evaluate.suites import LM_EVAL, Pin, Suite
from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.main import build_engine

LIKELIHOOD_WEIGHT = 8.0
"""A likelihood request beside a generated token, for the time left."""


@dataclass(frozen=True)
class Request:
    """What is evaluated. `chat` None: as each task is pinned."""

    model: ModelSpec
    name: str
    suite_name: str
    suite: Suite
    folder: Path
    data: Path | None = None
    chat: bool | None = None
    include: tuple[Path, ...] = ()

    def spec(self) -> dict[str, Any]:
        """What makes two evaluations the same; batch size and device do not."""
        pins = [{"task": p.task, "label": p.label, "mode": p.mode, "metric": p.metric, "filter": p.filter,
                 "num_fewshot": p.num_fewshot, "chat": self.chats(p)} for p in self.suite.pins]  # fmt: skip
        return {
            "name": self.name,
            "model": self.model.model,
            "weights": weights(self.model.model),
            "backend": self.model.backend,
            "dtype": self.model.dtype,
            "suite": self.suite_name,
            "lm_eval": LM_EVAL,
            "tasks": pins,
            "lengths": list(self.suite.lengths),
            "temperature": self.suite.temperature,
            "seeds": self.suite.seeds,
            "limit": self.suite.limit,
            "data": str(self.data) if self.data else None,
            "arguments": dict(self.model.arguments),
            "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        }

    def chats(self, pin: Pin) -> bool:
        """Is this task asked through the chat template?"""
        return pin.chat if self.chat is None else self.chat

    def cells(self) -> list[Cell]:
        """Task by task within a seed and length, shortest first: a first column of every task comes early."""
        generated = [p for p in self.suite.pins if p.mode == "generate"]
        ranked = [p for p in self.suite.pins if p.mode == "likelihood"]
        lengths = sorted(self.suite.lengths, key=lambda n: n or 0)
        made = [Cell(p, n, s) for n in lengths for s in range(self.suite.seeds) for p in generated]
        return made + [Cell(p, None, 0) for p in ranked]


def weights(model: str) -> list[list[Any]]:
    """Name and size of a folder's weight files: another checkpoint in the same place is another model."""
    folder = Path(model)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [folder] if folder.is_file() else []
    return [[f.name, f.stat().st_size, _digest(f)] for f in files]


def _digest(path: Path) -> str:
    """Of the first and last megabyte, which a training step changes."""
    import hashlib

    with path.open("rb") as file:
        start = file.read(1 << 20)
        file.seek(max(0, path.stat().st_size - (1 << 20)))
        return hashlib.sha256(start + file.read()).hexdigest()[:16]


@dataclass
class Evaluation:
    """The run of a request. `say` prints a line; `seen` gets the progress once requests are counted."""

    request: Request
    harness: Harness
    say: Callable[[str], None]
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    seen: Callable[[Progress], None] = lambda progress: None

    def run(self, *, rescore: bool = False) -> dict[str, Any]:
        """Every cell that is not there yet (`rescore`: every cell that is, from its samples); returns the summary.

        Raises:
            ConfigError: tasks, data, model or folder that cannot be used; nothing was sampled.
        """
        todo = self.request.cells()
        cells.claim(self.request.folder, self.request.spec())
        wanted = [c for c in todo if cells.is_done(self.request.folder, c) == rescore]
        if wanted:
            verifier, _ = build_engine(self.verifier)  # before torch starts threads in this process
            try:
                self._work(wanted, verifier, rescore)
            finally:
                verifier.drain(30)
                verifier.close()
        return summary(self.request.folder, self.request.cells(), self.request.spec())

    def _work(self, wanted: list[Cell], verifier: VerifierEngine, rescore: bool) -> None:
        with code_eval_in_sandbox(CodeEval(verifier)):
            tasks = {c.pin: self.harness.load(c.pin, self.request.data) for c in _by_pin(wanted)}
        for pin, loaded in tasks.items():
            _check_rows(pin, loaded)
        engine = None if rescore else self._engine(wanted)
        if engine is not None:
            done = len(self.request.cells()) - len(wanted)
            self.say(f"{len(wanted)} cells to do" + (f", {done} were done before" if done else ""))
        sizes = {
            pin: sum(_count(t, self.request.suite.limit) for t in loaded.values()) for pin, loaded in tasks.items()
        }
        progress = Progress(sum(_weight(c, sizes[c.pin]) for c in wanted), self.say)
        self.seen(progress)
        judge = Judge(verifier)
        for number, cell in enumerate(wanted, 1):
            progress.begin(cell.title, sizes[cell.pin] * (4 if cell.pin.mode == "likelihood" else 1),
                           _weight(cell, sizes[cell.pin]))  # fmt: skip
            source = cells.read_samples(self.request.folder, cell) if rescore else []
            here = replay_engine(source) if rescore else engine
            assert here is not None
            if not rescore:
                here.lm.set_cache_hook(progress)
            result = self._cell(cell, tasks[cell.pin], here, judge, source)
            left = progress.finish()
            self.say(
                f"[{number}/{len(wanted)}] {cell.title}: {result['value']:.2f} in {span(result['seconds'])}"
                + (f"; the verifier disagrees on {result['disagreements']}" if result["disagreements"] else "")
                + (f"; {left} left" if number < len(wanted) and left else "")
            )

    def _engine(self, wanted: list[Cell]) -> Engine:
        engine = Engine.load(self.request.model)
        if engine.backend == "hf":
            ask_alone(engine.lm, self.say)
        if any(self.request.chats(c.pin) for c in wanted) and not engine.has_chat_template:
            raise ConfigError(
                f"{self.request.model.model} has no chat template, and {self.request.suite_name} asks through one: "
                "give --no-chat to ask in plain text (other numbers than the suite's), or --tokenizer MODEL with one"
            )
        longest = max((c.length or 0 for c in wanted), default=0)
        if engine.max_length is not None and longest >= engine.max_length:
            raise ConfigError(
                f"--lengths {longest}: {self.request.model.model} takes {engine.max_length} tokens, prompt included; "
                f"name less, e.g. --lengths {engine.max_length // 2}"
            )
        return engine

    def _cell(
        self, cell: Cell, tasks: Mapping[str, Any], engine: Engine, judge: Judge, source: list[dict[str, Any]]
    ) -> dict[str, Any]:
        started = time.monotonic()
        suite = self.request.suite
        chat = self.request.chats(cell.pin) and not source
        results, samples = engine.within_memory(
            lambda: ask(engine, cell.pin, tasks, length=cell.length, seed=cell.seed, temperature=suite.temperature,
                        limit=suite.limit, chat=chat),
            self.say,
        )  # fmt: skip
        for sample, before in zip(samples, source, strict=False):
            sample["prompt"], sample["tokens"] = before["prompt"], before.get("tokens")
        for sample, verdict in zip(samples, judge.verdicts(cell.pin.judge, samples), strict=True):
            sample["verdict"] = verdict
            sample["disagrees"] = disagrees(sample["points"] or 0.0, sample["weight"], verdict)
        lengths = [s["tokens"] for s in samples if s.get("tokens") is not None]
        result = {
            "task": cell.pin.task,
            "label": cell.pin.label,
            "mode": cell.pin.mode,
            "length": cell.length,
            "seed": cell.seed,
            "value": value(samples, results, cell.pin),
            "documents": len(samples),
            "disagreements": sum(s["disagrees"] for s in samples),
            "verifier": _verifier_score(samples),
            "mean_tokens": sum(lengths) / len(lengths) if lengths else None,
            "cut_off": sum(n >= cell.length for n in lengths) / len(lengths) if lengths and cell.length else None,
            "lm_eval": results,
            "batch_size": engine.batch_size,
            "seconds": time.monotonic() - started,
        }
        cells.write(self.request.folder, cell, result, samples)
        return result


def _by_pin(wanted: list[Cell]) -> list[Cell]:
    return list({c.pin.task + c.pin.mode: c for c in wanted}.values())


def _count(task: Any, limit: int | None) -> int:
    return min(len(task.eval_docs), limit or len(task.eval_docs))


def _weight(cell: Cell, documents: int) -> float:
    return documents * (LIKELIHOOD_WEIGHT if cell.pin.mode == "likelihood" else float(cell.length or 256))


def _verifier_score(samples: list[dict[str, Any]]) -> float | None:
    """Percent by the verifier, over what it could judge."""
    rewards = [s["verdict"]["reward"] for s in samples if s["verdict"] and s["verdict"]["reward"] is not None]
    return 100 * sum(rewards) / len(rewards) if rewards else None


def _check_rows(pin: Pin, tasks: Mapping[str, Any]) -> None:
    """IFEval counts words with data that nltk downloads: say so before sampling, not in the middle."""
    if pin.task != "ifeval":
        return
    import nltk

    needs = any(
        "capital_word" in name for t in tasks.values() for row in t.eval_docs for name in row["instruction_id_list"]
    )
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        if needs:
            raise ConfigError(
                "ifeval counts words with nltk's punkt_tab, which is not here: python -m nltk.downloader punkt_tab, or "
                "bring nltk_data/tokenizers/punkt_tab from a machine that has it into ~/nltk_data"
            ) from None


def summary(folder: Path, todo: list[Cell], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by length and column over the cells that are done, with the verifier's beside them."""
    rows = []
    for length, columns in cells.read_scores(folder).items():
        for column, score in columns.items():
            mine = [c for c in todo if (c.length, c.pin.label, c.pin.mode) == (length, column.label, column.mode)]
            done = [cells.read(folder, c) for c in mine if cells.is_done(folder, c)]
            judged = [r["verifier"] for r in done if r["verifier"] is not None]
            rows.append({
                "benchmark": column.label, "mode": column.mode, "length": length, "mean": score.mean, "sd": score.sd,
                "seeds": score.seeds, "documents": done[0]["documents"],
                "verifier": _mean(judged),
                "disagreements": sum(r["disagreements"] for r in done),
                "cut_off": _mean([r["cut_off"] for r in done if r["cut_off"] is not None]),
            })  # fmt: skip
    finished = sum(cells.is_done(folder, c) for c in todo)
    return {"name": spec["name"], "suite": spec["suite"], "cells": len(todo), "done": finished, "scores": rows}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
