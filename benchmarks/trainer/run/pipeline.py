"""Step wall against the slowest stage, at max_staleness 0 and 1, in one run of this script.

    python -m benchmarks.trainer.run.pipeline --steps 8 --sampler-s 6 --trainer-s 5

All processes are the real ones: Redis, teacher, verifier, sampler, trainer. So that stages do not fight for the same
two cores, sampler and trainer each also wait a given time a step, as if they computed on devices of their own: what is
measured is how the loop overlaps them, not how fast they are. `--sampler-s 0 --trainer-s 0` leaves the waits out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from rgopd.common.embedded import EmbeddedValkey

PROMPTS, N = 4, 4
FILL = 2
"""Steps at the start that are left out: the pipeline fills."""


def sampler(pace_s: float, busy: Path, arguments: list[str]) -> None:
    """`rgopd sampler` whose batches take at least `pace_s`; writes how long each took."""
    from rgopd.sampler import main as sampler_main
    from rgopd.sampler.engine import OnSample, SampleSpec, SamplingOptions
    from rgopd.sampler.transformers import TransformersSampler

    class Paced(TransformersSampler):
        def generate(self, specs: Sequence[SampleSpec], options: SamplingOptions, on_sample: OnSample) -> None:
            started, found = time.monotonic(), []
            super().generate(specs, options, lambda i, sample: found.append((i, sample)))
            time.sleep(max(0.0, pace_s - (time.monotonic() - started)))
            for i, sample in found:
                on_sample(i, sample)
            with busy.open("a") as file:
                file.write(json.dumps(time.monotonic() - started) + "\n")

    sampler_main.make_engine = lambda config: Paced(config.student, device="cpu")  # type: ignore[assignment]
    _command(["sampler", *arguments])


def trainer(pace_s: float, arguments: list[str]) -> None:
    """`rgopd train` whose optimiser steps take at least `pace_s`."""
    from rgopd.trainer.run.train_step import TrainStep

    plain = TrainStep.run

    def run(self: TrainStep, *args: Any, **kwargs: Any) -> dict[str, float]:
        started = time.monotonic()
        metrics = plain(self, *args, **kwargs)
        time.sleep(max(0.0, pace_s - (time.monotonic() - started)))
        return metrics

    TrainStep.run = run  # type: ignore[method-assign]
    _command(["train", *arguments])


def _command(arguments: list[str]) -> None:
    from rgopd.cli.main import main as rgopd

    sys.argv = ["rgopd", *arguments]
    rgopd()


def measure(folder: Path, staleness: int, args: argparse.Namespace) -> dict[str, float]:
    """One run; means a step over all but the first steps, in seconds."""
    from rgopd.cli.demo import demo_sections
    from rgopd.trainer.demo.task import generate

    data = folder / "data"
    data.mkdir(parents=True)
    rows = generate(0, 512, "train")
    (data / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    changes = [
        f"train.steps={args.steps}", "train.nproc=1", f"train.max_staleness={staleness}",
        f"train.sampling.prompts_per_step={PROMPTS}", f"train.sampling.n={N}",
        f"train.sampling.groups_per_request={PROMPTS}", "train.checkpoint.every=1000",
    ]  # fmt: skip
    sections = demo_sections([], changes, "", 0, folder)
    sections["train"]["eval"] = {}
    redis = EmbeddedValkey(folder / "redis").start()
    sections["common"]["redis_url"] = redis.url
    config = folder / "up.yaml"
    config.write_text(yaml.safe_dump(sections))
    busy = folder / "busy.jsonl"
    me, rgopd = [sys.executable, "-m", "benchmarks.trainer.run.pipeline"], [sys.executable, "-m", "rgopd.cli.main"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(argv: list[str]) -> subprocess.Popen[bytes]:
        with (folder / f"{argv[-1]}.log").open("wb") as log:
            return subprocess.Popen([*argv[:-1], "--config", str(config)], env=environment, stdout=log, stderr=log)

    processes = [
        start([*rgopd, "teacher", "teacher"]),
        start([*rgopd, "verifier", "verifier"]),
        start([*me, "sampler", "--pace", str(args.sampler_s), "--busy", str(busy), "sampler"]),
    ]
    try:
        code = start([*me, "train", "--pace", str(args.trainer_s), "trainer"]).wait()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        redis.stop()
    if code:
        raise SystemExit((folder / "trainer.log").read_text()[-3000:])
    return _summary(folder, busy)


def _summary(folder: Path, busy: Path) -> dict[str, float]:
    timings = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    steps = [row for row in timings if row["event"] == "step"][FILL:]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = statistics.mean(s["train_s"] + s["publish_s"] for s in steps)
    sampled = statistics.mean(json.loads(line) for line in busy.read_text().splitlines()[FILL:])
    wall = statistics.mean(s["seconds"] for s in steps)
    slowest = max(trained, sampled)
    stale = statistics.mean(row["staleness_mean"] for row in metrics if row["event"] == "step")
    return {"wall": wall, "sampler": sampled, "trainer": trained, "ratio": wall / slowest, "staleness": stale}


def report(results: dict[int, dict[str, float]], args: argparse.Namespace) -> str:
    """A dated table."""
    paced = f"{args.sampler_s:g} s and {args.trainer_s:g} s"
    lines = [
        "# Pipeline: step wall against the slowest stage",
        "",
        f"{date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), "
        f"{args.steps} steps of {PROMPTS} x {N} rollouts of the demo's task. Sampler and trainer take at least {paced} "
        f"a step, waiting, as if on devices of their own; teacher and verifier as they are. First {FILL} steps left "
        "out. `python -m benchmarks.trainer.run.pipeline "
        f"--steps {args.steps} --sampler-s {args.sampler_s:g} --trainer-s {args.trainer_s:g}`",
        "",
        "| max_staleness | step wall | sampler | trainer | wall / slowest stage | mean staleness of a rollout |",
        "|---|---|---|---|---|---|",
    ]
    for staleness, r in results.items():
        lines.append(
            f"| {staleness} | {r['wall']:.2f} s | {r['sampler']:.2f} s | {r['trainer']:.2f} s | {r['ratio']:.2f} "
            f"| {r['staleness']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", nargs="?", choices=("sampler", "train"), help="used by the script itself")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--sampler-s", type=float, default=6.0)
    parser.add_argument("--trainer-s", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/trainer/run/pipeline_RESULTS.md"))
    parser.add_argument("--pace", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--busy", type=Path, help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    if args.role == "sampler":
        sampler(args.pace, args.busy, rest)
    elif args.role == "train":
        trainer(args.pace, rest)
    else:
        with tempfile.TemporaryDirectory() as folder:
            results = {s: measure(Path(folder) / f"staleness-{s}", s, args) for s in (0, 1)}
        args.out.write_text(report(results, args))
        print(args.out.read_text())


if __name__ == "__main__":
    main()
