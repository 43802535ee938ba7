"""The shipped sbatch script on a real Slurm: a run as a heterogeneous job is the run on one machine, byte by byte."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chaos.cast import Result, result, sections, write_data
from tests.slurm.cluster import Cluster

STEPS = 6
COMPONENTS = [["--cpus-per-task=2"], ["--cpus-per-task=1"], ["--cpus-per-task=2"], ["--cpus-per-task=2"]]
SIZES = ["--nodes=1", "--ntasks=1", "--time=20"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"), nodes=5, cpus=2)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


def write_config(folder: Path, **changes: Any) -> Path:
    """A config as a user has it; no Redis is named."""
    write_data(folder)
    made = sections(folder, "", steps=STEPS, ranks=2, samplers=2)
    made["common"] = {"run_id": "slurm"}
    made["up"] |= {"watch": False}
    for section, keys in changes.items():
        made[section] |= keys
    config = folder / "my.yaml"
    config.write_text(yaml.safe_dump(made))
    return config


def submit(cluster: Cluster, repository: Path, config: Path, *trainer: str) -> tuple[str, Path]:
    """sbatch the shipped script with smaller sizes; the job's number and its output."""
    output = config.parent / "job.out"
    options: list[str] = []
    for number, component in enumerate(COMPONENTS):
        options += [*([":"] if number else [f"--output={output}"]), *SIZES, *component]
    options += list(trainer)
    return _sbatch(cluster, repository / "deploy" / "slurm" / "rgopd.sbatch", config, options), output


