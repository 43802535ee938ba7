"""Cells: one task x length x seed, written whole or not at all, so that an evaluation goes on where it was cut off."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgopd.common import fleeting
from rgopd.common.errors import ConfigError
from rgopd.evaluate.scores import Column, Documents, Score
from rgopd.evaluate.suites import Pin

SPEC, CELL, SAMPLES = "eval.json", "cell.json", "samples.jsonl"


@dataclass(frozen=True)
class Cell:
    """Where and what. `length` None: the task's own limit, or a likelihood task."""

    pin: Pin
    length: int | None
    seed: int

    @property
    def place(self) -> Path:
        """Below the evaluation's folder."""
        name = self.pin.task.replace("/", "__") + ("" if self.pin.mode == "generate" else "-likelihood")
        return Path("cells") / name / (str(self.length) if self.length else "own") / f"seed-{self.seed}"

    @property
    def title(self) -> str:
        """For people."""
        what = "likelihood" if self.pin.mode == "likelihood" else f"{self.length or 'its own'} tokens, seed {self.seed}"
        return f"{self.pin.label} ({what})"


def is_done(folder: Path, cell: Cell) -> bool:
    """Was it written?"""
    return (folder / cell.place / CELL).exists()


def write(folder: Path, cell: Cell, result: Mapping[str, Any], samples: Iterable[Mapping[str, Any]]) -> None:
    """Both files in a folder that gets its name when they are complete and on the disk."""
    place = folder / cell.place
    partial = place.with_name(place.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / SAMPLES).open("w", encoding="utf-8") as file:
        for sample in samples:
            file.write(json.dumps(sample, ensure_ascii=False, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())
    (partial / CELL).write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)


def read(folder: Path, cell: Cell) -> dict[str, Any]:
    """The result of a cell that is done."""
    loaded: dict[str, Any] = json.loads((folder / cell.place / CELL).read_text(encoding="utf-8"))
    return loaded


def read_samples(folder: Path, cell: Cell) -> list[dict[str, Any]]:
    """Every response of a cell that is done."""
    return _lines(folder / cell.place / SAMPLES)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def claim(folder: Path, spec: Mapping[str, Any]) -> None:
    """Take a folder for an evaluation, or go on with the same one.

    Raises:
        ConfigError: it holds another evaluation; the text names what differs.
    """
    path = folder / SPEC
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(spec))
        differing = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k) and k not in ("made", "name")]
        if differing:
            told = "; ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in differing)[:600]
            raise ConfigError(f"{folder} holds another evaluation ({told}): name a new folder with --output")
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no evaluation: name a new folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
    partial.rename(path)


def _written(folder: Path) -> list[Path]:
    """Cells that are done; others may be written beside them now."""
    parts = [task for place in fleeting.listed(folder / "cells") for task in fleeting.listed(place)]
    seeds = [seed for part in parts for seed in fleeting.listed(part, "seed-*") if seed.suffix != ".partial"]
    return [seed / CELL for seed in seeds]


def read_scores(folder: Path) -> dict[int | None, dict[Column, Score]]:
    """Length -> column -> score over the seeds that are done, from the files alone; likelihood columns under None."""
    groups: dict[tuple[int | None, Column], dict[int, Path]] = {}
    for path in _written(folder):
        if not (told := fleeting.text(path)):  # an evaluation at work replaces it at this moment
            continue
        cell = json.loads(told)
        groups.setdefault((cell["length"], Column(cell["label"], cell["mode"])), {})[int(cell["seed"])] = path.parent
    found: dict[int | None, dict[Column, Score]] = {}
    for (length, column), seeds in groups.items():
        places = [seeds[seed] for seed in sorted(seeds)]
        values = [float(json.loads((place / CELL).read_text(encoding="utf-8"))["value"]) for place in places]
        documents = sum_documents(_lines(place / SAMPLES) for place in places)
        found.setdefault(length, {})[column] = Score.of_seeds(values, documents)
    return found


def sum_documents(seeds: Iterable[list[dict[str, Any]]]) -> Documents:
    """Points and weights of each document over seeds; nothing where a metric has no points by document."""
    total: dict[str, tuple[float, float]] = {}
    for samples in seeds:
        for sample in samples:
            if sample.get("points") is None:
                return {}
            key = f"{sample['task']}/{sample['doc_id']}/{sample.get('doc_hash', '')}"
            points, weight = total.get(key, (0.0, 0.0))
            total[key] = points + float(sample["points"]), weight + float(sample["weight"])
    return total
