"""Rows of local files: JSON lines, Parquet, Arrow, or a folder of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rgopd.common.errors import ConfigError, told

Row = dict[str, Any]

OnBad = Callable[[str], None]
"""Told of a line that is no row; without one it is an error."""


def read_rows(path: Path, on_bad: OnBad | None = None) -> Iterator[Row]:
    """Rows of a .jsonl/.json-lines file, a .parquet file, or a folder of Parquet/Arrow files.

    Raises:
        ConfigError: nothing there, another format, or (without `on_bad`) a line that is not a JSON object.
    """
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in (".parquet", ".arrow", ".jsonl"))
        if not files:
            raise ConfigError(f"dataset folder {path} holds no .parquet, .arrow or .jsonl file")
        for file in files:
            yield from read_rows(file, on_bad)
        return
    if not path.is_file():
        raise ConfigError(f"dataset {path} does not exist")
    try:
        yield from _rows_of(path, on_bad)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"dataset {path} is no UTF-8 text ({error.reason}, byte {error.object[error.start]:#x}): convert it, "
            "e.g. iconv -f latin1 -t utf-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"dataset {told(error)}") from error


def _rows_of(path: Path, on_bad: OnBad | None) -> Iterator[Row]:
    if path.suffix in (".parquet", ".arrow"):
        yield from _columnar(path)
    elif path.suffix == ".json" and _is_array(path):
        yield from _json_array(path, on_bad)
    elif path.suffix in (".jsonl", ".ndjson", ".json"):
        yield from _json_lines(path, on_bad)
    else:
        raise ConfigError(
            f"dataset {path}: use .jsonl, .parquet, .json, or a folder saved by the datasets library; pandas writes "
            "lines with to_json(lines=True, orient='records')"
        )


def _is_array(path: Path) -> bool:
    with path.open(encoding="utf-8-sig") as text:
        return text.read(1024).lstrip().startswith("[")


def _json_array(path: Path, on_bad: OnBad | None) -> Iterator[Row]:
    """One array of objects, as many published datasets are."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"dataset {path} is not JSON: {error}") from error
    for number, row in enumerate(rows):
        if isinstance(row, dict):
            yield row
        elif on_bad is not None:
            on_bad(f"entry {number} must be a JSON object")
        else:
            raise ConfigError(f"dataset {path}, entry {number} must be a JSON object")


def _columnar(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        if path.suffix == ".parquet":
            for batch in parquet.ParquetFile(path).iter_batches():
                yield from batch.to_pylist()
            return
        with pa.memory_map(str(path)) as source:
            for batch in pa.ipc.open_stream(source):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise ConfigError(f"dataset {path} is no readable {path.suffix} file: {error}") from error


def _json_lines(path: Path, on_bad: OnBad | None) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="strict") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            problem = ""
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    problem = f"line {number} must be a JSON object, one row a line"
            except json.JSONDecodeError as error:
                problem = f"line {number} is not JSON: {error}"
            if not problem:
                yield row
            elif on_bad is not None:
                on_bad(problem)
            else:
                raise ConfigError(f"dataset {path}, {problem}")
