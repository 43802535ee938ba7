"""Every figure of this project that a GPU decides, as one table with the card's name, in six minutes.

    python benchmarks/gpu/run.py                     # one CUDA device; the installed package, no network
    python benchmarks/gpu/run.py --only head,step --out results/
    python benchmarks/gpu/run.py --device cpu --tiny  # tries the script itself

Each section runs in a process of its own with a time of its own; a case that fails, crashes or hangs costs its own row.
Table and JSON are written anew at every row, a section's logs go into sections.log, and with a row that failed the exit
status is 1. README.md beside this file says how to carry it to a machine without a network; RESULTS.md holds what was
measured.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.gpu import table
from benchmarks.gpu.apart import run_apart
from benchmarks.gpu.harness import Bench, Row

SECONDS = {"head": 90.0, "step": 160.0, "teacher": 45.0, "sampler": 30.0}
"""Of the full benchmark; 325 in all, and a few for the table."""
_LOG_CHARACTERS = 100_000


def section(name: str) -> Callable[[Bench], None]:
    """The function of a section; only its own modules are imported."""
    if name == "head":
        from benchmarks.gpu.head import run

        return run
    if name == "step":
        from benchmarks.gpu.step import run as run_step

        return run_step
    from benchmarks.gpu import inference

    return {"teacher": inference.run_teacher, "sampler": inference.run_sampler}[name]


def parser() -> argparse.ArgumentParser:
    """What the script takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: to try the script")
    parser.add_argument("--only", default=",".join(SECONDS), help="sections, with commas")
    parser.add_argument("--seconds", type=float, default=1.0, help="factor on every section's time")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for table.md and results.json")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--left", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--done", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    options = parser()
    arguments = options.parse_args()
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(SECONDS):
        options.error(f"--only: no section {', '.join(sorted(unknown))}; there are {', '.join(SECONDS)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: torch sees no CUDA device (to try the script: --device cpu --tiny)", file=sys.stderr)
        return 2
    if arguments.section:
        run_section(arguments)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a time limit's; the table is there by then
    rows = run_all(wanted, arguments)
    failed = [row for row in rows if row.error]
    print((arguments.out / "table.md").read_text() if rows else "no rows")
    print(f"{len(rows) - len(failed)} rows, {len(failed)} failed; {arguments.out}/table.md, results.json")
    return 1 if failed or not rows else 0


def run_all(wanted: list[str], arguments: argparse.Namespace) -> list[Row]:
    """Section by section; the table is written anew at every row."""
    began, about, earlier = time.monotonic(), table.machine(arguments.device), list[Row]()
    arguments.out.mkdir(parents=True, exist_ok=True)

    def write(rows: list[Row]) -> None:
        table.write(arguments.out, [*earlier, *rows], about, time.monotonic() - began)

    with tempfile.TemporaryDirectory(prefix="rgopd-gpu-") as work:
        logs = Path(work) / "logs"
        for name in wanted:
            logs.mkdir(parents=True)
            command = [sys.executable, str(Path(__file__).resolve()), "--section", name, "--work", work]
            command += ["--device", arguments.device, *(["--tiny"] if arguments.tiny else [])]
            try:
                earlier += run_apart(name, command, SECONDS[name] * arguments.seconds, logs, write)
            finally:
                keep(logs, arguments.out / "sections.log")
    return earlier


def keep(logs: Path, into: Path) -> None:
    """One file of all logs, each with its name and no more than its end: a machine that is lent returns few files."""
    with into.open("a") as out:
        for file in sorted(logs.glob("*.*")):
            if text := file.read_text(errors="replace")[-_LOG_CHARACTERS:].strip():
                out.write(f"==> {file.name}\n{text}\n\n")
    shutil.rmtree(logs)


def run_section(arguments: argparse.Namespace) -> None:
    """In the section's own process."""
    device, done = torch.device(arguments.device), frozenset(Path(arguments.done).read_text().splitlines())
    bench = Bench(arguments.section, device, arguments.tiny, arguments.left, arguments.work, done)
    section(arguments.section)(bench)


if __name__ == "__main__":
    sys.exit(main())
