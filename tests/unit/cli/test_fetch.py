"""`rgopd fetch` through the real huggingface_hub, against a server that speaks the hub's API."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, hf_api

from rgopd.cli.fetch import run_fetch
from rgopd.common.errors import ConfigError
from rgopd.common.hub import Repo, bytes_here, size_of, wanted_files
from rgopd.trainer.prompts.datasets.source import open_rows
from tests.unit.cli.hub_server import COMMIT, Hub

WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    model = {
        path.name: path.read_bytes() for path in student_folder.iterdir() if path.is_file() and path.stat().st_size
    }
    big = {**model, WEIGHTS: random.Random(0).randbytes(3_000_000), "pytorch_model.bin": b"x" * 100_000}
    big |= {"original/consolidated.00.pth": b"y" * 100_000, "README.md": b"# hello"}
    rows = b'{"prompt": "1+1=", "kind": "math", "reference": "2"}\n' * 3
    repos = {
        "models/org/teacher": big,
        "models/org/student": model,
        "datasets/org/sums": {"main/train.jsonl": rows, "main/test.jsonl": rows, "README.md": b"# sums"},
    }
    with Hub(repos) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.setattr(constants, name, str(tmp_path / "hub"), raising=False)
        monkeypatch.setattr("rgopd.cli.fetch_files.time.sleep", lambda _: None)
        monkeypatch.setattr("rgopd.cli.fetch.RESUMED", 1_000_000)
        monkeypatch.setattr("rgopd.cli.fetch_files._CHUNK", 1 << 16)
        yield hub


def sections(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "teacher": {"model": "org/teacher"},
        "sampler": {"student": "org/student"},
        "train": {"student": "org/student", "dataset": {"path": "org/sums"}},
    }
    return {name: {**section, **changes.get(name, {})} for name, section in given.items()}


def fetch(given: dict[str, Any] | None = None, **options: bool) -> str:
    said: list[str] = []
    run_fetch(sections() if given is None else given, said.append, **options)
    return "\n".join(said)


def test_sizes_first_then_the_files_that_are_loaded_and_verified(hub: Hub, tmp_path: Path) -> None:
    dry = fetch(dry_run=True)
    assert "org/teacher  3.0 MB in" in dry
    assert "0.0 kB here already" in dry
    assert not hub.gets
    assert f"into {tmp_path / 'hub'}" in dry
    said = fetch()
    assert "files verified at c0ffee" in said
    assert not set(hub.gets) & {"pytorch_model.bin", "original/consolidated.00.pth", "README.md", "main/test.jsonl"}
    loaded = ["*.safetensors", "*.json"]  # as vLLM asks for it
    found = huggingface_hub.snapshot_download("org/teacher", local_files_only=True, allow_patterns=loaded)
    assert (Path(found) / WEIGHTS).read_bytes() == hub.repos["models/org/teacher"][WEIGHTS]
    hub.gets.clear()
    assert "to fetch: 0.0 kB" in fetch()
    assert not hub.gets, "what is here is not fetched again"
    assert size_of(Repo("org/teacher")) == bytes_here(Repo("org/teacher"))


def test_a_connection_that_breaks_is_gone_on_with(hub: Hub) -> None:
    hub.cuts[WEIGHTS] = 9
    said = fetch(sections(train={"student": "org/teacher"}, sampler={"student": "org/teacher"}))
    assert "verified" in said
    assert any(entry.startswith(WEIGHTS) for entry in hub.ranges), "from where it broke"


def test_an_earlier_attempt_is_gone_on_with(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgopd.cli.fetch.ATTEMPTS", 1)
    hub.cuts[WEIGHTS] = 10_000
    with pytest.raises(ConfigError, match="what is here already stays"):
        fetch()
    here = bytes_here(Repo("org/teacher"))
    assert here > 1_000_000
    hub.cuts.clear()
    said = fetch(dry_run=True)
    assert "org/teacher  3.0 MB" in said
    assert " 0.0 kB here already" not in said.splitlines()[0]
    assert "verified" in fetch()


def test_a_damaged_file_is_fetched_again_and_then_refused(hub: Hub) -> None:
    hub.rot[WEIGHTS] = 1
    hub.rot["config.json"] = 1
    said = fetch(sections(sampler={"student": "org/teacher"}, train={"student": "org/teacher"}))
    assert "damaged; fetching again" in said
    assert "verified" in said
    shutil.rmtree(Repo("org/teacher").folder)
    hub.rot[WEIGHTS] = 10_000
    with pytest.raises(ConfigError, match="damaged twice"):
        fetch()


def test_a_disk_that_is_too_small_is_told_before_anything_comes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr("rgopd.cli.fetch.shutil.disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match=r"4\.\d MB are to be fetched .* 1\.0 MB free.*HF_HOME"):
        fetch()
    assert not hub.gets


def test_what_the_hub_refuses_is_told_in_one_line(hub: Hub) -> None:
    with pytest.raises(ConfigError, match=r"org/misspelt: the hub has no such model or revision"):
        fetch(sections(teacher={"model": "org/misspelt"}))
    hub.gated.add("org/teacher")
    with pytest.raises(ConfigError, match="log in with `hf auth login`"):
        fetch()
    hub.__exit__()
    with pytest.raises(ConfigError, match="the hub cannot be reached"):
        fetch(sections(teacher={"model": "org/student"}))


def test_local_folders_need_nothing(student_folder: Path, tmp_path: Path) -> None:
    local = str(student_folder)
    (tmp_path / "rows.jsonl").write_text("{}")
    given = sections(
        teacher={"model": local},
        sampler={"student": local},
        train={"student": local, "dataset": {"path": str(tmp_path / "rows.jsonl")}},
    )
    assert fetch(given) == "nothing to fetch: the config names local folders and files alone"


def test_offline_the_cache_alone_is_looked_at(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="org/teacher is not in the cache, and HF_HUB_OFFLINE is set"):
        fetch()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fetch()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert fetch().count("in the cache") == 3
    assert len(list(open_rows("org/sums"))) == 3, "the run finds the dataset too"
    assert not hub.asked


def test_as_a_command_with_hf_endpoint_and_hf_home(hub: Hub, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "teacher: {model: org/student}\nsampler: {student: org/student}\n"
        "train: {student: org/student, dataset: {path: org/sums}}\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    argv = [sys.executable, "-m", "rgopd.cli.main", "fetch", "-c", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout
    assert (tmp_path / "home" / "hub" / "models--org--student" / "snapshots" / COMMIT / "config.json").exists()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["a.safetensors", "pytorch_model.bin", "config.json"], {"a.safetensors", "config.json"}),
        (["pytorch_model-1.bin", "training_args.bin", "config.json"], {"pytorch_model-1.bin", "config.json"}),
        (["x.gguf", "config.json", "tokenizer.model", "onnx/model.onnx"], {"config.json", "tokenizer.model"}),
    ],
)
def test_which_files_a_model_needs(names: list[str], chosen: set[str]) -> None:
    assert set(wanted_files(names)) == chosen
