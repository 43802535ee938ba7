"""A small run as a cast of real processes, each of which can be killed, stopped and cut off."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from rgopd.common.children import PERMANENT
from rgopd.common.embedded import EmbeddedValkey, free_port
from rgopd.trainer.demo.task import generate
from tests.chaos.proxy import Proxy
from tests.object_server import CREDENTIALS

MODELS = Path(str(files("rgopd.trainer.demo") / "checkpoints"))


class Nursery:
    """The forking parent of all roles; see nursery.py."""

    def __init__(self, repository: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.chaos.nursery"],
            cwd=repository,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        self.pids: dict[str, int] = {}
        self.codes: dict[int, int] = {}
        self._news = threading.Condition()
        self._ready = False
        threading.Thread(target=self._listen, daemon=True).start()
        with self._news:
            self._news.wait_for(lambda: self._ready or self.process.poll() is not None, 600)
            assert self._ready, "the nursery did not come up"

    def fork(self, name: str, argv: list[str], env: dict[str, str], log: Path) -> int:
        """Start a role; returns its pid."""
        with self._news:
            self.pids.pop(name, None)
            assert self.process.stdin is not None
            job = {"name": name, "argv": argv, "env": env, "log": str(log)}
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()
            assert self._news.wait_for(lambda: name in self.pids, 300)
            return self.pids[name]

    def close(self) -> None:
        """Take everything down."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            with self._news:
                if "name" in message:
                    self.pids[message["name"]] = message["pid"]
                elif "code" in message:
                    self.codes[message["pid"]] = message["code"]
                else:
                    self._ready = True
                self._news.notify_all()
        with self._news:  # it ended
            self._news.notify_all()


def sections(folder: Path, redis_url: str, *, steps: int, ranks: int, samplers: int, **train: Any) -> dict[str, Any]:
    """The smallest run that has everything: math, code, conversations, evaluation, checkpoints, two ranks."""
    settings: dict[str, Any] = {
        "student": str(MODELS / "student"),
        "output_dir": str(folder),
        "nproc": ranks,
        "threads": 1,
        "steps": steps,
        "seed": 7,
        "gate": "paper",
        "distillation": {"k": 8},
        "sampling": {"prompts_per_step": 4, "n": 3, "max_new_tokens": 32, "groups_per_request": 2},
        "turns": {"max_turns": 3, "max_total_tokens": 90, "max_observation_tokens": 8},
        "optim": {"lr": 1e-3, "warmup_steps": 2},
        "batch": {"micro_batch_rollouts": 4},
        "checkpoint": {"every": 2, "keep": 2},
        "dataset": {"path": str(folder / "data" / "train.jsonl")},
        "eval": {"dataset": {"path": str(folder / "data" / "eval.jsonl")}, "n": 4},
        "fault": {"wait_for_services_s": 90.0},
    }
    for key, value in train.items():
        settings[key] = {**settings[key], **value} if isinstance(settings.get(key), dict) else value
    return {
        "common": {"redis_url": redis_url, "run_id": "chaos", "lease_ms": 2000},
        "teacher": {"model": str(MODELS / "teacher"), "threads": 1, "deterministic": True},
        "verifier": {"workers": 1, "math_workers": 1},
        "sampler": {"student": str(MODELS / "student"), "threads": 1},
        "train": settings,
        "up": {"samplers": samplers},
    }


def write_data(folder: Path) -> None:
    """Prompts out of the demo's task; every other one is a conversation with the check's own feedback."""
    (folder / "data").mkdir(parents=True)
    for name, rows in (("train", generate(1, 200, "train")), ("eval", generate(0, 20, "eval"))):
        for row in rows[::2]:
            row["environment"] = {"name": "feedback", "args": {"message": "no; "}}
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@dataclass
class Result:
    """What two lives of a run must agree on, byte by byte."""

    weights: str
    ledger: str
    metrics: str


def result(folder: Path) -> Result:
    """Read it."""
    weights = hashlib.sha256((folder / "student" / "model.safetensors").read_bytes()).hexdigest()
    return Result(weights, (folder / "ledger.jsonl").read_text(), (folder / "metrics.jsonl").read_text())


