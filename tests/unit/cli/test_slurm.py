"""What becomes of Slurm's environment and of a config; the real thing is `make test-slurm`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rgopd.cli.sections import up_config
from rgopd.cli.slurm import SlurmMachine, components
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.errors import ConfigError

HET = {
    "SLURM_JOB_ID": "7",
    "SLURM_HET_SIZE": "4",
    "SLURM_JOB_NUM_NODES_HET_GROUP_0": "1",
    "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_0": "32",
    "SLURM_JOB_NUM_NODES_HET_GROUP_1": "1",
    "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_1": "16",
    "SLURM_JOB_NUM_NODES_HET_GROUP_2": "3",
    "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_2": "16(x2),8",
    "SLURM_JOB_NUM_NODES_HET_GROUP_3": "1",
    "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_3": "16",
}


def machine(tmp_path: Path, environment: dict[str, str], **up: Any) -> SlurmMachine:
    return SlurmMachine({"up": up}, tmp_path, environment)


def test_components_are_read_from_the_jobs_environment() -> None:
    found = components(HET)
    assert [(c.nodes, c.cpus) for c in found] == [(1, 32), (1, 16), (3, 40), (1, 16)]
    assert found[2].option == ("--het-group=2",)
    alone = components({"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_CPUS_PER_NODE": "8(x2)"})
    assert [(c.option, c.nodes, c.cpus, c.cpus_per_node) for c in alone] == [((), 2, 16, 8)]
    with pytest.raises(ConfigError, match="sbatch deploy/slurm"):
        components({})


def test_each_process_gets_its_component_cpus_and_gpus(tmp_path: Path) -> None:
    made = machine(tmp_path, HET, samplers=5, slurm={"gpus": {"sampler": 1, "train": 8}, "cpus": {"verifier": 4}})
    sampler = made.argv_of("sampler", ["rgopd", "sampler"])
    assert "--het-group=2" in sampler
    assert "--cpus-per-task=8" in sampler
    assert "--gpus-per-node=1" in sampler, "with --gpus-per-task a step takes all of a component's GPUs"
    assert sampler[-2:] == ["rgopd", "sampler"]
    assert "--cpus-per-task=4" in made.argv_of("verifier", [])
    assert not [word for word in made.argv_of("teacher", []) if "gpus" in word]
    trainer = made.trainer_argv(8, ["train"])
    assert {"--het-group=3", "--nodes=1", "--cpus-per-task=16", "--gpus-per-node=8", "--standalone"} <= set(trainer)


GPUS = {**HET, **{f"SLURM_GPUS_PER_NODE_HET_GROUP_{i}": n for i, n in ((1, "h100:4"), (2, "2"), (3, "8"))}}


def test_where_the_job_has_gpus_each_process_gets_one_a_rank(tmp_path: Path) -> None:
    sections = {"teacher": {"tensor_parallel_size": 4}, "train": {"nproc": 8}, "up": {"samplers": 6}}
    made = SlurmMachine(sections, tmp_path, GPUS)
    for role, count in (("teacher", 4), ("sampler", 1)):
        assert f"--gpus-per-node={count}" in made.argv_of(role, [])
    assert "--gpus-per-node=8" in made.trainer_argv(8, [])
    assert not [word for word in made.argv_of("verifier", []) if "gpus" in word], "its component has none"
    alone = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_PER_NODE": "4"}
    assert "--gpus-per-node=0" in machine(tmp_path, alone).argv_of("verifier", []), "or it holds all four"
    elsewhere = SlurmMachine({"teacher": {"engine": "openai"}}, tmp_path, GPUS)
    assert "--gpus-per-node=0" in elsewhere.argv_of("teacher", [])


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"teacher": {"tensor_parallel_size": 8}},
            "teacher takes 8 GPUs of one node .*has 4 .*--gpus-per-node=8",
        ),
        (
            {"teacher": {"tensor_parallel_size": 4}, "up": {"slurm": {"gpus": {"teacher": 2}}}},
            "teacher.tensor_parallel_size=4, and up.slurm.gpus.teacher=2: each rank needs a GPU of its own",
        ),
        ({"train": {"nproc": 16}}, "train takes 16 GPUs of one node .train.nproc=16.*has 8"),
        ({"up": {"samplers": 7}}, "up.samplers=7 with GPUs: 1 each.*has room for 6: submit with more nodes"),
        (
            {"up": {"samplers": 6, "slurm": {"components": {"sampler": 3}}}, "train": {"nproc": 4}},
            r"of one component take 10 GPUs .sampler 6, train 4., and it has 8: submit with more",
        ),
    ],
)
def test_gpus_that_the_job_does_not_have(tmp_path: Path, sections: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        SlurmMachine(sections, tmp_path, GPUS)


def test_what_runs_on_cpus_takes_no_gpus(tmp_path: Path) -> None:
    for sections in ({"sampler": {"device": "cpu"}}, {"common": {"device": "cpu"}}):
        made = SlurmMachine({**sections, "up": {"samplers": 9}}, tmp_path, GPUS)
        assert "--gpus-per-node=0" in made.argv_of("sampler", [])


def test_one_component_holds_all(tmp_path: Path) -> None:
    one = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_CPUS_PER_NODE": "20"}
    made = machine(tmp_path, one, samplers=2)
    for argv in (made.argv_of("teacher", []), made.argv_of("sampler", []), made.trainer_argv(1, [])):
        assert "--cpus-per-task=4" in argv
        assert not [word for word in argv if "het-group" in word]


def test_a_map_that_the_job_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="puts train into component 4, and the job has 4"):
        machine(tmp_path, HET, slurm={"components": {"train": 4}})
    with pytest.raises(ConfigError, match="trainer"):
        up_config({"up": {"slurm": {"gpus": {"trainer": 1}}}})


def test_a_map_of_some_keeps_the_others() -> None:
    assert up_config({"up": {"slurm": {"components": {"sampler": 1}}}}).slurm.components["train"] == 3
    assert up_config({}).slurm.components == {"verifier": 0, "teacher": 1, "sampler": 2, "train": 3}


def step(code: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "rgopd.cli.slurm_step", sys.executable, "-c", code]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def test_a_signal_to_every_process_of_the_step_is_handed_on_once() -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "import os; print(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    argv = [sys.executable, "-m", "rgopd.cli.slurm_step", sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        os.kill(int(process.stdout.readline()), signal.SIGUSR1)  # it would end by this, before it could be asked
        time.sleep(0.2)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGUSR1)
        assert process.wait(120) == 75


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_step_hands_the_wish_to_stop_on_and_ends_with_the_commands_code(number: int) -> None:
    with step(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "print('up', flush=True)\ntime.sleep(60)"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait(120) == 75


def test_a_step_that_is_killed_says_so_as_a_shell_does() -> None:
    with step("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") as process:
        assert process.wait(120) == 137


def test_a_server_that_others_reach_has_a_password_that_nobody_reads(tmp_path: Path) -> None:
    from redis import Redis
    from redis.exceptions import AuthenticationError

    with pytest.raises(ValueError, match="needs a password"):
        EmbeddedValkey(tmp_path, address="here")
    server = EmbeddedValkey(tmp_path, address="127.0.0.1", password="s3cret").start()
    try:
        assert server.process is not None
        assert b"s3cret" not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert (tmp_path / "valkey.conf").stat().st_mode & 0o077 == 0
        client = Redis.from_url(server.url)
        assert client.ping()
        client.close()
        stranger = Redis.from_url(server.url.replace(":s3cret@", ""))
        with pytest.raises(AuthenticationError):
            stranger.ping()
        stranger.close()
    finally:
        server.stop()
