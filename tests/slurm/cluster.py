"""A real Slurm of several nodes on this machine: its own munge, configuration, ports and folders."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

from rgopd.common.embedded import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")

CONFIG = """
ClusterName=rgopdtest
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1
ReturnToService=2
KillWait=30
JobRequeue=1
PartitionName=all Nodes=ALL Default=YES MaxTime=60 DefaultTime=20 State=UP
"""


class Cluster:
    """slurmctld and one slurmd a node, as root; nothing of this machine's own Slurm is touched."""

    def __init__(self, folder: Path, nodes: int, cpus: int) -> None:
        missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
        assert not missing, f"{', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"
        assert os.getuid() == 0, "slurmd starts other users' jobs: run this as root"
        self.folder = folder
        self.nodes = [f"n{i}" for i in range(nodes)]
        for name in ("state", "spool", "munge"):
            (folder / name).mkdir()
        (folder / "munge").chmod(0o700)
        key = folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self.config = folder / "slurm.conf"
        text = CONFIG.format(host=socket.gethostname(), folder=folder, port=free_port())
        for name in self.nodes:
            (folder / "spool" / name).mkdir()
            port = free_port()
            text += f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} "
            text += f"CPUs={cpus} RealMemory=1000\n"
        self.config.write_text(text)
        self.environment = {**os.environ, "SLURM_CONF": str(self.config), "PATH": _path()}

    def start(self) -> Cluster:
        munge = self.folder / "munge"
        self.run(
            "munged", "--force", f"--socket={munge}/socket", f"--key-file={munge}/key", f"--pid-file={munge}/pid",
            f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        self.run("slurmctld", "-c", "-f", str(self.config))
        for name in self.nodes:
            self.run("slurmd", "-N", name, "-f", str(self.config))
        deadline = time.monotonic() + 30
        while self.run("sinfo", "-h", "-t", "idle", "-o", "%D") != str(len(self.nodes)):
            assert time.monotonic() < deadline, self.run("sinfo", "-N") + self.tails()
            time.sleep(0.2)
        return self

    def run(self, *argv: str, check: bool = True) -> str:
        """One command; its output without the last line's end."""
        done = subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, timeout=60, check=False, cwd=self.folder
        )
        assert done.returncode == 0 or not check, (argv, done.stdout, done.stderr, self.tails())
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """The state of a job's first component, e.g. RUNNING."""
        text = self.run("scontrol", "-o", "show", "job", job)
        return text.partition("JobState=")[2].partition(" ")[0]

    def wait(self, job: str, timeout_s: float) -> str:
        """Until the job is over; its state."""
        deadline = time.monotonic() + timeout_s
        while (state := self.state(job)) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            assert time.monotonic() < deadline, f"job {job} is {state} after {timeout_s} s\n{self.tails()}"
            time.sleep(0.5)
        return state

    def tails(self) -> str:
        """The ends of the logs."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-8:]) for log in logs)

    def stop(self) -> None:
        self.run("scancel", "-u", "root", check=False)
        time.sleep(1)
        pids = [*(self.folder / f"{name}.pid" for name in self.nodes), self.folder / "slurmctld.pid"]
        for path in [*pids, self.folder / "munge" / "pid"]:
            if path.exists():
                subprocess.run(["kill", path.read_text().strip()], check=False)


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"
