"""metrics.jsonl as CSV, streamed: every step with all of its digits, whatever a plot shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from rgopd.common.run_files import Lines
from rgopd.watch.table import flatten

_BATCH = 200


def csv_of(folder: Path, names: list[str]) -> Iterator[str]:
    """Lines of CSV, `step` first. Without names the columns are those of the first step row that has a loss, or of the
    first; a column that appears later is left out then, so name what you need."""
    columns: list[str] = list(names)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if columns:
        writer.writerow(["step", *columns])
    count = 0
    for row in Lines(folder / "metrics.jsonl"):
        if row.get("event") != "step" or not isinstance(row.get("step"), int):
            continue
        cells = dict(flatten({k: v for k, v in row.items() if k not in ("event", "step")}))
        if not columns:
            columns = list(cells)
            writer.writerow(["step", *columns])
        writer.writerow([row["step"], *(repr(cells[name]) if name in cells else "" for name in columns)])
        count += 1
        if count % _BATCH == 0:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()