def _sbatch(cluster: Cluster, script: Path, config: Path, options: list[str]) -> str:
    without_gpus = config.parent / script.name  # this machine has none to give
    lines = script.read_text().splitlines(True)
    without_gpus.write_text("".join(line for line in lines if "--gpus" not in line and "mem-per" not in line))
    environment = {"RGOPD": str(Path(sys.executable).with_name("rgopd")), "OMP_NUM_THREADS": "1"}
    exported = "--export=ALL," + ",".join(f"{key}={value}" for key, value in environment.items())
    return cluster.run("sbatch", "--parsable", exported, *options, str(without_gpus), str(config))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """`rgopd up` on this machine."""
    folder = tmp_path_factory.mktemp("up")
    config = write_config(folder)
    argv = [sys.executable, "-m", "rgopd.cli.main", "up", "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return result(folder)


def steps_done(folder: Path) -> int:
    ledger = folder / "ledger.jsonl"
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def until(condition: Any, timeout_s: float, tell: Any) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, tell()
        time.sleep(0.1)


def told(cluster: Cluster, folder: Path) -> str:
    logs = [folder / "job.out", *sorted((folder / "logs").glob("*"))]
    return "\n".join(f"--- {p.name}\n{p.read_text()[-1500:]}" for p in logs if p.exists()) + cluster.tails()


@pytest.mark.timeout(400)
def test_a_heterogeneous_job_runs_to_its_end(
    cluster: Cluster, repository: Path, expected: Result, tmp_path: Path
) -> None:
    job, _ = submit(cluster, repository, write_config(tmp_path))
    assert cluster.wait(job, 300) == "COMPLETED", told(cluster, tmp_path)
    assert result(tmp_path) == expected
    nodes = {
        cluster.run("scontrol", "-o", "show", "job", f"{job}+{i}").partition(" NodeList=")[2].split()[0]
        for i in range(4)
    }
    assert len(nodes) == 4, "every component has a node of its own here"
    redis = yaml.safe_load((tmp_path / "up.yaml").read_text())["common"]["redis_url"]
    password = redis.partition("://:")[2].partition("@")[0]
    assert len(password) == 32
    assert password not in (tmp_path / "job.out").read_text()


@pytest.mark.timeout(400)
def test_a_trainer_of_two_nodes(cluster: Cluster, repository: Path, expected: Result, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    changed = yaml.safe_load(config.read_text())
    changed["train"]["nproc"] = 1
    config.write_text(yaml.safe_dump(changed))
    job, _ = submit(cluster, repository, config, "--nodes=2", "--ntasks=2", "--cpus-per-task=1")
    assert cluster.wait(job, 300) == "COMPLETED", told(cluster, tmp_path)
    assert result(tmp_path) == expected


@pytest.mark.timeout(400)
def test_a_job_that_is_queued_again_resumes_to_the_same_bytes(
    cluster: Cluster, repository: Path, expected: Result, tmp_path: Path
) -> None:
    job, output = submit(cluster, repository, write_config(tmp_path))
    until(lambda: steps_done(tmp_path) >= 3, 180, lambda: told(cluster, tmp_path))
    cluster.run("scontrol", "requeue", job)
    until(lambda: cluster.state(job) == "PENDING", 60, lambda: told(cluster, tmp_path))
    assert steps_done(tmp_path) < STEPS, "the run was over before it was queued again"
    for part in range(4):  # Slurm lets two minutes pass first
        cluster.run("scontrol", "update", f"JobId={int(job) + part}", "StartTime=now", check=False)
    assert cluster.wait(job, 240) == "COMPLETED", told(cluster, tmp_path)
    assert result(tmp_path) == expected
    assert "DUE TO JOB REQUEUE" in output.read_text()


@pytest.mark.timeout(400)
def test_a_service_that_dies_is_started_again(
    cluster: Cluster, repository: Path, expected: Result, tmp_path: Path
) -> None:
    job, _ = submit(cluster, repository, write_config(tmp_path))
    until(lambda: steps_done(tmp_path) >= 1, 180, lambda: told(cluster, tmp_path))
    mine = f"rgopd.cli.main teacher --config {tmp_path}".encode()
    found = [
        p for p in Path("/proc").iterdir() if p.name.isdigit() and mine in _words(p) and b"slurm_step" not in _words(p)
    ]
    pids = [int(p.name) for p in found if b"srun" not in _words(p)]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert cluster.wait(job, 300) == "COMPLETED", told(cluster, tmp_path)
    assert result(tmp_path) == expected
    assert "teacher is started again" in (tmp_path / "events.jsonl").read_text()


def _words(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


@pytest.mark.timeout(400)
def test_a_service_that_cannot_start_ends_the_job_with_its_reason(
    cluster: Cluster, repository: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # on the teacher's node, which the batch script cannot know
        port = taken.getsockname()[1]
        job, output = submit(cluster, repository, write_config(tmp_path, teacher={"port": port}))
        assert cluster.wait(job, 200) == "FAILED", told(cluster, tmp_path)
    text = output.read_text()
    assert "teacher exited with" in text
    assert f"port {port} on 127.0.0.1 is in use; stop what listens there" in text, text
    until(
        lambda: cluster.run("squeue", "-h") == "", 60, lambda: cluster.run("squeue")
    )  # and gives all of its nodes back


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": {"model": "nosuch"}}, "nosuch is no folder here"),
        ({"train": {"blob_url": "file:///nosuch"}}, "there is no such folder here; make it on the shared file system"),
    ],
)
def test_a_mistake_in_the_config_ends_the_job_before_it_starts_anything(
    cluster: Cluster, repository: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    job, output = submit(cluster, repository, write_config(tmp_path, **changes))
    assert cluster.wait(job, 100) == "FAILED", told(cluster, tmp_path)
    [line] = [line for line in output.read_text().splitlines() if line.startswith("rgopd: ")]
    assert said in line
    assert not (tmp_path / "logs").exists()


def test_the_lines_of_the_script_give_a_component_as_many_nodes_as_it_is_told(
    cluster: Cluster, repository: Path, tmp_path: Path
) -> None:
    sizes = ["--time=20", "--cpus-per-task=1", "--hold"]
    options = [*sizes, ":", *sizes, ":", *sizes, ":", *sizes, "--nodes=2"]  # as docs/slurm.md has it
    job = _sbatch(cluster, repository / "deploy" / "slurm" / "rgopd.sbatch", write_config(tmp_path), options)
    nodes = [
        cluster.run("scontrol", "-o", "show", "job", f"{job}+{part}").partition(" NumNodes=")[2].split()[0]
        for part in range(4)
    ]
    cluster.run("scancel", job)
    assert [n.partition("-")[0] for n in nodes] == ["1", "1", "1", "2"]


@pytest.mark.timeout(400)
def test_a_job_whose_time_is_up_saves_and_is_queued_again(
    cluster: Cluster, repository: Path, expected: Result, tmp_path: Path
) -> None:
    job, output = submit(cluster, repository, write_config(tmp_path))
    until(lambda: steps_done(tmp_path) >= 2, 180, lambda: told(cluster, tmp_path))
    cluster.run("scancel", "--batch", "--signal=TERM", job)  # what --signal=B:TERM@180 does
    until(lambda: cluster.state(job) == "PENDING", 60, lambda: told(cluster, tmp_path))
    assert "paused" in (tmp_path / "events.jsonl").read_text()
    assert steps_done(tmp_path) < STEPS
    for part in range(4):
        cluster.run("scontrol", "update", f"JobId={int(job) + part}", "StartTime=now", check=False)
    assert cluster.wait(job, 240) == "COMPLETED", told(cluster, tmp_path)
    assert result(tmp_path) == expected


@pytest.mark.timeout(400)
def test_a_job_of_one_node_pauses_when_its_time_is_up_and_resumes_to_the_same_bytes(
    cluster: Cluster, repository: Path, expected: Result, tmp_path: Path
) -> None:
    options = [f"--output={tmp_path / 'job.out'}", *SIZES, "--cpus-per-task=2"]
    job = _sbatch(cluster, repository / "deploy" / "slurm" / "one-node.sbatch", write_config(tmp_path), options)
    until(lambda: steps_done(tmp_path) >= 2, 180, lambda: told(cluster, tmp_path))
    cluster.run("scancel", "--batch", "--signal=TERM", job)
    until(lambda: cluster.state(job) == "PENDING", 60, lambda: told(cluster, tmp_path))
    assert "paused" in (tmp_path / "events.jsonl").read_text()
    assert steps_done(tmp_path) < STEPS
    time.sleep(2)  # credentials have whole seconds: one of that in which the last was revoked is refused
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert cluster.wait(job, 240) == "COMPLETED", told(cluster, tmp_path)
    assert result(tmp_path) == expected


def test_outside_of_a_job_it_says_how(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "rgopd.cli.main", "up", "--slurm", "--config", str(write_config(tmp_path))]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "sbatch deploy/slurm/rgopd.sbatch" in done.stderr
