"""What an image's own folders can do: a command that needs another service's code says so, or works without it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.manifests import ROOT

EVERY = {path.parent.name for path in (ROOT / "services").glob("*/__init__.py")} - {"protos"}

AS_IN_THE_IMAGE = """
import contextlib, io, json, sys
absent, commands = json.loads(sys.argv[1])
class Absent:
    def find_spec(self, name, path=None, target=None):
        parts = name.split(".")
        if parts[0] == "rgopd" and len(parts) > 1 and parts[1] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from rgopd.cli.main import main
told = []
for argv in commands:
    sys.argv, said = ["rgopd", *argv], io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code
    told.append((code, said.getvalue()))
print(json.dumps(told))
"""

CLUSTER = (["doctor", "--cluster"], "doctor --cluster needs the run's Redis: set RGOPD_REDIS_URL")
LACKS = "this installation holds no rgopd."
COMMANDS = {
    "teacher": [CLUSTER],
    "sampler": [CLUSTER],
    "verifier": [CLUSTER, (["teacher"], f"{LACKS}teacher, which the command needs: run it in that service's image")],
    "trainer": [
        CLUSTER,
        (["report", "nosuch"], "nosuch has no metrics.jsonl"),
        (["watch", "nosuch"], "nosuch"),
        (["queues"], "--redis-url"),
        (["export", "--run", "nosuch", "-o", "student"], "nosuch"),
        (["rollouts", "nosuch"], "nosuch"),
        (["data", "gsm8k", "-i", "nosuch.jsonl", "-o", "rows.jsonl", "--no-check"], "nosuch.jsonl"),
        (["doctor", "-c", "demo"], f"{LACKS}teacher"),
    ],
}
"""For each image, commands of docs/deploy.md and what they answer here."""


@pytest.mark.parametrize("service", COMMANDS)
def test_commands_work_in_an_image_or_say_what_it_lacks(service: str, tmp_path: Path) -> None:
    copied = re.findall(r"^COPY services/(\w+) ", (ROOT / f"services/{service}/Dockerfile").read_text(), re.MULTILINE)
    assert {"common", "cli", service} <= set(copied)
    given = json.dumps([sorted(EVERY - set(copied)), [argv for argv, _ in COMMANDS[service]]])
    command = [sys.executable, "-c", AS_IN_THE_IMAGE, given]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=120)
    for (argv, wanted), (code, said) in zip(COMMANDS[service], json.loads(done.stdout), strict=True):
        assert code == 2, argv
        assert wanted in said, argv
        assert said.count("\n") == 1, said
