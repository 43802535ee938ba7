from __future__ import annotations

from pathlib import Path

import pytest

from rgopd.common.errors import ConfigError
from rgopd.common.models import check_model


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-14B-Instruct", "gpt2"])
def test_hub_ids_are_left_to_the_hub(name: str) -> None:
    check_model(name, "model")


@pytest.mark.parametrize("name", ["/nope/model", "./nope", "~/nope", "runs/demo/nope"])
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match=f"student: {name} does not exist"):
        check_model(name, "student")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        check_model(str(tmp_path), "model")
    (tmp_path / "config.json").write_text("{}")
    check_model(str(tmp_path), "model")
