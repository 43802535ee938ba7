"""Ten times more calls than can be served: 429s, no verdict lost or wrong, and a quick recovery.

python benchmarks/verifier/overload.py [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections import Counter

import httpx

_SERVE = (
    "import sys;from services.verifier.config import VerifierConfig;from services.verifier.main import serve;"
    "sys.exit(serve(VerifierConfig(cache_size=0, queue_size=128)))"
)


def body(n: int) -> dict[str, object]:
    right = n % 2 == 0
    item = {
        "id": str(n),
        "kind": "code",
        "response": f"def f(): return {n if right else -1}  # {n}",
        "tests": [f"assert f() == {n}"],
    }
    return {"items": [item]}


async def capacity(client: httpx.AsyncClient) -> float:
    """Calls of one item a second, with 16 callers."""
    done, stop = 0, time.monotonic() + 4

    async def caller(k: int) -> None:
        nonlocal done
        while time.monotonic() < stop:
            await client.post("/verify", json=body(10**6 + k * 10**6 + done))
            done += 1

    await asyncio.gather(*(caller(k) for k in range(16)))
    return done / 4


async def flood(client: httpx.AsyncClient, rate: float, seconds: float) -> Counter[str]:
    """Open loop at `rate`; counts answers by what they were."""
    seen: Counter[str] = Counter()

    async def one(n: int) -> None:
        try:
            answer = await client.post("/verify", json=body(n))
        except httpx.HTTPError as problem:
            seen[type(problem).__name__] += 1
            return
        if answer.status_code == 200:
            verdict = answer.json()["verdicts"][0]
            right = verdict["id"] == str(n) and verdict["status"] == ("passed" if n % 2 == 0 else "failed")
            seen["right" if right else f"wrong: {verdict}"] += 1
        else:
            seen[f"{answer.status_code}{'' if 'retry-after' in answer.headers else ' without Retry-After'}"] += 1

    tasks: set[asyncio.Task[None]] = set()
    began = time.monotonic()
    n = 0
    while time.monotonic() - began < seconds:
        while n < (time.monotonic() - began) * rate:
            task = asyncio.create_task(one(n))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            n += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    seen["sent"] = n
    return seen


async def measure(url: str, seconds: float) -> int:
    limits = httpx.Limits(max_connections=2000)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        rate = await capacity(client)
        print(f"capacity {rate:.0f} calls/s; flooding with {10 * rate:.0f}/s for {seconds:g} s")
        seen = await flood(client, 10 * rate, seconds)
        print(dict(seen))
        began = time.monotonic()
        while (await client.post("/verify", json=body(2))).status_code != 200:
            await asyncio.sleep(0.05)
        print(f"recovered after {time.monotonic() - began:.2f} s")
        answered = sum(count for name, count in seen.items() if name != "sent")
        return 0 if answered == seen["sent"] and not any("wrong" in name for name in seen) else 1


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        return asyncio.run(measure(process.stdout.readline().split()[-1], options.seconds))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
