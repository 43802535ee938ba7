"""The libraries that code under test may import: found in an interpreter's site-packages, the sandbox shown no more.

Not the whole of site-packages: what else is installed there (benchmarks with their answers, this service) is nobody's
business inside. A folder of links names the modules of each package and of what it requires; the sandbox sees that
folder and what the links point to."""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_PREFIX = "rgopd-packages-"

# Runs in the interpreter that has the packages: import name -> paths of the modules of its distribution and of all
# that this requires (extras aside).
_FIND = """
import importlib.metadata as metadata, json, re, sys
owners = metadata.packages_distributions()
def paths(name, seen):
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return
    seen.add(key)
    try:
        dist = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return
    for file in dist.files or ():
        top = file.parts[0]
        if top not in ("..", "__pycache__") and not top.endswith((".dist-info", ".pth", ".egg-info")):
            yield str(dist.locate_file(top))
    for line in dist.requires or ():
        if "extra" not in line:
            yield from paths(re.match(r"[\\w.-]+", line)[0], seen)
found = {}
for name in sys.argv[1:]:
    seen = set()
    every = sorted({path for owner in owners.get(name, ()) for path in paths(owner, seen)})
    if every:
        found[name] = every
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Libraries:
    """names: those found; folder: on the path of code under test ("" without any); readable: what it needs to read."""

    names: tuple[str, ...] = ()
    folder: str = ""
    readable: tuple[str, ...] = ()


def _place() -> str | None:
    """Not below /tmp, where every check has a folder of its own in the way; None where there is no other place."""
    places = ("/var/tmp", os.path.expanduser("~/.cache"))
    return next((place for place in places if os.path.isdir(place) and os.access(place, os.W_OK)), None)


def _sweep(place: str) -> None:
    """Remove folders of services that were killed before they could."""
    for folder in Path(place).glob(f"{_PREFIX}*"):
        if not os.path.exists(f"/proc/{folder.name.removeprefix(_PREFIX).split('-')[0]}"):
            shutil.rmtree(folder, ignore_errors=True)


def find_libraries(python: str, names: Sequence[str]) -> Libraries:
    """Of `names`, those that the interpreter has; "" is this service's own, whose base the sandbox runs then."""
    interpreter = python or sys.executable
    try:
        said = subprocess.run(
            [interpreter, "-I", "-c", _FIND, *names],
            capture_output=True,
            check=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        found: dict[str, list[str]] = json.loads(said.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as problem:
        log.warning("no packages for code under test: %s", problem)
        return Libraries()
    if not found:
        return Libraries()
    _sweep(_place() or tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_place())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.chmod(folder, 0o755)
    paths = sorted({path for group in found.values() for path in group if os.path.exists(path)})
    for path in paths:
        if os.path.isdir(path):
            os.symlink(path, os.path.join(folder, os.path.basename(path)))
        else:
            shutil.copy(path, folder)
    return Libraries(tuple(found), folder, (folder, *filter(os.path.isdir, paths)))
