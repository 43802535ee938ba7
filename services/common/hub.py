"""The Hugging Face hub's cache on this disk: what a model or a dataset needs of it, and what is there already."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from rgopd.common import fleeting
from rgopd.common.errors import ConfigError

Kind = Literal["model", "dataset"]

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx", ".ot", ".ckpt")
_TEXT = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py", ".spm", ".vocab")


@dataclass(frozen=True)
class Repo:
    """A repository on the hub; `revision` empty: its main branch."""

    name: str
    kind: Kind = "model"
    revision: str = ""

    @property
    def folder(self) -> Path:
        """Where the cache keeps it."""
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.file_download import repo_folder_name

        return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=self.name, repo_type=self.kind)

    def snapshot(self) -> Path | None:
        """Its files in the cache, as its branch, tag or commit was when they came; None where there are none."""
        wanted = self.revision or "main"
        commit = fleeting.text(self.folder / "refs" / wanted).strip()
        found = self.folder / "snapshots" / (commit or wanted)
        return found if found.is_dir() else None


def hub_repo(name: str, revision: str = "") -> Repo | None:
    """The hub repository that a model setting names; None for a local folder and for what is no id."""
    if not name or Path(name).exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        return None
    return Repo(name, "model", revision)


def bytes_here(repo: Repo) -> int:
    """Bytes of a repository in the cache, unfinished files included; 0 where huggingface_hub is not installed."""
    try:
        folder = repo.folder / "blobs"
    except ImportError:
        return 0
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return 0
    return sum(_on_disk(entry) for entry in entries)


def _on_disk(entry: os.DirEntry[str]) -> int:
    """An unfinished file may be as long as it will be and hold little: what the disk gave counts."""
    try:
        stat = entry.stat()
    except OSError:  # renamed a moment ago
        return 0
    return min(stat.st_size, stat.st_blocks * 512) if entry.name.endswith(".incomplete") else stat.st_size


def hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where the hub cannot be reached or refuses; needs it installed."""
    from huggingface_hub.errors import HfHubHTTPError

    # Of whichever of the two libraries the installed huggingface_hub talks with.
    found = [importlib.import_module(name).HTTPError for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]
    return (HfHubHTTPError, OSError, ValueError, *found)


def reachable() -> bool:
    """Whether the hub answers anything at all, asked once and without retries; False where HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)


@cache
def _answers(endpoint: str, timeout_s: float = 5.0) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=timeout_s)
    except hub_errors():
        return False
    return True


def stay_offline() -> None:
    """This process and those it starts take from the cache what is there, instead of asking again and again."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def offline() -> bool:
    """HF_HUB_OFFLINE is set."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return bool(HF_HUB_OFFLINE)


def wanted_files(names: list[str]) -> list[str]:
    """Of a model repository, the files that are loaded: safetensors (else .bin), configs and tokenizer, at its top."""
    top = [name for name in names if "/" not in name]
    weights = [name for name in top if name.endswith(".safetensors")]
    weights = weights or [name for name in top if name.endswith(".bin") and name.startswith("pytorch_model")]
    return weights + [name for name in top if name.endswith(_TEXT) and not name.endswith(_WEIGHTS)]


def size_of(repo: Repo, timeout_s: float = 10.0) -> int:
    """Bytes that loading a model will fetch in all, as the hub says.

    Raises:
        ConfigError: the hub cannot be asked, or does not know it.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ConfigError("the hub is read with huggingface_hub: pip install 'rgopd[trainer]'") from error
    try:
        info = HfApi().repo_info(
            repo.name,
            repo_type=repo.kind,
            revision=repo.revision or None,
            files_metadata=True,
            timeout=timeout_s,
        )
    except hub_errors() as error:
        raise ConfigError(f"{repo.name}: the hub does not tell its size: {error}") from error
    found = {file.rfilename: int(file.size or 0) for file in getattr(info, "siblings", None) or []}
    wanted = wanted_files(list(found)) if repo.kind == "model" else list(found)
    return sum(found[name] for name in wanted)
