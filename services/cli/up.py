"""`rgopd up`: every process of a run on one machine, supervised."""

from __future__ import annotations

import copy
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from rgopd.cli.alignment import name_lora_rank, name_student_tokenizer
from rgopd.cli.checked import check_sections
from rgopd.cli.devices import SHARE, Wanted, named, place, ranks, shares, visible
from rgopd.cli.display import Progress, RunSource
from rgopd.cli.page import Page
from rgopd.cli.places import check_gpus
from rgopd.cli.preflight import preflight
from rgopd.cli.processes import Child, ProcessFailed, Restarts, leaving_of
from rgopd.cli.readiness import Readiness, TrainerStart, repos_of
from rgopd.cli.sections import UpConfig, read_sections, up_config, write_sections
from rgopd.cli.stopping import Stopped, alone_in, raise_stopped
from rgopd.cli.teacher_server import unanswered_yet
from rgopd.cli.teachers import write_teachers
from rgopd.cli.torchrun import command
from rgopd.cli.train import OFF
from rgopd.common import fleeting
from rgopd.common.children import PAUSED, PERMANENT
from rgopd.common.connection import redact
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.errors import ConfigError
from rgopd.common.run_files import EventLog
from rgopd.common.settings import ConfigFiles
from rgopd.trainer.records.metrics import read_json_lines

PAGE_WAIT_S = 10.0
CHECKED = "Run folder"
"""How the first line begins that is printed once nothing of the settings stands against the run."""
RUN_FILE = "run.yaml"
"""The sections as they were given, before this machine's own additions: what `rgopd resume` reads."""


