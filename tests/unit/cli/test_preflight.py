"""Likely mistakes end in at most three lines that say what to do, before anything is started."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rgopd.cli import plan as plan_module
from rgopd.cli import preflight
from tests.unit.cli.conftest import Fails, changed, rows


def test_the_config_itself_has_no_fault(config: dict[str, Any]) -> None:
    from rgopd.cli.checked import check_sections

    preflight.preflight(check_sections(config))


def test_1_a_misspelt_key(config: dict[str, Any], fails: Fails) -> None:
    assert "unknown key 'stesp'; did you mean 'steps'?" in fails("up", changed(config, train={"stesp": 3}))
    assert "section train: unknown key 'optim.learning_rate'" in fails(
        "up", changed(config, train={"optim": {"learning_rate": 1}})
    )
    assert "unknown section 'trian'; did you mean 'train'" in fails("up", {"trian": {}})
    assert "did you mean 'rlad'" in fails("up", config, "--set", "objective=rlda")


def test_2_a_wrong_path(config: dict[str, Any], fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "config file gone.yaml" in fails("up", "-c", "gone.yaml")
    assert "/gone/model does not exist" in fails("up", changed(config, teacher={"model": "/gone/model"}))
    assert "gone.jsonl does not exist" in fails("up", changed(config, train={"dataset": "gone.jsonl"}))
    assert "holds no config.json" in fails("up", changed(config, teacher={"model": str(tmp_path)}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    text = fails("up", changed(config, teacher={"model": "models/teacher"}))
    assert "teacher.model: models/teacher is no folder here" in text


def test_3_another_tokenizer(config: dict[str, Any], fails: Fails, tmp_path: Path, teacher_folder: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher_folder, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    a, b = list(vocabulary)[20:22]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    text = fails("up", changed(config, teacher={"model": str(other), "align": "off"}))
    assert "tokenizers differ: 2 tokens have other ids" in text
    assert "set teacher.align=auto" in text
    for train, reason in (
        ({"objective": "jsd"}, "objective 'jsd'"),
        ({"distillation": {"support": "teacher"}}, "distillation.support='teacher'"),
        ({"distillation": {"tail": "none"}}, "distillation.tail='none'"),
    ):
        text = fails("up", changed(config, teacher={"model": str(other)}, train={**config["train"], **train}))
        assert f"tokenizers differ, and {reason}" in text
    with_vocabulary = {"model": str(other), "shared_vocab_size": 100}
    assert "leave it out here" in fails("up", changed(config, teacher=with_vocabulary))


def test_4_a_missing_column_and_other_rows(config: dict[str, Any], fails: Fails) -> None:
    rows(config, {"question": "1+1=", "answer": "2"}, {"question": "1+2=", "answer": "3"})
    text = fails("up", config)
    assert "2 of 2 rows cannot be used: rows 0-1 lacks the column 'kind'" in text
    assert "dataset.kind" in text
    rows(config, {"prompt": "x", "kind": "math"}, "{broken", {"prompt": 3, "kind": "math", "reference": "1"})
    text = fails("up", config)
    assert "line 2 is not JSON" in text
    assert "row 0: kind 'math' needs the column 'reference'" in text
    rows(config)
    assert "no usable rows" in fails("up", config)


def test_5_a_busy_port(config: dict[str, Any], fails: Fails) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = fails("up", changed(config, teacher={"port": port}))
    assert f"teacher.port={port} on 127.0.0.1 cannot be had" in text
    assert "teacher.port=0" in text
    same = changed(config, teacher={"port": 47001}, verifier={"port": 47001})
    assert "verifier.port=47001 is also the port of teacher" in fails("up", same)
    many = changed(config, sampler={"port": 47001}, up={"samplers": 2})
    assert "each of several samplers" in fails("up", many)


def test_6_no_gpu_for_vllm(config: dict[str, Any], fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = changed(config, teacher={"engine": "vllm"})
    assert "vLLM is not installed: pip install 'rgopd[vllm]'" in fails("up", wanted)
    real = preflight.importlib.util.find_spec
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: name == "vllm" or real(name))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(preflight, "_vllm_for_cpu", lambda: False)
    text = fails("up", wanted)
    assert "torch sees no GPU" in text
    assert "--set teacher.engine=transformers" in text
    monkeypatch.undo()
    if not __import__("torch").cuda.is_available():
        assert "train.device=cuda: torch sees no GPU" in fails("up", changed(config, train={"device": "gpu"}))


def test_7_too_little_memory(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump(config))
    assert plan_module.run_plan([file], [], "cpu", 0.9, 0, None) == 1
    assert "does not fit on this machine; what would help" in capsys.readouterr().out
    monkeypatch.setattr(preflight, "total_memory", lambda: 256 << 20)
    from rgopd.cli.checked import check_sections

    with pytest.raises(preflight.ConfigError, match=r"needs about .* GiB of memory, and this machine has .*rgopd plan"):
        preflight.preflight(check_sections(config))


def test_8_an_unknown_kind(config: dict[str, Any], fails: Fails) -> None:
    rows(config, {"prompt": "x", "kind": "maths", "reference": "1"}, {"prompt": "y", "kind": "exact"})
    text = fails("up", config)
    assert "row 0: unknown kind 'maths'; did you mean 'math'?" in text
    assert "row 1: " in text
    assert "reference" in text
    rows(config, {"prompt": "x", "kind": "python", "grader": "mine"})
    assert "the setting python_graders is empty" in fails("up", config)
    assert "python_graders.mine: gone.py" in fails(
        "up", changed(config, verifier={"python_graders": {"mine": "gone.py"}})
    )


def test_9_broken_yaml(fails: Fails, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    for text, message in (
        ("train:\n  steps: 3\n student: x\n", "line 3"),
        ("train:\n\tsteps: 3\n", "line 2, column 1: .*indent with spaces"),
        ("train: {steps: 3\n", "is not YAML: line"),
        ("train:\n  student: a: b\n", "line 2.*quotes around text that holds a colon"),
        ("train:\n  steps: 3\n  steps: 4\n", r"train\.steps is given on line 2 and on line 3; keep one"),
        ("- train\n", "must hold a mapping of settings, not a list"),
        ("steps: 3\n", "holds one service's settings"),
    ):
        file.write_text(text)
        told = fails("up", "-c", file)
        assert __import__("re").search(message, told), told


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("torch", ["train", "--set", "student=x", "--set", "dataset=y"], "trainer"),
        ("peft", ["up", "--set", "lora=true"], "peft"),
        ("tensorboardX", ["up", "--set", "monitor=tensorboard"], "tensorboard"),
        ("math_verify", ["up"], "verifier"),
    ],
)
def test_10_a_missing_extra(
    config: dict[str, Any], fails: Fails, monkeypatch: pytest.MonkeyPatch, module: str, arguments: list[str], extra: str
) -> None:
    import importlib.util

    for name in [
        n for n in sys.modules if n.startswith(("rgopd.trainer.config", "rgopd.cli.up", "rgopd.cli.progress"))
    ]:
        if module in ("torch", "rich"):
            monkeypatch.delitem(sys.modules, name)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == module else real(name, *more))
    monkeypatch.setitem(sys.modules, module, None)
    given = ["up", config, *arguments[1:]] if arguments[0] == "up" else arguments
    text = fails(*given)
    assert f"pip install 'rgopd[{extra}]'" in text


def test_a_domain_that_no_row_is_of(config: dict[str, Any], fails: Fails) -> None:
    text = fails("up", changed(config, train={"sampling": {"domains": {"maths": {"temperature": 0.6}}}}))
    assert "sampling.domains: no prompt is of the domain 'maths'; did you mean 'math'?; the data has math" in text


def test_several_problems_are_told_at_once(config: dict[str, Any], fails: Fails) -> None:
    text = fails("up", changed(config, train={"stesp": 1, "seed": -1, "optim": {"lr": "fast"}}))
    for part in ("stesp", "seed", "optim.lr"):
        assert part in text


def test_a_completions_server_as_teacher_wants_a_loss_on_sampled_tokens(
    fails: Fails, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` and `doctor` say each thing that cannot work before anything starts."""
    teacher = config["teacher"] | {"engine": "openai", "server_url": "http://127.0.0.1:9"}
    error = fails("up", {**config, "teacher": teacher})
    assert "train.distillation.support=student asks for those of 50 ids: set train.distillation.support=none" in error
    train = config["train"] | {"distillation": {"support": "none"}}
    warm = train | {"sampling": train["sampling"] | {"temperature": 0.7}}
    assert "temperature is 0.7: set it to 1" in fails("up", {**config, "teacher": teacher, "train": warm})
    keyed = teacher | {"server_key_env": "NOBODY_SETS_THIS"}
    assert "NOBODY_SETS_THIS is not set" in fails("up", {**config, "teacher": keyed, "train": train})
    homeless = {**teacher, "server_url": ""}
    assert "give the server's base URL" in fails("up", {**config, "teacher": homeless, "train": train})
    jsd = train | {"objective": "jsd"}
    error = fails("up", {**config, "teacher": teacher, "train": jsd})
    assert "objective 'jsd' cannot use distillation.support='none'; it takes ['student', 'teacher']" in error


