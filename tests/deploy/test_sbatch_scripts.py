"""The sbatch scripts as bash runs them, without Slurm: what they start, and what becomes of its exit code and of TERM.

`make test-slurm` runs both on a real Slurm.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from typer.main import get_command

from rgopd.cli.main import app
from tests.deploy.manifests import ROOT

SCRIPTS = {"one-node.sbatch": [], "rgopd.sbatch": ["--slurm"]}
RGOPD = """#!/bin/bash
trap 'exit 75' TERM # as `rgopd up` once the trainer has paused
echo "$@" > started
test "$LATER" = "" && exit "$CODE"
while true; do sleep 0.02; done
"""


@pytest.fixture(params=SCRIPTS)
def script(request: pytest.FixtureRequest) -> Path:
    return ROOT / "deploy/slurm" / str(request.param)


def start(script: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """The batch script in `folder`, with programs there that note how they were called."""
    for name, text in (("rgopd", RGOPD), ("scontrol", '#!/bin/bash\necho "$@" > requeued\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    given = {"RGOPD": str(folder / "rgopd"), "SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": str(folder), "LATER": ""}
    own = {**os.environ, **given, **environment, "PATH": f"{folder}:{os.environ['PATH']}"}
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(["bash", str(script), *arguments], cwd=folder, env=own, stderr=said)


@pytest.mark.parametrize(("code", "queued"), [(0, False), (1, False), (75, True), (130, True), (143, True)])
def test_what_paused_is_queued_again_and_nothing_else(script: Path, tmp_path: Path, code: int, queued: bool) -> None:
    job = start(script, tmp_path, "my.yaml", "--set", "train.steps=5", CODE=str(code))
    assert job.wait(120) == code
    started = (tmp_path / "started").read_text().split()
    assert started == ["up", *SCRIPTS[script.name], "--config", "my.yaml", "--set", "train.steps=5"]
    requeued = tmp_path / "requeued"
    assert (requeued.read_text() if requeued.exists() else "") == ("requeue 17\n" if queued else "")


def test_time_that_is_nearly_up_reaches_the_run(script: Path, tmp_path: Path) -> None:
    job = start(script, tmp_path, "my.yaml", LATER="yes")
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists() or not (tmp_path / "started").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)  # the script's own trap is set beside the start
    job.send_signal(signal.SIGTERM)
    assert job.wait(120) == 75
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"


def test_without_a_config_it_says_how(script: Path, tmp_path: Path) -> None:
    job = start(script, tmp_path)
    assert job.wait(120) != 0
    assert f"sbatch {script.name} CONFIG.yaml" in (tmp_path / "said").read_text()
    assert not (tmp_path / "started").exists()


def test_their_lines_agree_with_the_command_and_each_other(script: Path) -> None:
    text = script.read_text()
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False).returncode == 0
    up = get_command(app).commands["up"]  # type: ignore[attr-defined]
    options = {option for parameter in up.params for option in parameter.opts}
    [command] = re.findall(r'^"\$RGOPD" up (.*) "\$@" &$', text, re.MULTILINE)
    assert set(re.findall(r"--[a-z]+", command)) <= options
    lines = re.findall(r"^#SBATCH (\S+)", text, re.MULTILINE)
    assert {"--requeue", "--open-mode=append"} <= set(lines), "a job that comes back goes on in the same output"
    assert "--signal=B:TERM@180" in lines, "to the batch shell, whose trap it is"
    components = lines.count("hetjob") + 1
    assert components == (4 if "--slurm" in command else 1)
    assert lines.count("--nodes=1") == lines.count("--ntasks-per-node=1") == components
