"""A dataset's rows in the columns that `data.py` reads: from disk or the hub, sliced, mapped, or through a layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.config import DatasetPart
from rgopd.trainer.prompts.files import Row, read_rows
from rgopd.trainer.prompts.problems import Problems

_SPLIT = re.compile(r"(?P<name>[\w.-]*)(?:\[(?P<start>\d*):(?P<stop>\d*)\])?")
_FIELD = re.compile(r"\{(\w[\w.]*)\}")


def dataset_rows(config: DatasetPart, problems: Problems) -> Iterator[tuple[int, Row]]:
    """(number, row) of a dataset, the number from 0 as its file has it; rows that cannot be mapped are `problems`.

    Raises:
        ConfigError: no such dataset, split or layout.
    """
    name, start, stop = _split(config.split)
    rows = _limited(_open(config, name, problems), start, stop, config.limit)
    if config.layout:
        from rgopd.trainer.prompts.datasets import Options, get_converter
        from rgopd.trainer.prompts.datasets.base import Tally

        converter, tally = get_converter(config.layout, Options(_written_alike)), Tally()
        yield from enumerate(converter.convert(_counted(rows, problems), tally))
        if problems.read and not tally.taken and (reasons := tally.left_out.most_common(3)):
            told = ", ".join(f"{count} x {why}" for why, count in reasons)
            raise ConfigError(f"dataset {config.path}: the layout {config.layout!r} takes none of its rows: {told}")
        return
    for number, row in enumerate(rows, start):
        problems.read += 1
        mapped, missing = map_columns(row, config.map)
        if missing:
            reason = f" lacks the column {missing!r} (it has {sorted(row)}), which dataset.map names"
            problems.row(number, reason)
            continue
        if config.kind and mapped.get(config.kind_column) is None:
            mapped[config.kind_column] = config.kind
        yield number, mapped


def map_columns(row: Row, columns: dict[str, str]) -> tuple[Row, str]:
    """The row with our columns beside its own, and the first column that it lacks ("" where none).

    A value of `columns` is a column's name, dotted within objects, or a text with {column} in it.
    """
    mapped = dict(row)
    for ours, theirs in columns.items():
        if not _FIELD.search(theirs):
            value = _lookup(row, theirs)
            if value is None:
                return mapped, theirs
            mapped[ours] = value
            continue
        missing = next((f for f in _FIELD.findall(theirs) if _lookup(row, f) is None), "")
        if missing:
            return mapped, missing
        mapped[ours] = _FIELD.sub(lambda match: str(_lookup(row, match[1])), theirs)
    return mapped, ""


def _lookup(row: Row, name: str) -> Any:
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _open(config: DatasetPart, split: str, problems: Problems) -> Iterator[Row]:
    path = config.path
    chosen = path.is_dir() and (split or config.subset)
    if split and split != "train" and path.is_file() and split not in re.split(r"[^a-z0-9]+", path.stem.lower()):
        raise ConfigError(f"dataset.split={split}: {path} is one file, without splits: leave it out, or name a folder")
    if not chosen and (path.exists() or _is_a_file_name(path)):
        yield from read_rows(path, problems.line)
        return
    from rgopd.trainer.prompts.datasets.source import open_rows

    given = path.as_posix()
    yield from open_rows(given, split=split or "train", subset=config.subset, revision=config.revision, what="dataset")


def _is_a_file_name(path: Path) -> bool:
    """Not a hub id, so that what is missing is told as a file."""
    return path.is_absolute() or len(path.parts) != 2 or bool(re.search(r"\.[a-z]{2,8}$", path.name))


def split_name(given: str) -> str:
    """A split without its slice: train of train[:1000]."""
    return _split(given)[0]


def _split(text: str) -> tuple[str, int, int | None]:
    match = _SPLIT.fullmatch(text)
    if match is None:
        raise ConfigError(f"dataset.split {text!r}: write a split's name, or a slice of it such as train[:1000]")
    return match["name"], int(match["start"] or 0), int(match["stop"]) if match["stop"] else None


def _limited(rows: Iterable[Row], start: int, stop: int | None, limit: int) -> Iterator[Row]:
    last = start + limit if limit else None
    end = min((n for n in (stop, last) if n is not None), default=None)
    return islice(iter(rows), start, end)


def _counted(rows: Iterable[Row], problems: Problems) -> Iterator[Row]:
    for row in rows:
        problems.read += 1
        yield row


def _written_alike(answer: str, reference: str) -> bool:
    return "".join(answer.split()) == "".join(reference.split())
