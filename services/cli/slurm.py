"""`rgopd up --slurm`: the processes of a run as steps of a Slurm job, on the nodes of the job's components.

Runs in the batch script, on the first node of component 0, with Redis beside it. Slurm places, we supervise: what dies
is started again in the same allocation, and what cannot go on ends the job with its reason.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgopd.cli.processes import Child
from rgopd.cli.torchrun import command
from rgopd.cli.up import Machine
from rgopd.common.embedded import EmbeddedValkey, free_port
from rgopd.common.errors import ConfigError
from rgopd.teacher.engines.waiting import ELSEWHERE

_REPEATED = re.compile(r"(\d+)(?:\(x(\d+)\))?")


@dataclass(frozen=True)
class Component:
    """One component of the job. `option`: what srun needs to start a step there."""

    option: tuple[str, ...]
    nodes: int
    cpus: int
    """Of the whole component."""
    gpus_per_node: int = 0

    @property
    def cpus_per_node(self) -> int:
        """Of one node; the components of a job are alike inside."""
        return max(1, self.cpus // self.nodes)


def components(environment: Mapping[str, str]) -> list[Component]:
    """The components of the job that this process runs in; one, where the job is not heterogeneous.

    Raises:
        ConfigError: not inside of a job.
    """
    if "SLURM_JOB_ID" not in environment:
        raise ConfigError("--slurm works inside of a Slurm job: sbatch deploy/slurm/rgopd.sbatch (docs/slurm.md)")
    size = int(environment.get("SLURM_HET_SIZE") or 1)
    if size == 1:
        return [_component(environment, "", ())]
    return [_component(environment, f"_HET_GROUP_{i}", (f"--het-group={i}",)) for i in range(size)]


def _component(environment: Mapping[str, str], suffix: str, option: tuple[str, ...]) -> Component:
    cpus = environment.get(f"SLURM_JOB_CPUS_PER_NODE{suffix}", "1")
    total = sum(int(count) * int(times or 1) for count, times in _REPEATED.findall(cpus))
    gpus = environment.get(f"SLURM_GPUS_PER_NODE{suffix}", "0").rpartition(":")[2]  # a type may stand before it
    nodes = int(environment.get(f"SLURM_JOB_NUM_NODES{suffix}", "1"))
    return Component(option, nodes, total, int(gpus) if gpus.isdigit() else 0)


class Step(Child):
    """A process that srun starts. srun kills it on SIGTERM, so it is asked by SIGUSR1 (`slurm_step`)."""

    def ask_to_stop(self) -> None:
        """See `Child`."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)


