"""What is freed is the system's again: in a process of its own, whose heap has no history."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np
from pathlib import Path
from rgopd.common.memory import give_back_large_blocks
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
if sys.argv[1] == "set":
    give_back_large_blocks()
np.ones(30 << 17).sum()  # 30 MiB, freed: from here on glibc keeps blocks up to that size
before = resident()
held = [np.ones((20 << 17) if n % 2 else 1 << 10) for n in range(20)]  # 20 MiB, and 8 KiB behind each
del held[1::2]
print((resident() - before) / (200 << 20))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_large_blocks_between_small_ones_go_back() -> None:
    kept, given_back = (
        float(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout)
        for how in ("unset", "set")
    )
    assert kept > 0.8, "the program shows nothing"
    assert given_back < 0.1


FAULTS = """
import ctypes, resource
from rgopd.common.memory import give_back_large_blocks
give_back_large_blocks()
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
def use():
    block = ctypes.c_void_p(c.malloc(3 << 20))
    ctypes.memset(block, 1, 3 << 20)
    c.free(block)
for _ in range(20):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_smaller_blocks_are_used_again_without_page_faults() -> None:
    said = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    assert float(said) < 100, "736 where the heap's end goes back at every free"
