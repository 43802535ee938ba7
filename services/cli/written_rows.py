"""Rows that were given from Python, as the JSON lines that the trainer reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rgopd.common.errors import ConfigError


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write them whole or not at all; returns the path.

    Raises:
        ConfigError: something that is no row, holds what JSON cannot say, or none at all.
    """
    lines = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ConfigError(f"dataset, row {number}: give mappings such as {{'prompt': …, 'kind': …}}, not {row!r}")
        try:
            lines.append(json.dumps(dict(row), ensure_ascii=False))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"dataset, row {number} cannot be written as JSON: {error}") from error
    if not lines:
        raise ConfigError("dataset: no rows were given")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)
    return path