@dataclass
class Cast:
    """Starts the roles, starts them again when they die, ends when the trainer is done."""

    nursery: Nursery
    folder: Path
    ranks: int = 2
    samplers: int = 2
    steps: int = 6
    train: dict[str, Any] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)
    deaths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        write_data(self.folder)
        self.valkey = EmbeddedValkey(self.folder / "redis").start()
        self.proxy = Proxy(self.valkey.port)
        self.config = self.folder / "up.yaml"
        self.running: dict[str, int] = {}
        self.finished: set[str] = set()
        self.codes: list[int] = []
        self.write_config()

    def write_config(self, **train: Any) -> None:
        """What processes that start from now on read."""
        merged = {**self.train, **train}
        made = sections(
            self.folder, self.proxy.url, steps=self.steps, ranks=self.ranks, samplers=self.samplers, **merged
        )
        made["common"].update(self.common)
        self.config.write_text(yaml.safe_dump(made))

    @property
    def services(self) -> list[str]:
        """Everything but the trainer."""
        return ["teacher", "verifier", *(f"sampler-{i}" for i in range(self.samplers))]

    @property
    def rank_names(self) -> list[str]:
        """The trainer's processes."""
        return [f"rank-{i}" for i in range(self.ranks)]

    def start(self) -> None:
        """All roles."""
        for name in self.services:
            self.start_role(name)
        self.start_trainer()

    def start_role(self, name: str, **env: str) -> None:
        """One role; its log is appended to."""
        role = "train" if name.startswith("rank-") else name.partition("-")[0]
        argv = [role, "--config", str(self.config)]
        env = {**CREDENTIALS, **env}
        self.running[name] = self.nursery.fork(name, argv, env, self.log(name))

    def start_trainer(self) -> None:
        """All ranks, as torchrun would."""
        port = str(free_port())
        self.finished.clear()
        for rank, name in enumerate(self.rank_names):
            self.start_role(name, RANK=str(rank), WORLD_SIZE=str(self.ranks), MASTER_PORT=port, MASTER_ADDR="127.0.0.1")

    def log(self, name: str) -> Path:
        """A role's log."""
        return self.folder / f"{name}.log"

    def signal(self, name: str, number: int) -> bool:
        """Send a signal to a role that runs."""
        pid = self.running.get(name)
        if pid is None or pid in self.nursery.codes:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # dead, and the nursery is about to say so
            return False
        return True

    def code(self, name: str) -> int | None:
        """Exit code of a role, None while it runs."""
        return self.nursery.codes.get(self.running[name]) if name in self.running else None

    def tend(self, *, restart_trainer: bool = True) -> bool:
        """Start again what died; True when the trainer is done."""
        for name in self.services:
            if (code := self.code(name)) is not None:
                self.deaths.append(f"{name}:{code}")
                self.start_role(name)
        codes = [self.code(name) for name in self.rank_names]
        if all(code == 0 for code in codes):
            return True
        if any(code is not None for code in codes) and restart_trainer:
            self.codes += [code for code in codes if code is not None]
            bad = [code for code in codes if code not in (None, 0)]
            if bad or all(code is not None for code in codes):
                self.stop_trainer()
                self.deaths.append(f"trainer:{bad}")
                hopeless = sum(death.startswith("trainer:[1") for death in self.deaths) > 12 or PERMANENT in bad
                assert not hopeless, f"the trainer keeps failing\n{self.tails(12)}"
                self.start_trainer()
        return False

    def stop_trainer(self) -> None:
        """Kill what is left of the ranks."""
        for name in self.rank_names:
            self.signal(name, signal.SIGKILL)
        self.wait_for(lambda: all(self.code(n) is not None for n in self.rank_names), 200, "the ranks did not die")

    def run(self, timeout_s: float) -> None:
        """Until the trainer is done."""
        self.wait_for(self.tend, timeout_s, "the run did not end")

    def wait_for(self, condition: Any, timeout_s: float, why: str) -> None:
        """Wait, or fail with the logs' ends."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{why} within {timeout_s} s\n{self.tails()}"
            time.sleep(0.05)

    def steps_done(self) -> int:
        """Lines of the ledger."""
        ledger = self.folder / "ledger.jsonl"
        return len(ledger.read_text().splitlines()) if ledger.exists() else 0

    def restart_redis(self, *, empty: bool = False, pause_s: float = 0.3) -> None:
        """SIGKILL the server and start it again on the same port, with or without its file."""
        assert self.valkey.process is not None
        self.valkey.process.kill()
        self.valkey.process.wait()
        if empty:
            shutil.rmtree(self.folder / "redis" / "appendonlydir")
        time.sleep(pause_s)
        self.valkey.start()

    def tails(self, lines: int = 6) -> str:
        """The ends of all logs."""
        parts = [f"deaths: {self.deaths}"]
        for log in sorted(self.folder.glob("*.log")):
            parts += [f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(parts)[-12_000:]

    def close(self) -> None:
        """Take it down."""
        for name in [*self.rank_names, *self.services]:
            self.signal(name, signal.SIGCONT)
            self.signal(name, signal.SIGKILL)
        self.proxy.close()
        self.valkey.stop()
