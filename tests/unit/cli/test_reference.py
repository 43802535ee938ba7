"""The settings' reference, schema and origins, from the classes that the services read."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from rgopd import __version__
from rgopd.cli.config_schema import LINE, as_json, schema, shipped
from rgopd.cli.config_show import show
from rgopd.cli.main import app
from rgopd.cli.reference import as_markdown, reference, search
from rgopd.cli.sections import read_sections, section_classes
from rgopd.common.errors import ConfigError

CONFIGS = sorted(shipped().parent.glob("*.yaml"))


def test_the_page_and_the_schema_are_what_the_classes_say(repository: Path) -> None:
    assert (repository / "docs" / "settings.md").read_text() == as_markdown(reference()), "run `make settings`"
    assert shipped().read_text() == as_json(), "run `make settings`"


def test_every_setting_has_a_meaning_and_a_first_version() -> None:
    rows = reference()
    assert not [row.name for row in rows if not row.meaning], "give these a description"
    assert not [row.name for row in rows if not row.since], "run `make settings`"
    assert len({row.name for row in rows}) == len(rows)
    by_name = {row.name: row for row in rows}
    assert by_name["train.optim.lr"].default == "5e-06"
    assert by_name["teacher.lease_ms"].unit == "ms"
    assert by_name["rlad.alpha"].section == "objective"
    assert by_name["verifier.toolchains.NAME.run"].type == "list of text"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_name_the_schema_and_fit_it(config: Path) -> None:
    assert config.read_text().startswith(LINE.format("schema.json"))
    jsonschema.validate(yaml.safe_load(config.read_text()), schema())


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("train: {objective: rlad, gate: released, distillation: 50, lora: true, dataset: rows.jsonl}", True),
        ("train: {objective: {name: jsd, options: {beta: 0.3}}, gate: {preset: released, delta: 0.1}}", True),
        ("train: {gate: off, eval: held.jsonl}", True),
        ("common: {run_id: x, shared_vocab_size: 5}\nup:", True),
        ("train: {objective: rlda}", False),
        ("train: {gate: papre}", False),
        ("train: {lora: {rank: 8}}", False),
        ("train: {optim: {learning_rate: 1}}", False),
        ("trian: {}", False),
        ("verifier: {workers: many}", False),
    ],
)
def test_editors_see_what_fits(text: str, fits: bool) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    assert validator.is_valid(yaml.safe_load(text)) == fits


def test_show_names_the_origin_of_each_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(
        "common:\n  run_id: mine\ntrain:\n  student: S\n  gate: released\n  dataset: rows.jsonl\n  optim:\n    lr: 1\n"
    )
    second.write_text("train:\n  optim: {weight_decay: 0.5}\nteacher: {token: secret}\n")
    monkeypatch.setenv("RGOPD_OPTIM__LR", "3")
    lines = list(show([first, second], ["train.gate.delta=0.25", "steps=7", "common.log_level=debug"]))
    values = {line.split(":")[0].strip(): line for line in lines[lines.index("train:") :]}

    def origin(key: str) -> str:
        return values[key].rpartition("  # ")[2]

    assert origin("run_id") == f"{first}:2"
    assert origin("path") == f"{first}:6"
    assert origin("granularity") == f"{first}:5"
    assert "granularity: token" in values["granularity"]
    assert origin("delta") == "--set train.gate.delta"
    assert "lr: 3.0" in values["lr"]
    assert origin("lr") == "env RGOPD_OPTIM__LR"
    assert origin("weight_decay") == f"{second}:2"
    assert origin("steps") == "--set train.steps"
    assert origin("log_level") == "--set common.log_level"
    assert origin("eps") == "default"
    assert not any("secret" in line for line in lines)
    assert yaml.safe_load("\n".join(lines))["train"]["gate"]["delta"] == 0.25


def test_show_marks_what_is_missing_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("train: {steps: 3}\n")
    lines = list(show([config], [], ["train"], changed=True))
    assert [line for line in lines if "MISSING" in line and "student" in line]
    assert not any("# default" in line for line in lines)
    config.write_text("train: {stepz: 3}\n")
    with pytest.raises(ConfigError, match="section train: .*unknown key 'stepz'; did you mean 'steps'"):
        list(show([config], []))
    with pytest.raises(ConfigError, match="unknown section 'trian'; did you mean 'train'"):
        list(show([], [], ["trian"]))


def test_show_resolves_as_the_services_do(tmp_path: Path) -> None:
    """The values shown are those that each service's own settings hold."""
    paper, overlay = shipped().parent / "qwen2.5-1.5b-ultrainteract.yaml", shipped().parent / "gate-released.yaml"
    shown = yaml.safe_load("\n".join(show([paper, overlay], ["lora=8"])))
    sections = read_sections([paper, overlay], ["lora=8"])
    for section, cls in section_classes().items():
        if section == "up":
            continue
        shared = {k: v for k, v in sections["common"].items() if k in cls.model_fields}
        settings = cls.from_mapping({**shared, **sections.get(section, {})})  # type: ignore[attr-defined]
        told = settings.model_dump(mode="json")
        assert shown[section]["run_id"] == told["run_id"]
        assert {k: v for k, v in shown[section].items() if k != "gate"} == {
            k: v for k, v in told.items() if k != "gate"
        }
    assert shown["train"]["lora"]["r"] == 8


def test_the_reference_is_searched_by_word() -> None:
    assert [row.name for row in search(["lora", "rslora"])] == ["train.lora.rslora"]
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        search(["temprature"])


def test_the_command(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["--version"]).output == f"rgopd {__version__}\n"
    assert "train.lora.r  (integer; default 16)" in run(app, ["config", "reference", "lora.r"]).output
    target = tmp_path / "schema.json"
    assert run(app, ["config", "schema", "-o", str(target)]).exit_code == 0
    assert json.loads(target.read_text()) == json.loads(run(app, ["config", "schema"]).output)
