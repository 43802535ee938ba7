"""The command line of `rgopd queues`."""

from __future__ import annotations

import os

from rich.console import Console

from rgopd.cli.queues import chosen_letters, show, sweep
from rgopd.common.blob_url import open_outside
from rgopd.common.errors import ConfigError
from rgopd.common.open_run import connect_all, open_run
from rgopd.common.queues import runs
from rgopd.common.settings import ConfigFiles, read_files
from rgopd.common.streams import Streams


def run_queues(redis_url: str, run_id: str, config: ConfigFiles, *, replay: str, drop: str, sweep_h: float) -> int:
    """The command; returns an exit code."""
    common = read_files(config).get("common", {}) if config else {}
    url = redis_url or str(common.get("redis_url", "")) or os.environ.get("RGOPD_REDIS_URL", "")
    if not url:
        raise ConfigError("which Redis? Use --redis-url redis://..., or --config RUN/up.yaml of a run that is up")
    run = run_id or str(common.get("run_id", ""))
    blob_url = str(common.get("blob_url", "")) or os.environ.get("RGOPD_BLOB_URL", "")
    console = Console()
    servers = connect_all(url, wait_s=2, patience_s=5)

    def opened(name: str) -> Streams:
        return open_run(url, name, blob_url=blob_url, wait_s=2, patience_s=5)

    if sweep_h:
        for name, keys in sweep(servers, opened, sweep_h * 3600):
            console.print(f"swept {name}: {keys} keys")
        if blob_url and (expired := open_outside(blob_url, "sweep", ttl_s=round(sweep_h * 3600)).expire()):
            console.print(f"swept {expired} blobs of runs that Redis no longer knows")
        return 0
    if (replay or drop) and not run:
        raise ConfigError("whose dead letters? Name the run with --run")
    for name in [run] if run else runs(*servers):
        streams = opened(name)
        for letter in chosen_letters(streams, replay) if replay else ():
            streams.replay(letter)
            console.print(f"back on {letter.stream}: {letter.id}")
        for letter in chosen_letters(streams, drop) if drop else ():
            streams.drop(letter)
            console.print(f"dropped {letter.id}")
        show(streams, console)
    return 0
