from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from rgopd.common.errors import ConfigError
from rgopd.common.settings import ServiceSettings, Settings, paths_of, shipped_configs


class Nested(BaseModel):
    model_config = ConfigDict(extra="forbid")
    delta: float = 0.0
    name: str = "a"


class Example(ServiceSettings):
    nested: Nested = Nested()
    required: int = 0


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_precedence_is_set_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "c.yaml", "port: 1\nhost: file\nnested: {delta: 1, name: file}")
    monkeypatch.setenv("RGOPD_PORT", "2")
    monkeypatch.setenv("RGOPD_NESTED__DELTA", "2")
    loaded = Example.from_sources("teacher", file, ["port=3"])
    assert (loaded.port, loaded.host, loaded.nested.delta, loaded.nested.name) == (3, "file", 2.0, "file")


def test_a_sectioned_file_gives_each_service_its_own_and_the_common_keys(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.yaml", "common: {run_id: shared, steps: 5}\nteacher: {port: 8001}\nverifier: {port: 8002}"
    )
    assert Example.from_sources("teacher", file).port == 8001
    assert Example.from_sources("verifier", file).port == 8002
    assert Example.from_sources("verifier", file).run_id == "shared"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("prot: 1", [], "unknown key 'prot'; did you mean 'port'?"),
        ("nested: {dleta: 1}", [], r"unknown key 'nested\.dleta'; did you mean 'delta'\?"),
        ("", ["nested.dleta=1"], r"unknown key 'nested\.dleta'; did you mean 'delta'\?"),
        ("", ["zzz=1"], "known keys are allow_root, blob_url, drain_s"),
        ("teachr: {port: 1}\ncommon: {}", [], "unknown section 'teachr'; did you mean 'teacher'"),
        ("port: seventy", [], r"port: Input should be a valid integer.*got 'seventy'"),
        ("port: [", [], "is not YAML"),
        ("- a\n- b", [], "must hold a mapping of settings, not a list"),
        ("", ["port"], "write it as key=value"),
        ("", ["port=[1"], "the value is not YAML"),
        ("run_id: 'a b/c'", [], "run_id: String should match pattern"),
    ],
)
def test_bad_settings_say_what_to_do(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Example.from_sources("teacher", write(tmp_path / "c.yaml", text), overrides)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        Settings.from_sources("teacher", tmp_path / "nowhere.yaml")


def test_foreign_environment_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RGOPD_TEACHER_PORT", "tcp://10.0.0.1:8001")
    assert Example.from_sources("teacher").port == 0


def test_the_token_file_wins_and_a_missing_one_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "token", "secret\n")
    assert Example(token="other", token_file=file).bearer_token() == "secret"
    with pytest.raises(ConfigError, match="cannot be read"):
        Example(token_file=tmp_path / "gone").bearer_token()
    with pytest.raises(ConfigError, match="is empty"):
        Example(token_file=write(tmp_path / "blank", " \n")).bearer_token()


def test_the_token_is_not_in_the_settings_repr() -> None:
    assert "hunter2" not in repr(Example(token="hunter2"))


def test_config_takes_names_of_shipped_files_and_several_in_one_text(tmp_path: Path) -> None:
    shipped = shipped_configs()
    one = tmp_path / "own,with comma.yaml"
    one.write_text("log_level: debug\n")
    assert paths_of(Path("demo")) == paths_of(Path("demo.yaml")) == [shipped["demo"]]
    assert paths_of([Path("k20, no-tail"), one]) == [shipped["k20"], shipped["no-tail"], one]
    assert paths_of(Path(f"k20,{tmp_path}/x.yaml")) == [shipped["k20"], tmp_path / "x.yaml"]
    assert paths_of(None) == []
    with pytest.raises(ConfigError, match="did you mean 'gate-released'"):
        paths_of(Path("gate-relesed"))
