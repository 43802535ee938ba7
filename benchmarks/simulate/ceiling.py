"""What one store can carry: the blobs and messages of rollouts, with engines that do nothing.

    python -m benchmarks.simulate.ceiling [--rollouts 256] [--tokens 450] [--k 50]

Every rollout does what it does in a run: a sampler stores it and announces three things, verifier and teacher lease,
answer and acknowledge, the teacher and the trainer read it, the trainer reads the score and deletes all three blobs.
A server that is one thread carries as many a second as its CPU seconds for one allow, so these are what is measured (by
the server's own count): the clients beside it on the same cores do not change them. For files there is no server; their
figure is the clients' time and the kernel's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.teacher.shapes import machine
from rgopd.common.deliveries import Outcome
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.identity import group_id, rollout_id
from rgopd.common.open_run import open_run
from rgopd.common.streams import RESULTS, ROLLOUT, SCORE, TEACHER_SCORE, VERDICT, VERIFY, Streams
from rgopd.simulate.workload import Workload

STAGES = ((VERIFY, VERDICT), (SCORE, TEACHER_SCORE))


def live(streams: Streams, groups: list[str], rollout: bytes, score: bytes) -> None:
    """The rollouts of some groups, one a group, from sampler to trainer."""
    for stream in (VERIFY, SCORE, RESULTS):
        streams.ensure(stream)
    for group in groups:
        announce = [(VERIFY, b"v" * 600), (SCORE, b"s" * 120), (RESULTS, b"r" * 60)]
        streams.publish(Outcome({(ROLLOUT, rollout_id(group, 0)): rollout}, announce), group)
    for stream, stage in STAGES:
        for part in streams.parts_of(stream):
            answer(streams, part, stream, stage, score, groups)
    heard = 0
    while heard < 3 * len(groups):
        for delivery in streams.read(RESULTS, "trainer", count=512, block_ms=100):
            streams.complete(delivery, Outcome())
            heard += 1
    items = [rollout_id(group, 0) for group in groups]
    for first in range(0, len(items), 32):
        for stage in (ROLLOUT, TEACHER_SCORE, VERDICT):
            assert all(streams.blobs.get_many(stage, items[first : first + 32]))
    for stage in (ROLLOUT, TEACHER_SCORE, VERDICT):
        streams.blobs.delete(stage, items)


def answer(streams: Streams, part: Streams, stream: str, stage: str, score: bytes, groups: list[str]) -> None:
    """What verifier or teacher do with what lies on one server."""
    mine = iter([g for g in groups if len(streams.parts) == 1 or streams.part(stream, g) is part])  # type: ignore[attr-defined]
    while deliveries := part.read(stream, "w", count=16, block_ms=1):
        for delivery in deliveries:
            item = rollout_id(next(mine), 0)
            if stage == TEACHER_SCORE:
                assert streams.blobs.get(ROLLOUT, item)
            data = score if stage == TEACHER_SCORE else b"v" * 300
            part.complete(delivery, Outcome({(stage, item): data}, [(RESULTS, b"r" * 60)]))


def cpu_s(streams: Streams) -> list[float]:
    """CPU seconds of each server's main thread and its helpers so far."""
    infos = [part.redis.info("cpu") for part in streams.parts]
    return [float(info["used_cpu_sys"]) + float(info["used_cpu_user"]) for info in infos]  # type: ignore[index]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=450)
    parser.add_argument("--k", type=int, default=50)
    options = parser.parse_args()
    load = Workload(1, 1, 1, options.tokens, options.tokens, k=options.k)
    rollout, score = os.urandom(load.rollout_bytes(options.tokens)), os.urandom(load.score_bytes(options.tokens))
    print(f"{machine()}; {options.rollouts} rollouts of {options.tokens} tokens, K = {options.k}, median of rounds\n")
    print("| blobs, streams | busiest server, CPU ms a rollout | rollouts/s it can carry | clients, CPU ms a rollout |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        servers = [EmbeddedValkey(Path(folder, name)).start() for name in ("a", "b", "c", "d")]
        files = Path("/dev/shm" if Path("/dev/shm").is_dir() else folder, f"rgopd-ceiling-{os.getpid()}")
        files.mkdir()
        urls = [server.url for server in servers]
        cases = [
            ("in the one Redis (before)", urls[0], ""),
            ("in two Redis, by group", ",".join(urls[:2]), ""),
            ("in four Redis, by group", ",".join(urls), ""),
            ("in files (memory), streams in one Redis", urls[0], files.as_uri()),
            ("in files, streams in two Redis", ",".join(urls[:2]), files.as_uri()),
        ]
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in cases}
        for turn in range(options.rounds):  # in turn, so that what else the machine does hits all alike
            for case, (name, url, blob_url) in enumerate(cases):
                streams = open_run(url, f"ceiling-{case}-{turn}", blob_url=blob_url)
                groups = [group_id(turn, slot) for slot in range(options.rollouts)]
                before, began = cpu_s(streams), time.process_time()
                live(streams, groups, rollout, score)
                mine = time.process_time() - began
                spent = [after - at for after, at in zip(cpu_s(streams), before, strict=True)]
                rows[name].append((max(spent) / options.rollouts, mine / options.rollouts))
                streams.purge()
        for name, found in rows.items():
            server, client = sorted(found)[len(found) // 2]
            print(f"| {name} | {server * 1e3:.2f} | {1 / server:,.0f} | {client * 1e3:.2f} |")
        for server in servers:
            server.stop()
        shutil.rmtree(files)


if __name__ == "__main__":
    main()
