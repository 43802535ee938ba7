"""Rows that name environments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rgopd.common.errors import ConfigError
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.data import PromptSource
from rgopd.trainer.prompts.environments import environments_named

TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


@pytest.fixture(scope="session")
def tokenizer(student_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(student_folder)


def source(tokenizer: Any, path: Path, *rows: dict[str, Any], **more: Any) -> PromptSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PromptSource(DatasetConfig.model_validate({"path": path, **more}), tokenizer)


def test_a_row_names_its_environment_in_three_ways(tmp_path: Path, tokenizer: Any) -> None:
    made = source(
        tokenizer,
        tmp_path / "d.jsonl",
        {"prompt": "1+1=", "kind": "math", "reference": "2", "environment": "calculator", "tools": [TOOL]},
        {"prompt": "1+1=", "environment": {"name": "maze", "args": {"size": 3}, "judge": "conversation"}},
        {"prompt": "1+1=", "environment": "maze", "environment_args": '{"size": 4, "gone": null}'},
        {"prompt": "1+1=", "kind": "math", "reference": "2"},
    ).prompts
    first, second, third, plain = made
    assert (first.check.kind, first.environment.name, first.environment.role) == ("math", "calculator", "tool")
    assert (second.check.kind, second.domain, second.environment.judge) == (
        "environment",
        "environment",
        "conversation",
    )
    assert [json.loads(p.environment.args_json) for p in (second, third)] == [{"size": 3}, {"size": 4}]
    assert (third.environment.role, third.environment.judge) == ("user", "final")
    assert not plain.HasField("environment")


def test_all_rows_may_have_one(tmp_path: Path, tokenizer: Any) -> None:
    row = {"prompt": "1+1=", "kind": "math", "reference": "2"}
    made = source(tokenizer, tmp_path / "d.jsonl", row, {**row, "environment": "other"}, environment="feedback")
    assert [p.environment.name for p in made.prompts] == ["feedback", "other"]


def test_tools_are_shown_by_the_template(tmp_path: Path, student_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    tokenizer.chat_template = (
        "{% if tools %}{{ tools[0]['function']['name'] }}:{% endif %}{% for m in messages %}|{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}|{% endif %}"
    )
    row = {"prompt": "1+1=", "kind": "math", "reference": "2", "tools": json.dumps([TOOL])}
    made = source(tokenizer, tmp_path / "d.jsonl", {**row, "environment": "x"}, row)
    texts = [tokenizer.decode(memoryview(p.prompt_ids.data).cast("i").tolist()) for p in made.prompts]
    assert texts == ["add:|1+1=|", "|1+1=|"]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"args": {}}, "must be a name, or an object"),
        ({"name": "a", "url": "b"}, "must be a name, or an object"),
        (3, "must be a name, or an object"),
        ({"name": "a", "args": [1]}, "args must be an object"),
        ({"name": "a", "args": "{"}, "args are not JSON"),
        ({"name": "a", "role": "system"}, "use user or tool"),
        ({"name": "a", "judge": "all"}, "use final or conversation"),
    ],
)
def test_what_a_row_says_wrong(tmp_path: Path, tokenizer: Any, environment: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f"row 0.*{says}"):
        source(tokenizer, tmp_path / "d.jsonl", {"prompt": "1+1=", "environment": environment})


def test_a_template_that_cannot_go_on_is_told_before_the_run(tmp_path: Path, student_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    tokenizer.chat_template = "{% for m in messages[-1:] %}{{ m.content }}{% endfor %}"
    with pytest.raises(ConfigError, match="not prefix-stable"):
        source(tokenizer, tmp_path / "d.jsonl", {"prompt": "1+1=", "environment": "maze"})


def test_the_longest_response_is_that_of_a_conversation(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "1", "kind": "math", "reference": "1"}\n')
    settings: dict[str, Any] = {
        "student": "x",
        "dataset": {"path": path, "max_prompt_tokens": 100},
        "turns": {"max_total_tokens": 5000},
    }
    assert TrainConfig.from_mapping(settings).longest_response == 1024
    settings["dataset"]["environment"] = "maze"
    assert TrainConfig.from_mapping(settings).longest_response == 5000
    del settings["dataset"]["environment"]
    path.write_text('{"prompt": "1", "environment": {"name": "maze", "role": "tool"}}\n')
    assert TrainConfig.from_mapping(settings).longest_response == 5000
    assert environments_named(DatasetConfig(path=path)) == {"maze": "tool"}
    assert environments_named(DatasetConfig(path=Path("some/hub"))) == {}
