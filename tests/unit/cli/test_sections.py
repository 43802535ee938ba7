from __future__ import annotations

from pathlib import Path

import pytest

from rgopd.cli.checked import check_sections
from rgopd.cli.demo import demo_sections
from rgopd.cli.sections import merge, override, up_config
from rgopd.common.errors import ConfigError


def test_overrides_reach_into_sections_and_leave_the_rest() -> None:
    base = {"train": {"steps": 1, "optim": {"lr": 1.0, "eps": 2.0}}}
    result = override(base, ["train.optim.lr=3", "teacher.port=1"])
    assert result == {"train": {"steps": 1, "optim": {"lr": 3, "eps": 2.0}}, "teacher": {"port": 1}}
    assert base["train"]["optim"]["lr"] == 1.0


def test_a_preset_replaces_a_mapping_and_the_other_way_round() -> None:
    assert merge({"gate": "paper"}, {"gate": {"delta": 1}}) == {"gate": {"delta": 1}}
    assert merge({"gate": {"delta": 1}}, {"gate": "off"}) == {"gate": "off"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trian.steps=1"], "unknown section 'trian'; did you mean 'train'"),
        (["steps=1"], "unknown section 'steps'"),
        (["train=1"], "write --set train.<setting>=<value>"),
    ],
)
def test_overrides_need_a_section(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override({}, overrides)


def test_the_demos_config_is_accepted_and_overridable(tmp_path: Path) -> None:
    sections = demo_sections(None, ["train.steps=7", "up.samplers=3"], "released", 5, tmp_path / "run")
    check_sections(sections)
    assert sections["train"]["steps"] == 7
    assert sections["train"]["gate"] == "released"
    assert sections["train"]["seed"] == 5
    assert up_config(sections).samplers == 3


def test_a_misspelt_key_is_told_with_its_section(tmp_path: Path) -> None:
    sections = demo_sections(None, [], "", 0, tmp_path / "run")
    sections["verifier"]["wrokers"] = 2
    with pytest.raises(ConfigError, match="section verifier: unknown key 'wrokers'; did you mean 'workers'"):
        check_sections(sections)
    with pytest.raises(ConfigError, match="no service has a setting 'redis_ulr'"):
        check_sections({**sections, "common": {"redis_ulr": "x"}})
