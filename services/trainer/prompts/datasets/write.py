"""From converted rows to files: duplicates and unusable references out, a held-out part aside, a report beside it."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rgopd.common.errors import ConfigError
from rgopd.common.identity import derive_seed
from rgopd.trainer.prompts.datasets.base import Judge, Row, Tally, prompt_text
from rgopd.trainer.prompts.datasets.exclude import Excluded


def clean(rows: Iterable[Row], tally: Tally, judge: Judge | None, excluded: Excluded | None = None) -> Iterator[Row]:
    """Each prompt once, none that holds an excluded problem, and (given a judge) each mathematical reference only if it
    would be passed as an answer."""
    seen: set[int] = set()
    for row in rows:
        prompt = prompt_text(row["prompt"])
        if excluded is not None and excluded.holds(prompt):
            tally.left_out["the problem is in a set given with --exclude"] += 1
            continue
        key = derive_seed(prompt)
        if key in seen:
            tally.left_out["duplicate prompt"] += 1
            continue
        seen.add(key)
        if judge is not None and row["kind"] == "math" and not judge(row["reference"], row["reference"]):
            tally.left_out["the verifier does not pass the reference as its own answer"] += 1
            continue
        yield row


def write(
    rows: Iterable[Row],
    tally: Tally,
    output: Path,
    *,
    limit: int = 0,
    heldout: int = 0,
    heldout_output: Path,
    seed: int,
) -> tuple[int, int]:
    """Write training and held-out rows as JSON lines, whole or not at all; returns how many of each.

    Which rows are held out, and which `limit` are kept (0: all), depends on seed and prompt alone, not on the order.
    Memory holds `limit + heldout` rows, or `heldout` without a limit.

    Raises:
        ConfigError: nothing was left to write.
    """
    room = limit + heldout if limit else heldout
    heap: list[tuple[int, int, Row]] = []  # the worst priority on top
    written = 0
    with _whole_file(output) as out:
        for number, row in enumerate(rows):
            tally.taken[row["kind"]] += 1
            item = (-derive_seed(seed, prompt_text(row["prompt"])), number, row)
            if len(heap) < room:
                heapq.heappush(heap, item)
                continue
            worst = heapq.heappushpop(heap, item)
            if limit:
                tally.taken[worst[2]["kind"]] -= 1
                tally.left_out[f"beyond --limit {limit}"] += 1
            else:
                written += _line(out, worst[2])
        best_first = sorted(heap, key=lambda item: (-item[0], item[1]))
        aside, rest = best_first[:heldout], best_first[heldout:]
        for _, _, row in sorted(rest, key=lambda item: item[1]):
            written += _line(out, row)
        if not written:
            raise ConfigError(f"nothing to write: {_reasons(tally)}")
        if heldout:
            with _whole_file(heldout_output) as other:
                for _, _, row in sorted(aside, key=lambda item: item[1]):
                    _line(other, row)
    return written, len(aside)


def write_report(output: Path, tally: Tally, **more: Any) -> Path:
    """`<output>.meta.json`: where the rows came from and what was left out, for the model card and for later."""
    path = output.with_suffix(".meta.json")
    counts = {
        "read": tally.read,
        "taken": dict(sorted((k, n) for k, n in tally.taken.items() if n)),
        "left_out": dict(tally.left_out.most_common()),
        "notes": dict(tally.notes.most_common()),
    }
    path.write_text(json.dumps({**more, **counts}, indent=1) + "\n", encoding="utf-8")
    return path


def _reasons(tally: Tally) -> str:
    left = "; ".join(f"{n} x {why}" for why, n in tally.left_out.most_common(5))
    return f"{tally.read} rows were read, {left or 'none left out'}"


def _line(file: TextIO, row: Row) -> int:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return 1


@contextmanager
def _whole_file(path: Path) -> Iterator[TextIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
