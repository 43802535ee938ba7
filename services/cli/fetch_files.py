"""Large files of the hub, gone on with where an earlier attempt ended, also one of another process.

huggingface_hub begins a file again in a new process (its unfinished ones have names of their own since 2.x, as locks
fail on some network file systems; decision 117). A fetch is one command that somebody runs alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from rgopd.common import fleeting
from rgopd.common.hub import Repo

RESUMED = 10_000_000
"""Smaller files are fetched whole."""
HTTP_MOST = 50_000_000_000
"""The hub serves larger ones through its own client alone."""
AT_ONCE = 4
_CHUNK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub describes it. `etag`: sha256 of a large file, git's SHA-1 of another; its name in the cache."""

    name: str
    size: int
    etag: str


def part_of(blobs: Path, file: RemoteFile) -> Path:
    """Where the bytes of an unfinished file are."""
    return blobs / f"{file.etag}.rgopd.incomplete"


def resume(repo: Repo, commit: str, files: Sequence[RemoteFile], attempts: int) -> None:
    """Bring files into the cache's blobs.

    Raises:
        OSError: the disk; or nothing more came in `attempts` attempts in a row.
        HfHubHTTPError: the hub refuses.
    """
    blobs = repo.folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(_one, repo, commit, blobs, file, attempts) for file in files]:
            done.result()


def _one(repo: Repo, commit: str, blobs: Path, file: RemoteFile, attempts: int) -> None:
    part, failures = part_of(blobs, file), 0
    while (here := fleeting.size(part) or 0) < file.size:
        if (blobs / file.etag).exists():  # another fetch was faster
            return
        try:
            _stream(repo, commit, file, part, here)
        except httpx.TransportError as error:
            failures = 0 if (fleeting.size(part) or 0) > here else failures + 1
            if failures == attempts:
                raise OSError(f"{file.name}: {type(error).__name__} {error}") from error
            time.sleep(min(30.0, 0.5 * 2**failures))
    if here > file.size:  # of something else: verified later, it would be damaged
        part.unlink(missing_ok=True)
        return _one(repo, commit, blobs, file, attempts)
    fleeting.seen(lambda: part.rename(blobs / file.etag), None)  # gone: another fetch did that


def _stream(repo: Repo, commit: str, file: RemoteFile, part: Path, here: int) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers

    url = hf_hub_url(repo.name, file.name, repo_type=repo.kind, revision=commit)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if here:
        headers["Range"] = f"bytes={here}-"
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as answer:
        if answer.status_code >= 500 or answer.status_code in (408, 429):
            raise httpx.RemoteProtocolError(f"the hub answered {answer.status_code}")
        if answer.status_code not in (200, 206):
            raise OSError(f"{file.name}: the hub answered {answer.status_code}")
        with part.open("ab" if here and answer.status_code == 206 else "wb") as out:
            for chunk in answer.iter_bytes(_CHUNK):
                out.write(chunk)
