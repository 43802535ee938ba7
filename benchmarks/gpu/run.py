"""Every figure of this project that a GPU decides, as one table with the card's name, in six minutes.

    python benchmarks/gpu/run.py                     # one CUDA device; the installed package, no network
    python benchmarks/gpu/run.py --only head,step --out results/
    python benchmarks/gpu/run.py --device cpu --tiny  # tries the script itself

Each section runs in a process of its own with a time of its own: one that fails or hangs costs its own rows. What
failed stands in the table, and the exit status is 1 then. README.md beside this file says how to carry it to a machine
without a network; RESULTS.md holds what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.gpu import table
from benchmarks.gpu.harness import Bench, Row

SECONDS = {"head": 100.0, "step": 140.0, "teacher": 50.0, "sampler": 40.0}
"""Of the full benchmark; 330 in all, and a few for the table."""
GRACE_S = 10.0
"""A section looks at its time between cases; past this much more it is killed."""


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
    began = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rgopd-gpu-") as work:
        for name in wanted:
            rows += run_apart(name, arguments, work)
    about, seconds = table.machine(arguments.device), time.monotonic() - began
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = table.markdown(rows, about, seconds)
    (arguments.out / "table.md").write_text(text)
    (arguments.out / "results.json").write_text(table.compact(rows, about, seconds))
    print(text)
    failed = [row for row in rows if row.error]
    print(f"{len(rows) - len(failed)} rows, {len(failed)} failed; {arguments.out}/table.md, results.json")
    return 1 if failed or not rows else 0


def run_section(arguments: argparse.Namespace) -> None:
    """In the section's own process."""
    seconds = SECONDS[arguments.section] * arguments.seconds
    device = torch.device(arguments.device)
    section(arguments.section)(Bench(arguments.section, device, arguments.tiny, seconds, arguments.work))


def run_apart(name: str, arguments: argparse.Namespace, work: str) -> list[Row]:
    """A section's rows, whatever becomes of it."""
    command = [sys.executable, str(Path(__file__).resolve()), "--section", name, "--work", work]
    command += ["--device", arguments.device, "--seconds", str(arguments.seconds)]
    command += ["--tiny"] if arguments.tiny else []
    limit = SECONDS[name] * arguments.seconds + GRACE_S
    error = ""
    out, err = Path(work) / f"{name}.out", Path(work) / f"{name}.err"
    with out.open("wb") as to, err.open("wb") as to_err:
        child = subprocess.Popen(command, stdout=to, stderr=to_err, start_new_session=True)
        try:
            status = child.wait(limit)
            if status:
                error = f"ended with status {status}: {_last_line(err)}"
        except subprocess.TimeoutExpired:
            error = f"killed after {limit:.0f} s"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    rows = [Row(**json.loads(line[4:])) for line in out.read_text().splitlines() if line.startswith("ROW ")]
    return [*rows, Row(name, "the section", error=error)] if error else rows


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "nothing on stderr"


if __name__ == "__main__":
    sys.exit(main())
