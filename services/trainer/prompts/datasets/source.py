"""Where rows come from: a local file or folder, or a dataset repository on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from rgopd.common.errors import ConfigError
from rgopd.common.hub import Repo, hub_errors, offline, reachable
from rgopd.trainer.prompts.datasets.base import Row
from rgopd.trainer.prompts.files import read_rows

SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def open_rows(
    source: str, *, split: str = "train", subset: str = "", revision: str = "", what: str = "--input"
) -> Iterator[Row]:
    """Rows of a local path, or else of a hub id such as `openai/gsm8k`.

    Args:
        split: of a folder or repository, the files whose path names it; if no path names any split, all files.
        subset: of a folder or repository, only files below a folder of this name.
        revision: commit, tag or branch of a hub repository.
        what: names the source in errors: an option or a setting.

    Raises:
        ConfigError: nothing there, no file fits, or the hub cannot be reached.
    """
    path = Path(source)
    if path.is_file():
        yield from _rows_of(path)
    elif path.is_dir():
        names = sorted(f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file())
        for name in choose_files(names, source, split, subset, what):
            yield from _rows_of(path / name)
    elif is_hub_id(source):
        for file in _download(source, split, subset, revision, what):
            yield from _rows_of(file)
    else:
        raise ConfigError(f"{what} {source}: no such file or folder, and not a hub id like openai/gsm8k")


def is_hub_id(source: str) -> bool:
    """Whether a dataset's path means a repository on the hub: nothing of that name is here."""
    return bool(_HUB_ID.fullmatch(source)) and not source.endswith(SUFFIXES) and not Path(source).exists()


def choose_files(names: Sequence[str], source: str, split: str, subset: str, what: str = "--input") -> list[str]:
    """The data files of a folder or repository that hold a split."""
    files = [
        n for n in names if n.endswith(SUFFIXES) and not PurePosixPath(n).name.startswith(("dataset_info", "state"))
    ]
    if subset:
        files = [n for n in files if subset in PurePosixPath(n).parts[:-1]]
    splits = {s for n in files for s in _words(n) & {"train", "test", "validation", "valid", "dev", "val"}}
    chosen = [n for n in files if split in _words(n)] if splits else files
    if not chosen:
        known = ", ".join(sorted(splits)) or "none"
        raise ConfigError(
            f"{what} {source}: no {', '.join(SUFFIXES)} file for split {split!r}"
            f"{f' in subset {subset!r}' if subset else ''}; splits found: {known}"
        )
    return chosen


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


def _rows_of(file: Path) -> Iterator[Row]:
    if file.suffix != ".json":
        yield from read_rows(file)
        return
    # `.json` may be lines, one array, or (the original MATH) one object a file.
    raw = file.read_text(encoding="utf-8")
    try:
        loaded = json.loads(raw)
    except json.JSONDecodeError:
        yield from read_rows(file)
        return
    yield from loaded if isinstance(loaded, list) else [loaded]


def _download(repo: str, split: str, subset: str, revision: str, what: str) -> Iterator[Path]:
    """The files, each fetched when the one before it was read."""
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ConfigError(
            f"{what} {repo} is no local path, and reading the hub needs huggingface_hub: pip install 'rgopd[trainer]'"
        ) from error
    wanted = revision or None
    try:
        if not reachable():  # what `rgopd fetch` brought: the hub's list cannot be asked for
            folder = Repo(repo, "dataset", revision).snapshot()
            if folder is None:
                why = "HF_HUB_OFFLINE is set" if offline() else f"{hub.constants.ENDPOINT} does not answer"
                raise OSError(f"{why}, and it is not in the cache")
            here = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
            yield from (folder / name for name in choose_files(here, repo, split, subset, what))
            return
        names = hub.list_repo_files(repo, repo_type="dataset", revision=wanted)
        chosen = choose_files(names, repo, split, subset, what)
        for name in chosen:
            yield Path(hub.hf_hub_download(repo, name, repo_type="dataset", revision=wanted))
    except hub_errors() as error:
        raise ConfigError(
            f"{what} {repo}: not a local path, and the hub did not give it: {error}. Without network, download it "
            "elsewhere and name the folder; for gated datasets, log in with `hf auth login`"
        ) from error
