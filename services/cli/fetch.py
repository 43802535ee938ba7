"""`rgopd fetch`: the models and datasets of a config, from the hub into this machine's cache, before anything starts.

Told before it begins: what there is to fetch, what is here already, and whether the disk holds it. It goes on where an
earlier attempt ended, and every file is compared with the hub's checksum.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rgopd.cli.fetch_files import HTTP_MOST, RESUMED, RemoteFile, part_of, resume
from rgopd.common import fleeting
from rgopd.common.errors import ConfigError
from rgopd.common.hub import Repo, bytes_here, hub_errors, hub_repo, offline, wanted_files
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.datasets.source import choose_files, is_hub_id
from rgopd.trainer.prompts.rows import split_name

SAY_S = 10.0
ATTEMPTS = 6
"""In a row without one byte more; a connection that broke after some is simply made again."""


@dataclass(frozen=True)
class Wanted:
    """What is needed of a repository at one commit."""

    repo: Repo
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    def missing(self) -> list[RemoteFile]:
        """Files that are not in the cache, whole."""
        return [file for file in self.files if not self._is_here(file)]

    def to_fetch(self) -> int:
        """Bytes still to come, less those of files that were begun."""
        blobs = self.repo.folder / "blobs"
        return sum(max(0, file.size - (fleeting.size(part_of(blobs, file)) or 0)) for file in self.missing())

    def path(self, file: RemoteFile) -> Path:
        """Where the cache shows a file."""
        return self.repo.folder / "snapshots" / self.commit / file.name

    def _is_here(self, file: RemoteFile) -> bool:
        return fleeting.size(self.path(file)) == file.size


def repos_of_sections(sections: dict[str, Any]) -> Iterator[tuple[Repo, Callable[[list[str]], list[str]]]]:
    """Every hub repository that a config names, once, with what chooses its files."""
    from rgopd.cli.checked import check_sections

    checked = check_sections(sections)
    teacher, train = checked["teacher"], checked["train"]
    served = teacher.model if teacher.engine != "vllm-server" else ""
    models = [
        hub_repo(served, teacher.revision),
        hub_repo(teacher.student_tokenizer),
        hub_repo(checked["sampler"].student),
        hub_repo(train.student),
    ]
    for model in dict.fromkeys(filter(None, models)):
        yield model, wanted_files
    for dataset in filter(None, (train.dataset, train.eval.dataset)):
        yield from _datasets(dataset)


def _datasets(setting: DatasetConfig) -> Iterator[tuple[Repo, Callable[[list[str]], list[str]]]]:
    for part in setting.parts:
        name = str(part.path)
        if is_hub_id(name):
            split = split_name(part.split) or "train"
            choose = partial(choose_files, source=name, split=split, subset=part.subset, what="dataset")
            yield Repo(name, "dataset", part.revision), choose


def look_up(repo: Repo, choose: Callable[[list[str]], list[str]]) -> Wanted:
    """Ask the hub.

    Raises:
        ConfigError: it cannot be reached, does not know the repository, or does not let this user in.
    """
    from huggingface_hub import HfApi

    try:
        info: Any = HfApi().repo_info(
            repo.name, repo_type=repo.kind, revision=repo.revision or None, files_metadata=True, timeout=30
        )
    except hub_errors() as error:
        raise ConfigError(_why(repo, error)) from error
    found = {file.rfilename: file for file in info.siblings or []}
    chosen = choose(sorted(found))
    if repo.kind == "model" and "config.json" not in chosen:
        raise ConfigError(f"{repo.name}: the hub has no config.json of it: no model that transformers can load")
    files = (RemoteFile(n, int(found[n].size or 0), _etag(found[n])) for n in chosen)
    return Wanted(repo, str(info.sha), tuple(files))


def _etag(file: Any) -> str:
    return str(file.lfs.sha256 if file.lfs is not None else file.blob_id)


def _why(repo: Repo, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    text = " ".join(str(error).split())
    status = getattr(getattr(error, "response", None), "status_code", 0)
    missing = isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError))
    if isinstance(error, GatedRepoError) or (status in (401, 403) and not missing):
        return f"{repo.name}: the hub does not let this user in: accept its terms there and log in with `hf auth login`"
    if missing:
        return f"{repo.name}: the hub has no such {repo.kind} or revision; check the spelling ({text[:200]})"
    return f"{repo.name}: the hub cannot be reached ({text[:200]}); what is here already stays: run it again"


def check_room(wanted: list[Wanted], cache: Path) -> int:
    """Free bytes of the cache's disk; ConfigError where they are not enough for what is to come."""
    free, needed = shutil.disk_usage(fleeting.standing(cache)).free, sum(each.to_fetch() for each in wanted)
    if needed > free:
        raise ConfigError(
            f"{human(needed)} are to be fetched into {cache}, whose disk has {human(free)} free: free some, or set "
            "HF_HOME to a folder on a larger one (for this command and for the run)"
        )
    return free


