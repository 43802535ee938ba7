"""Test files as pytest runs them: what they import, fixtures, parameters, classes.

In: a test file's namespace and what it defines. Out: the first failure, or a word that the file is broken. The sources
go into the sandbox with the tests that need them, since in every zygote they would be pages of every check; so they
import the standard library and each other alone.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

_NEEDED = re.compile(r"\bpytest\b|^[ \t]*(?:async[ \t]+)?def[ \t]+test\w*\(\s*\w|^class[ \t]+Test", re.MULTILINE)
_MODULES = ("names", "fixtures", "run")


def needed(tests: list[str]) -> bool:
    """Do these tests have what only pytest runs: its names, functions with arguments, classes?"""
    return any(_NEEDED.search(test) for test in tests)


@lru_cache(maxsize=1)
def sources() -> dict[str, str]:
    """Full name -> source, in the order in which they import each other."""
    folder = Path(__file__).parent
    return {f"{__name__}.{name}": (folder / f"{name}.py").read_text(encoding="utf-8") for name in _MODULES}
