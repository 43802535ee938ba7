"""Where a task's rows come from: the hub, or files under `--data DIR` with the public datasets' columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgopd.common.errors import ConfigError

SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Source:
    """The dataset of one task: the hub's repository and configuration, and the splits that are read."""

    task: str
    path: str
    name: str
    splits: tuple[str, ...]

    @classmethod
    def of(cls, task: str, config: Mapping[str, Any]) -> Source:
        """From a task's YAML (functions unresolved)."""
        fewshot = config.get("fewshot_config") or {}
        asked = config.get("test_split") or config.get("validation_split")
        shots = fewshot.get("split") or config.get("fewshot_split")
        if not shots and not fewshot.get("samples"):
            shots = config.get("training_split") or config.get("validation_split")
        splits = dict.fromkeys(str(s) for s in (asked, shots) if s)
        return cls(task, str(config.get("dataset_path") or ""), str(config.get("dataset_name") or ""), tuple(splits))

    @property
    def folder(self) -> str:
        """Below DIR."""
        return f"{self.path}/{self.name}" if self.name else self.path

    def wanted(self, split: str) -> str:
        """The file to put there, as told to the user."""
        return f"{self.folder}/{split}.jsonl"

    def find(self, root: Path, split: str) -> list[Path]:
        """The split's files: DIR/owner/name[/config]/split.jsonl, .json or .parquet, or a hub snapshot's shards."""
        for base in (self.path, self.path.rpartition("/")[2]):
            for folder in (root / base / self.name, root / base / "data" / self.name, root / base):
                if not folder.is_dir() or (folder == root / base and self.name and _has_folders(folder, split)):
                    continue
                whole = [folder / f"{split}{suffix}" for suffix in SUFFIXES]
                if found := [p for p in whole if p.is_file()]:
                    return found[:1]
                for pattern in (f"{split}-*.parquet", f"data/{split}-*.parquet"):
                    if shards := sorted(folder.glob(pattern)):
                        return shards
        return []


def _has_folders(folder: Path, split: str) -> bool:
    """Are there folders of configurations? Then a split beside them is not ours to take."""
    return any((child / f"{split}{s}").exists() for child in folder.iterdir() if child.is_dir() for s in SUFFIXES)


def local_overrides(sources: Iterable[Source], root: Path) -> dict[str, dict[str, Any]]:
    """Task -> what makes lm-eval read local files in place of the hub.

    Raises:
        ConfigError: a file is missing; the text names all of them.
    """
    if not root.is_dir():
        raise ConfigError(f"--data {root}: no such folder; `rgopd eval --list-data` says what goes into it")
    found: dict[str, dict[str, Any]] = {}
    missing: list[str] = []
    for source in sources:
        files = {split: source.find(root, split) for split in source.splits}
        missing += [f"{root}/{source.wanted(split)} (task {source.task})" for split, got in files.items() if not got]
        if all(files.values()):
            parquet = any(p.suffix == ".parquet" for paths in files.values() for p in paths)
            found[source.task] = {
                "dataset_path": "parquet" if parquet else "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": {s: [str(p.resolve()) for p in paths] for s, paths in files.items()}},
            }
    if missing:
        shown = "\n  ".join(missing[:20]) + (f"\n  and {len(missing) - 20} more" if missing[20:] else "")
        raise ConfigError(
            f"files are missing (.jsonl, .json or .parquet, with the public dataset's columns):\n  {shown}\n"
            "`rgopd eval --list-data` says where each comes from"
        )
    return found


def listing(sources: Iterable[tuple[str, Source]]) -> list[tuple[str, str, str, list[str]]]:
    """(column, task, hub dataset and configuration, files under DIR) for `--list-data`."""
    found = []
    for label, source in sources:
        hub = source.path + (f" ({source.name})" if source.name else "")
        found.append((label, source.task, hub, [source.wanted(split) for split in source.splits]))
    return found
