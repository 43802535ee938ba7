"""What doctor says of environments before a run."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from rgopd.cli.checks import Failed
from rgopd.cli.doctor import checks
from rgopd.cli.turns import check_turns, try_environments
from rgopd.common.errors import ConfigError

CHECKPOINTS = Path(str(files("rgopd.trainer.demo") / "checkpoints"))
ROW = {"prompt": "1+1=", "kind": "math", "reference": "2"}
GAME = """
class Game:
    def reset(self, size):
        self.size = size

    def step(self, action):
        return "x" * self.size
"""


@pytest.fixture
def sections(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "game.py").write_text(GAME)
    row = {**ROW, "environment": {"name": "game", "args": {"size": 3}}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return {
        "teacher": {"model": str(CHECKPOINTS / "teacher")},
        "verifier": {"environments": {"game": str(tmp_path / "game.py")}},
        "train": {
            "student": str(CHECKPOINTS / "student"),
            "dataset": {"path": str(tmp_path / "rows.jsonl"), "max_prompt_tokens": 40},
            "turns": {"max_turns": 3, "max_total_tokens": 60},
        },
    }


def test_an_environment_is_looked_at_and_tried(sections: dict[str, Any], tmp_path: Path) -> None:
    assert {"turns", "environments"} <= dict(checks(sections)).keys()
    assert check_turns(sections).startswith("game: up to 3 turns and 100 tokens with the prompt; the chat template")
    assert try_environments(sections) == "game answered"
    sections["train"]["turns"]["max_total_tokens"] = 500
    assert "the student's context of 128 ends them there" in check_turns(sections)
    sections["verifier"] = {}
    with pytest.raises(ConfigError, match=r"set verifier\.environments"):
        check_turns(sections)


def test_what_does_not_answer_is_told(sections: dict[str, Any]) -> None:
    sections["verifier"]["environments"]["game"] = {"url": "http://127.0.0.1:9", "retries": 0}
    with pytest.raises(Failed, match="environment 'game', asked with.*could not be reached in 1 attempts"):
        try_environments(sections)


def test_a_teacher_that_cannot_read_so_far_is_told(sections: dict[str, Any], tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    config = json.loads((CHECKPOINTS / "teacher" / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    sections["teacher"]["model"] = str(teacher)
    with pytest.raises(Failed, match="a conversation may have 100 tokens, and the teacher's context is 64"):
        check_turns(sections)


def test_runs_of_single_turns_are_not_looked_at(sections: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    assert "turns" not in dict(checks(sections))
    sections["train"]["dataset"]["environment"] = "feedback"
    assert "environments" in dict(checks(sections))
    assert try_environments(sections) == "the check's own feedback"
