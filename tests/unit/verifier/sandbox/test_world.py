"""Modules whose names are watched."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from rgopd.verifier.sandbox import world
world.watch(["sys", "time"])
import email.message, wave  # made of the class that sys has now
assert [*world.replaced()] == [], [*world.replaced()]
import time
time.sleep = None
sys.argv = ["x"]
assert sorted(name for name, _ in world.replaced()) == ["sys:argv", "time:sleep"]
"""


def test_modules_loaded_later_are_not_replaced_ones() -> None:
    assert subprocess.run([sys.executable, "-c", _PROGRAM], check=False).returncode == 0