def test_environments_that_cannot_work(
    config: dict[str, Any], fails: Fails, tmp_path: Path, teacher_folder: Path
) -> None:
    row = {"prompt": "1+1=", "kind": "math", "reference": "2"}
    rows(config, {**row, "environment": "calculater"}, row)
    path = tmp_path / "calculator.py"
    path.write_text("class Calculator:\n    def reset(self): ...\n")
    text = fails("up", changed(config, verifier={"environments": {"calculator": str(path)}}))
    assert "environment 'calculater', which the verifier does not have" in text
    assert "did you mean 'calculator'" in text
    path.write_text("class Calculator: ...\n")
    rows(config, {**row, "environment": "calculator"}, row)
    text = fails("up", changed(config, verifier={"environments": {"calculator": str(path)}}))
    assert "must define a class with reset" in text
    rows(config, {**row, "environment": "feedback"}, row)
    other = tmp_path / "other"
    shutil.copytree(teacher_folder, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    a, b = list(vocabulary)[20:22]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    rewrites = "{% for m in messages[-1:] %}{{ m.content }}{% endfor %}"
    (other / "chat_template.jinja").write_text(rewrites)
    text = fails("up", changed(config, teacher={"model": str(other)}))
    assert "the teacher's chat template is not prefix-stable" in text, "it reads conversations under its own"
    student = tmp_path / "rewrites"
    shutil.copytree(config["train"]["student"], student)
    (student / "chat_template.jinja").write_text(rewrites)
    here = {"student": str(student)}
    assert "the student's chat template is not prefix-stable" in fails("up", changed(config, train=here, sampler=here))


def test_further_teachers_are_checked_as_the_first_is(fails: Fails, config: dict[str, Any]) -> None:
    train = {**config["train"], "dataset": {**config["train"]["dataset"], "teachers": {"*": "coder"}}}
    named = {**config, "train": train}
    assert "set up.teachers.coder or" in fails("up", named)
    gone = {**named, "up": {"teachers": {"coder": {"model": "/nowhere"}}}}
    assert "up.teachers.coder: model: /nowhere does not exist" in fails("up", gone)
    assert "a teacher's name is 1 to 64 letters" in fails("up", {**named, "up": {"teachers": {"co-der": {}}}})
    misspelt = {**named, "up": {"teachers": {"coder": {"modl": "x"}}}}
    assert "up.teachers.coder" in fails("up", misspelt)


def test_a_self_teacher_beside_published_adapters_is_refused(fails: Fails, config: dict[str, Any]) -> None:
    teacher = config["teacher"] | {"source": "ema"}
    train = config["train"] | {"lora": {"r": 4, "publish": "adapter"}}
    error = fails("up", {**config, "teacher": teacher, "train": train})
    assert "set train.lora.publish=merged" in error


def test_a_self_teacher_that_cannot_follow_is_refused(
    fails: Fails, config: dict[str, Any], teacher_folder: Path, student_folder: Path
) -> None:
    ema = {"source": "ema"}
    error = fails("up", changed(config, teacher=ema))
    assert f"set teacher.model={student_folder}" in error
    assert "is of another architecture (" in error
    served = {"model": str(student_folder), "source": "trust-region", "engine": "vllm-server", "server_url": "http://x"}
    assert "needs teacher.engine=transformers" in fails("up", changed(config, teacher=served))
    further = {**changed(config, teacher={"model": str(student_folder)}), "up": {"teachers": {"slow": {**ema}}}}
    further["up"]["teachers"]["slow"]["model"] = str(teacher_folder)
    assert "is of another architecture (" in fails("up", further)