class Machine:
    """The processes of one run: services first, the trainer last; stopped in the opposite order."""

    child = Child

    def __init__(self, sections: dict[str, Any], folder: Path) -> None:
        self.sections = sections
        self.given = copy.deepcopy(sections)
        self.folder = folder
        self.up: UpConfig = up_config(sections)
        self.redis: EmbeddedValkey | None = None
        self.services: list[Child] = []
        self.trainer: Child | None = None
        self.trainer_start: TrainerStart | None = None
        self.page: Page | None = None
        self.urls: dict[str, str] = {}
        self.states: dict[str, str] = {}
        """Of processes that start, or died."""
        self.events = EventLog(folder, "up")
        self.placed = self._place()
        self.restarts: dict[str, Restarts] = defaultdict(lambda: Restarts(self.up.max_restarts))
        self.redis_started = 0.0

    def start(self, say: Callable[[str], None]) -> None:
        """Start all services, wait until each is ready, then start the trainer."""
        common = self.sections.setdefault("common", {})
        if not common.get("redis_url"):
            self.redis = self.make_redis().start()
            self.redis_started = time.monotonic()
            common["redis_url"] = self.redis.url
            say(f"Redis      {redact(self.redis.url)} (embedded Valkey)")
        nproc = self._ranks(say)
        name_student_tokenizer(self.sections)
        name_lora_rank(self.sections)
        write_sections(self.folder / RUN_FILE, self.given)  # only now: the server's lock keeps a second command out
        resolved = self.folder / "up.yaml"
        write_sections(resolved, self.sections)
        config = ["--config", str(resolved)]
        if self.up.watch:
            self.page = Page(self.folder, resolved, self.sections.get("watch", {}), say)
            self.page.start()
        further = write_teachers(self.sections, self.folder)
        names = ["teacher", *further, "verifier", *[f"sampler-{i}" for i in range(self.up.samplers)]]
        for name in names:
            role = name.partition("-")[0]
            own = ["--config", str(further[name])] if name in further else config
            argv = [sys.executable, "-m", "rgopd.cli.main", role, *own, *self._share(name)]
            child = self.child(name, self.argv_of(role, argv), self.folder / "logs", self._environment(name))
            child.start()
            self.states[name] = "loading"
            self.services.append(child)
        # Restarts are ours to count: torchrun's come on top only where nobody watches it.
        self.trainer = self.child(
            "trainer",
            self.trainer_argv(nproc, ["train", *config]),
            self.folder / "logs",
            self._environment("train"),
            self.up.stop_timeout_s,
            leaving=lambda: leaving_of(self.folder),
        )
        self.trainer_start = TrainerStart(
            self.trainer, self.folder, repos_of(self.sections, "train"), self.up.ready_timeout_s
        )
        # It loads while the services load: what it asks for waits in the streams.
        self.trainer.start()
        if self.page is not None:
            self.page.wait(PAGE_WAIT_S)
        Readiness(self.up.ready_timeout_s, self.states.__setitem__, say).wait(
            self.services,
            lambda name: repos_of(self.sections, name.partition("-")[0]),
            lambda child, url: self._is_ready(child, url, say),
            trainer=self.trainer,
            tick=self._tend_page,
        )

    def _is_ready(self, child: Child, url: str, say: Callable[[str], None]) -> None:
        self.urls[child.name] = url
        self.states.pop(child.name, None)
        self.events.add("ready", f"{child.name} is ready", process=child.name)
        say(f"{child.name:<10} {url}")

    def _place(self) -> dict[str, list[str]]:
        """GPUs by process, as `rgopd plan` counts them; empty where there are none and none are named."""
        import torch

        count = torch.cuda.device_count()
        if not count:
            return {name: gpus for name, gpus in place(self.up, self._wanted()).items() if named(self.up, _role(name))}
        placed = place(self.up, self._wanted(), count)
        check_gpus(self.up, placed, self._widths(), count)
        return placed

    def _ranks(self, say: Callable[[str], None]) -> int:
        """Trainer processes, no more than GPUs where there are any."""
        import torch

        train = self.sections.setdefault("train", {})
        gpus = self.placed.get("train", []) if torch.cuda.device_count() else []
        count, note = ranks(int(train.get("nproc", 1)), gpus, str(train.get("device", "auto")))
        if note:
            train["nproc"] = count
            say(note)
        return count

    def _widths(self) -> dict[str, int]:
        """How many GPUs a process is spread over where vLLM computes; transformers takes one."""
        engines = {"teacher": "transformers", "sampler": "auto"}
        own = {role: {"engine": engine, **self.sections.get(role, {})} for role, engine in engines.items()}
        return {r: int(o.get("tensor_parallel_size", 1)) for r, o in own.items() if o["engine"] in ("vllm", "auto")}

    def _wanted(self) -> Wanted:
        def width(role: str, key: str) -> int:
            return int(self.sections.get(role, {}).get(key, 1))

        teacher, sampler = (width(role, "tensor_parallel_size") for role in ("teacher", "sampler"))
        elsewhere = self.sections.get("teacher", {}).get("engine") in ("vllm-server", "openai")
        return Wanted(width("train", "nproc"), 0 if elsewhere else teacher, sampler, self.up.samplers)

    def _share(self, name: str) -> list[str]:
        """vLLM's part of a GPU that others compute on too, unless the settings say it."""
        section = self.sections.get(_role(name), {})
        if name not in self.placed or "gpu_memory_utilization" in section.get("vllm", {}):
            return []
        turns = bool({**self.sections.get("common", {}), **self.sections.get("train", {})}.get("colocated"))
        share = shares(self.placed, takes_turns=turns)[name]
        return [] if share == SHARE else ["--set", f"vllm.gpu_memory_utilization={share}"]

    def make_redis(self) -> EmbeddedValkey:
        """The server of a run that names none."""
        return EmbeddedValkey(self.folder / "redis", maxmemory_mb=self.up.maxmemory_mb)

    def argv_of(self, role: str, argv: Sequence[str]) -> list[str]:
        """How a service's command is started; `SlurmMachine` starts it elsewhere."""
        return list(argv)

    def trainer_argv(self, nproc: int, arguments: Sequence[str]) -> list[str]:
        """The same of the trainer's `nproc` ranks."""
        return command(nproc, arguments, max_restarts=0)

    def _environment(self, name: str) -> dict[str, str]:
        """torch's thread pool is sized before our settings are read, so the settings' number goes in here too."""
        role = _role(name)
        threads = self.sections.get(role, {}).get("threads")
        environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        environment[OFF] = "off"  # this process tells
        if gpus := self.placed.get(name):
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus) if named(self.up, role) else visible(gpus)
        return environment

    def watch(self, on_tick: Callable[[], None] = lambda: None) -> int:
        """Until the trainer is done or paused; what dies is started again. Returns the trainer's exit code.

        on_tick: called several times a second.

        Raises:
            ProcessFailed: a process died more than `up.max_restarts` times in a row, or the trainer says that trying
                again cannot help.
        """
        assert self.trainer is not None
        while True:
            on_tick()
            self._tend_redis()
            self._tend_page()
            for child in self.services:
                self._tend(child)
            code = self.trainer.poll()
            if code in (0, PAUSED):
                return code
            if code == PERMANENT:
                raise ProcessFailed(f"the trainer cannot go on:\n{self.trainer.tail()}")
            self._tend(self.trainer)
            if self.trainer_start is not None:
                self.trainer_start.look()
            time.sleep(0.2)

    def _tend_page(self) -> None:
        if self.page is not None:
            self.page.tend()

    def _tend(self, child: Child) -> None:
        """Start a child that died again, when its pause is over."""
        code = child.poll()
        if code is None:
            return
        restarts = self.restarts[child.name]
        if restarts.due is None:
            child.stop()  # what is left of its session
            self._tell_death(child.name, code)
            if not restarts.died(time.monotonic() - child.started):
                raise ProcessFailed(
                    f"{child.name} exited with {code}{_killed(code)}, {restarts.limit} restarts spent:\n{child.tail()}"
                )
        if restarts.ready():
            child.start()
            self._tell_restart(child.name, restarts)

    def _tell_death(self, name: str, code: int | None) -> None:
        why = f"was killed by signal {-code}" if code is not None and code < 0 else f"exited with {code}"
        self.states[name] = "died"
        self.events.add("died", f"{name} {why}", process=name, code=code)

    def _tell_restart(self, name: str, restarts: Restarts) -> None:
        self.states.pop(name, None)
        text = f"{name} is started again ({restarts.deaths} of {restarts.limit} in a row)"
        self.events.add("restarted", text, process=name, code=None)

    def _tend_redis(self) -> None:
        """The embedded server too: what it was told is in its append-only file, and its port stays the same."""
        if self.redis is None or self.redis.process is None or self.redis.process.poll() is None:
            return
        restarts = self.restarts["Redis"]
        if restarts.due is None:
            self._tell_death("Redis", self.redis.process.poll())
            if not restarts.died(time.monotonic() - self.redis_started):
                log = self.redis.data_dir / "valkey.log"
                raise ProcessFailed(f"Redis died {restarts.deaths} times; its log is {log}")
        if restarts.ready():
            self.redis_started = time.monotonic()
            self.redis.start()
            self._tell_restart("Redis", restarts)

    def stop(self) -> None:
        """Trainer first, then those who serve it (all at once), Redis last."""
        if self.trainer is not None:
            self.trainer.stop()
        for child in self.services:
            child.ask_to_stop()
        for child in self.services:
            child.stop()
        if self.page is not None:
            self.page.stop()
        if self.redis is not None:
            self.redis.stop()