class SlurmMachine(Machine):
    """The processes of one run, as steps."""

    child = Step

    def __init__(self, sections: dict[str, Any], folder: Path, environment: Mapping[str, str] = os.environ) -> None:
        super().__init__(sections, folder)
        self.environment = environment
        self.components = components(environment)
        slurm = self.up.slurm
        self.where: dict[str, int] = {str(role): index for role, index in slurm.components.items()}
        self.gpus_given: dict[str, int] = {str(role): count for role, count in slurm.gpus.items()}
        self.cpus: dict[str, int] = {str(role): count for role, count in slurm.cpus.items()}
        for role, index in self.where.items():
            if len(self.components) > 1 and index >= len(self.components):
                raise ConfigError(
                    f"up.slurm.components puts {role} into component {index}, and the job has "
                    f"{len(self.components)}, from 0 on: give the script more `#SBATCH hetjob` parts, or change the map"
                )
        check_gpus(self)

    def _place(self) -> dict[str, list[str]]:
        """Slurm shows each step its own GPUs."""
        return {}

    def _ranks(self, say: Callable[[str], None]) -> int:
        """As they were asked for: this node's GPUs are not the trainer's."""
        return int(self.sections.get("train", {}).get("nproc", 1))

    def make_redis(self) -> EmbeddedValkey:
        """On this node, for the others: they reach it by its name, with a password."""
        address = self.up.slurm.address or socket.gethostname()
        return EmbeddedValkey(
            self.folder / "redis", maxmemory_mb=self.up.maxmemory_mb, address=address, password=secrets.token_hex(16)
        )

    def gpus(self, role: str) -> int:
        """GPUs of a process, of train on each of its nodes: as given, else one a rank where there are any."""
        if (given := self.gpus_given.get(role)) is not None:
            return given
        device = self.sections.get(role, {}).get("device", self.sections.get("common", {}).get("device"))
        return self.width(role) if device != "cpu" and self.component(role).gpus_per_node else 0

    def width(self, role: str) -> int:
        """How many GPUs a process of a role computes on, where it computes on GPUs."""
        settings = self.sections.get(role, {})
        if role == "train":
            return int(settings.get("nproc", 1))
        if role == "verifier" or settings.get("engine") in ELSEWHERE:
            return 0
        return int(settings.get("tensor_parallel_size", 1))

    def argv_of(self, role: str, argv: Sequence[str]) -> list[str]:
        """A service as a step of one task."""
        place = self.component(role)
        return [
            *self._srun(place, nodes=1, cpus=self._cpus(role, place.cpus // max(1, self._steps_in(role)))),
            *self._gpu_option(role),
            *_inside(argv),
        ]

    def _gpu_option(self, role: str) -> list[str]:
        """Of a step. Without, or with --gpus-per-task, it takes all of the component's, and other steps wait for it."""
        gpus = self.gpus(role)
        return [f"--gpus-per-node={gpus}"] if gpus or self.component(role).gpus_per_node else []

    def trainer_argv(self, nproc: int, arguments: Sequence[str]) -> list[str]:
        """torchrun on every node of the trainer's component."""
        place = self.component("train")
        share = place.cpus_per_node if len(self.components) > 1 else place.cpus_per_node // self._steps_in("train")
        launcher = command(nproc, arguments, max_restarts=0)
        if place.nodes > 1:
            where = ["--nnodes", str(place.nodes), "--rdzv-backend", "c10d"]
            where += ["--rdzv-endpoint", f"{self._first_node(place)}:{free_port()}"]
            where += [
                "--rdzv-id",
                f"{self.environment['SLURM_JOB_ID']}-{self.environment.get('SLURM_RESTART_COUNT', 0)}",
            ]
            at = launcher.index("--standalone")
            launcher[at : at + 1] = where
        return [
            *self._srun(place, nodes=place.nodes, cpus=self._cpus("train", share)),
            *self._gpu_option("train"),
            *_inside(launcher),
        ]

    def component(self, role: str) -> Component:
        """Where a role's steps run."""
        return self.components[self.where[role] if len(self.components) > 1 else 0]

    def _steps_in(self, role: str) -> int:
        """How many steps share the component of a role."""
        counts = {"verifier": 1, "teacher": 1, "sampler": self.up.samplers, "train": 1}
        if len(self.components) == 1:
            return sum(counts.values())
        return sum(count for name, count in counts.items() if self.where[name] == self.where[role])

    def _cpus(self, role: str, share: int) -> int:
        return self.cpus.get(role, 0) or max(1, share)

    @staticmethod
    def _srun(place: Component, *, nodes: int, cpus: int) -> list[str]:
        count = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}"]
        return ["srun", *place.option, *count, "--exact", "--unbuffered", "--kill-on-bad-exit=1", "--mpi=none"]

    def _first_node(self, place: Component) -> str:
        """The address of the component's first node, as Slurm knows it."""
        suffix = place.option[0].replace("--het-group=", "_HET_GROUP_") if place.option else ""
        names = self.environment[f"SLURM_JOB_NODELIST{suffix}"]
        first = _told("show", "hostnames", names).split()[0]
        found = re.search(r"NodeAddr=(\S+)", _told("-o", "show", "node", first))
        if found is None:
            raise ConfigError(f"`scontrol show node {first}` names no address")
        return found[1]


def check_gpus(machine: SlurmMachine) -> None:
    """Steps that would be refused, or wait for each other's GPUs for ever.

    Raises:
        ConfigError: a process computes on more GPUs than it is given, or is given more than there are.
    """
    for role in ("teacher", "sampler", "train"):
        width, given, have = machine.width(role), machine.gpus(role), machine.component(role).gpus_per_node
        if not given or machine.sections.get(role, {}).get("device") == "cpu":
            continue
        setting = f"{role}.nproc" if role == "train" else f"{role}.tensor_parallel_size"
        if given < width:
            raise ConfigError(f"{setting}={width}, and up.slurm.gpus.{role}={given}: each rank needs a GPU of its own")
        if have and given > have:
            raise ConfigError(
                f"{role} takes {given} GPUs of one node ({setting}={width}), and the job has {have} on each of its "
                f"nodes: submit with --gpus-per-node={given} in its component (docs/slurm.md), or lower {setting}"
            )
    place, each, many = machine.component("sampler"), machine.gpus("sampler"), machine.up.samplers
    room = place.nodes * (place.gpus_per_node // max(1, each))
    if each and place.gpus_per_node and many > room:
        raise ConfigError(
            f"up.samplers={many} with GPUs: {each} each, and the samplers' component has room for {room}: submit with "
            "more nodes there, or lower up.samplers"
        )
    steps = {"teacher": 1, "sampler": machine.up.samplers, "train": machine.component("train").nodes}
    for place in machine.components:
        taken = {role: count * machine.gpus(role) for role, count in steps.items() if machine.component(role) is place}
        there = place.nodes * place.gpus_per_node
        if there and sum(taken.values()) > there:
            wanted = ", ".join(f"{role} {count}" for role, count in taken.items())
            raise ConfigError(
                f"the steps of one component take {sum(taken.values())} GPUs ({wanted}), and it has {there}: "
                "submit with more (--gpus-per-node, --nodes), or lower up.samplers, nproc or tensor_parallel_size"
            )


def _inside(argv: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "rgopd.cli.slurm_step", *argv]


def _told(*arguments: str) -> str:
    """What scontrol says; ConfigError with its reason."""
    said = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=False)
    if said.returncode != 0 or not said.stdout.strip():
        raise ConfigError(f"`scontrol {' '.join(arguments)}` failed: {(said.stdout + said.stderr).strip()}")
    return said.stdout
