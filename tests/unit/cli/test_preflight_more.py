"""More mistakes of each kind: every one is told in at most three lines before anything is started."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from rgopd.cli import main as command
from tests.unit.cli.conftest import Fails, changed

GOOD = {"prompt": "1+1=", "kind": "math", "reference": "2"}


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"steps": "many"}, "steps: Input should be a valid integer, unable to parse"),
        ({"steps": -3}, "steps: Input should be greater than or equal to 0"),
        ({"steps": 2.5}, "steps: Input should be a valid integer"),
        ({"steps": {"a": 1}}, "steps: Input should be a valid integer"),
        ({"seed": True}, "seed: Input should be a valid integer"),
        ({"optim": {"lr": float("inf")}}, "optim.lr: Input should be a finite number"),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature: Input should be a finite number"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature: Input should be greater than 0"),
        ({"sampling": {"domains": {"math": {"temprature": 1}}}}, "did you mean 'temperature'?"),
        ({"sampling": {"domains": {"math": -1}}}, "sampling.domains.math.temperature: Input should be greater than 0"),
        ({"sampling": {"domains": ["math"]}}, "sampling.domains: Input should be a valid dictionary"),
        ({"dataset": {"mix": [{"path": "x", "wieght": 1}]}}, "'dataset.mix.0.wieght'; did you mean 'weight'?"),
        ({"dataset": {"streaming": True}}, "set steps"),
        ({"objective": {"name": "grpo", "options": {"clpi": 1}}}, "'clpi'; did you mean 'clip_low'?"),
        ({"student": ""}, "student is empty"),
        ({"student": "/etc/passwd"}, "is no Hugging Face folder"),
        ({"sampling": {"prompts_per_step": 64}}, "4 prompts do not fill one step of 64: lower"),
        ({"distillation": 257}, "train.distillation.k is 257 and teacher.max_k 256: raise max_k, or lower k"),
        ({"dataset": {"teachers": {"math": "big"}}}, "prompts are for the teacher 'big'"),
        ({"dataset": {"teachers": {"math": "a b"}}}, "teacher 'a b': use up to 64 letters"),
        ({"output_dir": "/etc/passwd"}, "is a file, not a folder: name another place"),
        ({"output_dir": "/etc/passwd/run"}, "is a file, not a folder: name another place"),
        ({"output_dir": "/proc/run"}, "/proc cannot be written to: name another place"),
        ({"policies_dir": "/etc/passwd/x"}, "train.policies_dir=/etc/passwd/x: /etc/passwd is a file, not a folder"),
        ({"redis_url": "localhost:6379"}, "redis_url 'localhost:6379' cannot be read"),
        ({"redis_url": "redis://127.0.0.1:1/0"}, "`rgopd up` brings its own"),
        ({"fsdp": {"replicas": 3}, "nproc": 2}, "does not divide 2 ranks: set train.fsdp.replicas to one of 1, 2"),
        ({"blob_url": "file:///tmp/nosuch/blobs"}, "there is no such folder here; make it on the shared file system"),
        ({"blob_url": "redis://127.0.0.1:1/0"}, "no Redis answers at redis://127.0.0.1:1/0"),
        ({"blob_url": "gs://bucket/x"}, "write redis://host:6379/0, file:///folder or s3://bucket/prefix"),
        ({"colocated": True}, "set common.colocated"),
        ({"shared_vocab_size": 20}, "set common.shared_vocab_size"),
        ({"device": "cuda"}, "train.device=cuda: torch sees"),
    ],
)
def test_settings(config: dict[str, Any], fails: Fails, train: dict[str, Any], told: str) -> None:
    merged = {k: {**config["train"][k], **v} if isinstance(config["train"].get(k), dict) and isinstance(v, dict) else v
              for k, v in train.items()}  # fmt: skip
    assert told in fails("up", changed(config, train=merged))


@pytest.mark.parametrize("device", ["tpu", "xpu", "mps", "cuda:9"])
def test_devices_that_are_not_here(config: dict[str, Any], fails: Fails, device: str) -> None:
    assert f"teacher.device={device}: " in fails("up", changed(config, teacher={"device": device}))


def test_a_sampler_of_another_model(config: dict[str, Any], fails: Fails, teacher_folder: Path) -> None:
    told = fails("up", changed(config, sampler={"student": str(teacher_folder)}))
    assert "is not the model that is trained" in told
    assert "hidden_size" in told


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("d.jsonl", b"", "has no usable rows"),
        ("d.jsonl", b'{"prompt": "a"}\n\n{"prompt": \n', "line 3 is not JSON"),
        ("d.jsonl", '{"prompt": "\u00e9"}\n'.encode("latin-1"), "is no UTF-8 text"),
        ("d.jsonl", b'{"prompt": null, "kind": "math", "reference": "1"}\n', "row 0 has null in the column 'prompt'"),
        ("d.jsonl", b'{"prompt": 5, "kind": "math", "reference": "1"}\n', "row 0: the prompt must be a string"),
        ("d.jsonl", json.dumps({**GOOD, "pass_rate": "often"}).encode(), "row 0: pass_rate must be a number from 0 to"),
        ("d.jsonl", json.dumps({**GOOD, "pass_rate": 7}).encode(), "row 0: pass_rate must be a number from 0 to 1"),
        ("d.json", b'[{"prompt": "a"}, 3]', "entry 1 must be a JSON object"),
        ("d.json", b'[{"prompt": "a"},', "is not JSON"),
        ("d.csv", b"prompt,reference\n", "use .jsonl, .parquet"),
        ("d.parquet", b"PAR1", "is no readable .parquet file"),
    ],
)
def test_data(config: dict[str, Any], fails: Fails, tmp_path: Path, name: str, data: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert told in fails("up", changed(config, train={"dataset": {"path": str(tmp_path / name)}}))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["upp"], "No such command 'upp'. Did you mean 'up'?"),
        (["up", "--confg", "x"], "No such option: --confg"),
        (["plan", "--memory-gb", "-3"], "Invalid value for '--memory-gb'"),
        (["data", "gsm8k"], "Missing option '--input'"),
        (["up", "-c", "."], "Is a directory"),
        (["resume", "nowhere"], "not the folder of a run"),
        (["plan", "--set", "train.student=/nowhere/x"], "name a config: --config my.yaml"),
    ],
)
def test_command_lines(fails: Fails, words: list[str], told: str) -> None:
    assert told in fails(*words)


def test_a_full_disk_and_a_missing_right_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(28, "No space left on device", "/d/x")
    denied = PermissionError(13, "Permission denied", "/d/x")
    for error, advice in ((full, "free some space there"), (denied, "give this user the right to it")):

        def fail(*_: Any, error: OSError = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(command, "app", fail)
        with pytest.raises(SystemExit):
            command.main()
        assert capsys.readouterr().err == f"rgopd: /d/x: {error.strerror}; {advice}, or name another place\n"


def test_a_config_with_rows_in_a_json_array_is_whole(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rgopd.cli.checked import check_sections
    from rgopd.cli.preflight import preflight

    monkeypatch.setattr(sys, "argv", ["rgopd"])
    (tmp_path / "d.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([GOOD, GOOD], indent=1).encode())
    preflight(check_sections(changed(config, train={"dataset": {"path": str(tmp_path / "d.json")}})))


def test_a_place_in_memory_that_holds_no_two_policies(
    config: dict[str, Any], fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rgopd.cli.places.fleeting.disk", lambda folder: (1 << 40, 0 if "shm" in str(folder) else 1 << 40)
    )
    told = fails("up", changed(config, train={**config["train"], "policies_dir": str(tmp_path / "shm")}))
    assert "0 MiB are free there, and a policy beside its successor needs 1: enlarge it (containers: shm_size)" in told


def test_a_place_in_memory_that_holds_an_earlier_life_is_enough(
    config: dict[str, Any], student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed leaves its versions there, and the next one replaces them."""
    from rgopd.cli.places import check_folder
    from rgopd.trainer.config import TrainConfig

    policies = tmp_path / "shm"
    for version in ("v1", "v2", "v3"):
        shutil.copytree(student_folder, policies / version)
    monkeypatch.setattr(
        "rgopd.cli.places.fleeting.disk", lambda folder: (1 << 40, 0 if "shm" in str(folder) else 1 << 40)
    )
    train = TrainConfig.model_validate({**config["train"], "policies_dir": str(policies), "output_dir": str(tmp_path)})
    check_folder(train)
    adapters = TrainConfig.model_validate(
        {**train.model_dump(), "policies_dir": str(tmp_path / "shm2"), "lora": {"r": 2, "publish": "adapter"}}
    )
    check_folder(adapters)