def _role(name: str) -> str:
    """The section of a process."""
    return name.partition("-")[0]


def _killed(code: int) -> str:
    """SIGKILL from outside is nearly always the kernel, which had no memory left."""
    return " (killed: memory ran out? `rgopd plan` names what to turn down)" if code == -signal.SIGKILL else ""


def supervise(sections: dict[str, Any], folder: Path, slurm: bool = False) -> int:
    """Start, show progress, stop everything whatever happens. Returns an exit code."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in previous:
            signal.signal(number, raise_stopped)
        checked = check_sections(sections)
        slurm_machine = _slurm_machine(sections, folder) if slurm else None
        preflight(checked, here=not slurm)  # else the nodes that it runs on are others
        with alone_in(folder):
            return _supervised(slurm_machine or Machine(sections, folder), checked)
    finally:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # of an impatient second one, until this process ends
            for number, handler in previous.items():
                signal.signal(number, handler)


def _slurm_machine(sections: dict[str, Any], folder: Path) -> Machine:
    from rgopd.cli.slurm import SlurmMachine

    return SlurmMachine(sections, folder)


def _supervised(machine: Machine, checked: dict[str, Any]) -> int:
    folder, watch = machine.folder, checked["train"].watch
    progress = Progress(RunSource(folder, lambda: dict(machine.states)), watch.progress, watch.progress_s)
    stopped: Stopped | None = None
    try:
        progress.say(f"{CHECKED} {folder}")
        for line in unanswered_yet(checked):
            progress.say(line)
        with progress:
            machine.start(progress.say)
            return machine.watch()
    except Stopped as signalled:
        stopped = signalled
        when = "after the current step" if machine.trainer is not None else "before anything was trained"
        progress.say(f"Stopping {when}; `rgopd resume {folder}` goes on from there")
        machine.events.add("stopping", "asked to stop")
        if not (folder / RUN_FILE).exists():
            write_sections(folder / RUN_FILE, machine.given)  # so that it can be resumed
        return stopped.code
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
        machine.stop()
        if stopped is None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, raise_stopped)
        else:
            rows: list[Any] = fleeting.seen(lambda: read_json_lines(folder / "metrics.jsonl"), [])
            steps = sum(row.get("event") == "step" for row in rows)
            progress.say(f"Stopped by {stopped}: {steps} steps are done")


def run_resume(folder: Path, overrides: list[str], watch: bool = True) -> int:
    """`rgopd resume`: go on with the run of a folder, also on another machine that the folder was brought to.

    Raises:
        ConfigError: there is no run in it.
    """
    folder = folder.resolve()
    if not (folder / RUN_FILE).exists():
        raise ConfigError(f"{folder} holds no {RUN_FILE}: not the folder of a run that `rgopd up` or `demo` started")
    sections = read_sections([folder / RUN_FILE], overrides)
    before = str(sections.get("train", {}).get("output_dir", folder))
    moved = _rebase(sections, before, str(folder))
    moved.setdefault("train", {})["output_dir"] = str(folder)
    _without_page(moved, watch)
    code = supervise(moved, folder)
    if code == 0:
        text = f"`rgopd report {folder}` draws its curves and compares the student before and after"
        Console().print(text, highlight=False, soft_wrap=True)
    return code


def _rebase(value: Any, before: str, now: str) -> Any:
    """Paths into the old place of a run folder, in the new one."""
    if isinstance(value, dict):
        return {k: _rebase(v, before, now) for k, v in value.items()}
    if isinstance(value, list):
        return [_rebase(v, before, now) for v in value]
    if isinstance(value, str) and (value == before or value.startswith(before + "/")):
        return now + value[len(before) :]
    return value


def run_up(config: ConfigFiles, overrides: list[str], watch: bool = True, slurm: bool = False) -> int:
    """The command."""
    sections = read_sections(config, overrides)
    _without_page(sections, watch)
    folder = Path(sections.get("train", {}).get("output_dir", "runs/run"))
    return supervise(sections, folder, slurm)


def _without_page(sections: dict[str, Any], watch: bool) -> None:
    if not watch:
        sections.setdefault("up", {})["watch"] = False
