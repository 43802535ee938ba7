"""Run folders as the trainer leaves them, made by its own writers where there is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from rgopd.common.http import ServiceState
from rgopd.watch.app import build_app
from rgopd.watch.hub import Hub
from rgopd.watch.runs import Runs


def step_row(step: int, **more: Any) -> dict[str, Any]:
    row = {"event": "step", "step": step, "loss": 1.0 / (step + 1), "kept_fraction": 0.5, "reward_mean": 0.25}
    return {**row, "verdicts": {"passed": 3, "failed": 1, "error": 0}, **more}


def write_rows(path: Path, rows: list[dict[str, Any]], mode: str = "w") -> None:
    with path.open(mode) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(name: str = "run", steps: int = 5, **config: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        write_rows(folder / "metrics.jsonl", [step_row(i) for i in range(steps)])
        clock = [{"event": "step", "step": i, "seconds": 2.0, "tokens_per_s": 100.0} for i in range(steps)]
        write_rows(folder / "timings.jsonl", clock)
        settings = {"steps": 10, "student": "/models/tiny", "objective": {"name": "rg_opd"}, "seed": 0, **config}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        return folder

    return make


@pytest.fixture
def open_page() -> Iterator[Callable[..., TestClient]]:
    clients = []

    def make(*places: Path, **options: Any) -> TestClient:
        app = build_app(Hub(Runs(places), poll_s=0.01), ServiceState(ready=True), CollectorRegistry(), **options)
        client = TestClient(app, base_url="http://localhost")
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()
