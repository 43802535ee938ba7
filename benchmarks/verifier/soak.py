"""Many checks, one in twenty hostile: is anything left behind, and does it slow down?

python -m benchmarks.verifier.soak [--checks 100000]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.main import build_engine
from rgopd.verifier.schemas import Item

HOSTILE = (
    "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n",
    "import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n    import time; time.sleep(99)\n",
    "x = bytearray(b'x' * (4 << 30))\n",
    "import os\nwhile True: os.write(1, b'x' * 65536)\n",
    "for i in range(9999): open(f'f{i}', 'wb').write(b'x' * (1 << 20))\n",
    "import os; os._exit(0)\n",
    "import ctypes; ctypes.memset(0, 0, 1)\n",
    "while True: pass\n",
    "import os\nfor fd in range(64):\n    try: os.close(fd)\n    except OSError: pass\n",
    "class E:\n    def __eq__(self, o): return True\ndef f(x): return E()\n",
)
BATCH = 200


def batch(start: int) -> list[Item]:
    """One in twenty is hostile and must not pass; the rest must."""
    items = []
    for n in range(start, start + BATCH):
        if n % 20 == 0:
            program = f"# {n}\n" + HOSTILE[n // 20 % len(HOSTILE)]
            limits = {"cpu_s": 0.2, "wall_s": 1, "memory_mb": 128, "file_mb": 8}
            items.append(Item(f"bad-{n}", "code", program, {"tests": ["assert f(1) == 2"], "limits": limits}))
        elif n % 20 == 1:
            items.append(Item(f"m-{n}", "math", f"so \\boxed{{{n}}}", {"reference": f"{n}.0"}))
        else:
            items.append(Item(f"c-{n}", "code", f"def f(x): return x + {n}", {"tests": [f"assert f(1) == {n + 1}"]}))
    return items


def snapshot(engine: VerifierEngine) -> dict[str, float]:
    """Resident kB of this process and its zygotes, descriptors, zombies, mounts, namespaces, cgroups."""
    tree = [os.getpid()]
    for pid in tree:
        for thread in os.listdir(f"/proc/{pid}/task"):
            tree += [int(c) for c in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
    stats = {pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in tree}
    resident = {pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4 for pid in tree}
    spaces = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            for kind in ("pid", "mnt", "net", "ipc"):
                try:
                    spaces.add(os.readlink(f"/proc/{name}/ns/{kind}"))
                except OSError:
                    continue
    groups = Path("/sys/fs/cgroup")
    return {
        "resident_mb": round(sum(resident.values()) / 1024, 1),
        "service_mb": round(resident[os.getpid()] / 1024, 1),
        "processes": len(tree),
        "zombies": sum(fields[0] == "Z" for fields in stats.values()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "namespaces": len(spaces),
        "cgroups": sum(1 for _ in groups.glob(f"**/rgopd-{os.getpid()}-*")),
        "scratch": sum(1 for _ in Path("/tmp").glob("rgopd-slot-*")),
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checks", type=int, default=100_000)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    engine, info = build_engine(VerifierConfig(cache_size=1000))
    print(f"rung {info['isolation']['rung']}, {info['workers']} workers, load {os.getloadavg()[0]:.1f}")
    engine.check(batch(10**8))  # warm
    before, wrong, took = snapshot(engine), 0, []
    print("start", before)
    for start in range(0, options.checks, BATCH):
        began = time.monotonic()
        for verdict in engine.check(batch(start)):
            wrong += (verdict.status == "passed") == verdict.id.startswith("bad")
        took.append(time.monotonic() - began)
    after = snapshot(engine)
    print("end  ", after)
    tenth = max(1, len(took) // 10)
    first, last = BATCH * tenth / sum(took[:tenth]), BATCH * tenth / sum(took[-tenth:])
    print(f"wrong verdicts: {wrong}; resident {after['resident_mb'] / before['resident_mb'] - 1:+.1%}; "
          f"checks/s first tenth {first:.0f}, last {last:.0f} ({last / first:.0%})")  # fmt: skip
    engine.drain(30)
    engine.close()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
