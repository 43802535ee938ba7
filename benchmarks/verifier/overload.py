"""Ten times more calls than can be served: 429s, no verdict lost or wrong, and a quick recovery.

python -m benchmarks.verifier.overload [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import Counter

from benchmarks.verifier.client import Client

_SERVE = (
    "import sys;from rgopd.verifier.config import VerifierConfig;from rgopd.verifier.main import serve;"
    "sys.exit(serve(VerifierConfig(cache_size=0, queue_size=128)))"
)


BATCH = 10
CONNECTIONS = 256


def right(n: int) -> bool:
    """Every other program is right."""
    return n % 2 == 0


def item(n: int) -> dict[str, object]:
    response = f"def f(): return {n if right(n) else -1}  # {n}"
    return {"id": str(n), "kind": "code", "response": response, "tests": [f"assert f() == {n}"]}


def request(client: Client, call: int) -> bytes:
    return client.request({"items": [item(call * BATCH + i) for i in range(BATCH)]})


async def capacity(client: Client) -> float:
    """Items a second, by callers who never pause and together stay within the queue."""
    done, stop = 0, time.monotonic() + 4

    async def caller(k: int) -> None:
        nonlocal done
        while time.monotonic() < stop:
            status, _, _ = await client.call(request(client, 10**6 * (k + 1) + done))
            done += status == 200

    await asyncio.gather(*(caller(k) for k in range(8)))
    return BATCH * done / 4


async def flood(client: Client, rate: float, seconds: float) -> Counter[str]:
    """`rate` items a second, whatever the service does, over CONNECTIONS connections; counts what each call got."""
    seen: Counter[str] = Counter()
    calls = iter(range(10**9))
    began = time.monotonic()

    async def caller() -> None:
        while True:
            n = next(calls)
            await asyncio.sleep(max(0.0, began + n * BATCH / rate - time.monotonic()))
            if time.monotonic() > began + seconds:
                return
            seen["calls"] += 1
            seen["late"] += time.monotonic() - began - n * BATCH / rate > 1
            seen[await one(n)] += 1

    async def one(n: int) -> str:
        try:
            status, head, answer = await client.call(request(client, n))
        except (OSError, asyncio.IncompleteReadError) as problem:
            return type(problem).__name__
        if status != 200:
            return f"{status}{'' if b'retry-after' in head else ' without Retry-After'}"
        for k, verdict in enumerate(json.loads(answer)["verdicts"], n * BATCH):
            if verdict["id"] != str(k) or verdict["status"] != ("passed" if right(k) else "failed"):
                return f"wrong: {verdict['status']} {verdict['reason']}"
        return "right"

    await asyncio.gather(*(caller() for _ in range(CONNECTIONS)))
    return seen


async def measure(url: str, seconds: float) -> int:
    client = Client(url)
    rate = await capacity(client)
    print(f"capacity {rate:.0f} items/s; {10 * rate:.0f} items/s in calls of {BATCH} for {seconds:g} s", flush=True)
    seen = await flood(client, 10 * rate, seconds)
    print(dict(seen))
    began = time.monotonic()
    while (await client.call(request(client, 10**8)))[0] != 200:
        await asyncio.sleep(0.05)
    print(f"recovered after {time.monotonic() - began:.2f} s")
    answered = sum(count for name, count in seen.items() if name == "right" or name == "429")
    return 0 if answered == seen["calls"] else 1


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
