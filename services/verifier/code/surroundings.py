"""Which of a process's surroundings test code touches: those the two processes of a check then keep in step."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Any

_ASPECTS = {
    "random": r"\brandom\.(?:seed|setstate)|import seed\b|\bseed\(",
    "numpy": r"\b(?:np|numpy)\.random\.(?:seed|set_state)",
    "environ": r"environ|getenv|putenv|setenv|delenv",
    "argv": r"\bargv\b",
    "warnings": r"(?i)warn",
    "logging": r"assertLogs|assertNoLogs|\blogging\b|caplog",
    "source": r"\binspect\b|getsource",
    "threads": r"\bthreading\b|\bThread\b|ThreadPool|concurrent\.futures|\bto_thread\b|run_in_executor|\b_thread\b",
    "lifetimes": r"\bweakref\b|\bgc\.collect|^\s*del [A-Za-z_]\w*\s*(?:[;,#]|$)",
    "pickle": r"pickle|shelve|joblib|\b(?:np|numpy)\.load\b",
}
_FILES = re.compile(
    r"\b(?:open|tempfile|shutil|pathlib|Path|sqlite3|glob|zipfile|tarfile|gzip|shelve|dbm|mmap|os"
    r"|tofile|fromfile|read_csv|to_csv|read_json|to_json|read_excel|savetxt|loadtxt|savefig"
    r"|tmp_path|tmp_path_factory|tmpdir|chdir)\b"
)
_EXECUTES = re.compile(r"\b(?:exec|runpy|importlib|execfile|CDLL|imp)\b")
_REPLACES = re.compile(r"\bpatch\b|setattr|^[ \t]*[A-Za-z_][\w.]*\.[A-Za-z_]\w*[ \t]*=[^=]", re.MULTILINE)
_DOTTED = re.compile(r"\b[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_MOST_MODULES = 64


@lru_cache(maxsize=1024)
def touched(sources: tuple[str, ...]) -> dict[str, Any]:
    """What both processes are to keep in step: `aspects` of `sandbox.world`, `modules` in which the tests may put
    something else in the place of a name, and whether there are `files`.

    Test code that executes what it reads gets no files from a program.
    """
    text = "\n".join(sources)
    aspects = [name for name, pattern in _ASPECTS.items() if re.search(pattern, text, re.MULTILINE)]
    files = bool(_FILES.search(text)) and not _EXECUTES.search(text)
    return {
        "aspects": [*aspects, "cwd"] if files else aspects,
        "modules": sorted(_modules(text))[:_MOST_MODULES] if _REPLACES.search(text) else [],
        "files": files,
    }


def _modules(text: str) -> set[str]:
    """Dotted names that may be modules of the library, and what is imported."""
    found: set[str] = set()
    for name in set(_DOTTED.findall(text)):
        parts = name.split(".")
        if parts[0] in sys.stdlib_module_names:
            found.update(".".join(parts[:count]) for count in range(1, min(len(parts), 4)))
    imported = re.findall(r"^[ \t]*(?:import|from)[ \t]+([\w.]+)", text, re.MULTILINE)
    return found | {name for name in imported if name.split(".")[0] not in ("solution", "checker")}