def download(wanted: Wanted, say: Callable[[str], None]) -> None:
    """Fetch what is missing, however often the connection breaks.

    Raises:
        ConfigError: nothing more came in several attempts, or the disk is full.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    missing = wanted.missing()
    if not missing:
        return
    try:
        with _told(wanted, say):
            resume(wanted.repo, wanted.commit, [f for f in missing if RESUMED <= f.size < HTTP_MOST], ATTEMPTS)
            snapshot_download(  # the small ones, and the cache's names for all
                wanted.repo.name,
                repo_type=wanted.repo.kind,
                revision=wanted.repo.revision or None,
                allow_patterns=[file.name.replace("[", "[[]") for file in missing],
                max_workers=4,
            )
    except hub_errors() as error:
        raise ConfigError(_why(wanted.repo, error)) from error
    if wanted.missing():
        raise ConfigError(f"{wanted.repo.name}: it changed on the hub meanwhile; run it again")


class _told:
    """Within it, a line every ten seconds: how much is here, how fast it comes."""

    def __init__(self, wanted: Wanted, say: Callable[[str], None]) -> None:
        self.wanted, self.say = wanted, say
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, name="fetch", daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _run(self) -> None:
        size, last, since = self.wanted.size, bytes_here(self.wanted.repo), time.monotonic()
        while not self.over.wait(SAY_S):
            here, now = bytes_here(self.wanted.repo), time.monotonic()
            rate = max(0.0, (here - last) / (now - since))
            left = f", {max(0.0, size - here) / rate / 60:.0f} min left" if rate else ""
            self.say(f"{self.wanted.repo.name}: {human(min(here, size))} of {human(size)}, {human(int(rate))}/s{left}")
            last, since = here, now


def damaged(wanted: Wanted) -> list[RemoteFile]:
    """Files whose bytes are not what the hub's checksum says."""
    return [file for file in wanted.files if _checksum(wanted.path(file), file) != file.etag]


def _checksum(path: Path, file: RemoteFile) -> str:
    """sha256, or what git calls a blob's name; the length tells which."""
    sha = hashlib.sha256() if len(file.etag) == 64 else hashlib.sha1(f"blob {file.size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def verify(wanted: Wanted, say: Callable[[str], None]) -> None:
    """Compare every file with its checksum; fetch a damaged one again, once.

    Raises:
        ConfigError: it is damaged again.
    """
    for last in (False, True):
        if not (bad := damaged(wanted)):
            say(f"{wanted.repo.name}: {len(wanted.files)} files verified at {wanted.commit[:12]}")
            return
        names = ", ".join(file.name for file in bad)
        if last:
            raise ConfigError(f"{wanted.repo.name}: {names} came damaged twice: look at the disk and the network")
        say(f"{wanted.repo.name}: {names} damaged; fetching again")
        for file in bad:
            path = wanted.path(file)
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        download(wanted, say)


def check_offline(repo: Repo) -> str:
    """Whether the cache alone will do.

    Raises:
        ConfigError: it will not; names what is missing.
    """
    advice = "unset HF_HUB_OFFLINE, or fetch it where there is a network and copy HF_HOME"
    folder = repo.snapshot()
    if folder is None:
        raise ConfigError(f"{repo.name} is not in the cache, and HF_HUB_OFFLINE is set: {advice}")
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else set()
    needed = {"config.json", *shards} if repo.kind == "model" else set()
    if gone := sorted(name for name in needed if not (folder / name).exists()):
        raise ConfigError(f"{repo.name}: {', '.join(gone)} not in the cache, and HF_HUB_OFFLINE is set: {advice}")
    return f"{repo.name}: in the cache ({human(bytes_here(repo))}); HF_HUB_OFFLINE is set, so nothing was asked"


def run_fetch(sections: dict[str, Any], say: Callable[[str], None], *, dry_run: bool = False) -> None:
    """The command.

    Raises:
        ConfigError: the hub, the disk, or a file that came damaged; what is here already stays.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    named = list(repos_of_sections(sections))
    if not named:
        say("nothing to fetch: the config names local folders and files alone")
        return
    if offline():
        for repo, _ in named:
            say(check_offline(repo))
        return
    wanted = [look_up(repo, choose) for repo, choose in named]
    for each in wanted:
        here = each.size - each.to_fetch()
        say(f"{each.repo.name}  {human(each.size)} in {len(each.files)} files, {human(here)} here already")
    total = sum(each.to_fetch() for each in wanted)
    free = check_room(wanted, Path(HF_HUB_CACHE))
    say(f"to fetch: {human(total)} into {HF_HUB_CACHE} ({human(free)} free)")
    if dry_run:
        return
    for each in wanted:
        download(each, say)
        verify(each, say)


def human(count: int) -> str:
    """Bytes in the unit that suits them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size / 10:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
