"""Columns, splits, layouts, and what is wrong by row number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.data import PromptSource


@pytest.fixture(scope="session")
def tokenizer(student_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(student_folder)


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def source(tokenizer: Any, given: Any) -> PromptSource:
    return PromptSource(DatasetConfig.model_validate(given), tokenizer)


def asked(prompts: PromptSource, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(memoryview(p.prompt_ids.data).cast("i").tolist()) for p in prompts.prompts]


def good(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "prompt": f"{number}+1=", "kind": "math", "reference": str(number + 1), **more}


def test_columns_are_mapped_nested_and_composed(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"q": {"text": "1+1="}, "meta": {"gold": "2"}, "topic": "A"}]
    path = jsonl(tmp_path / "d.jsonl", rows)
    columns = {"prompt": "{q.text} ({topic})", "reference": "meta.gold", "domain": "topic"}
    prompts = source(tokenizer, {"path": path, "map": columns, "kind": "math"})
    [prompt] = prompts.prompts
    assert json.loads(prompt.check.spec_json) == {"reference": "2"}
    assert (prompt.check.kind, prompt.domain) == ("math", "A")
    assert "1+1=(A)" in asked(prompts, tokenizer)[0].replace(" ", "")


def test_a_mapped_column_that_is_not_there_names_the_rows(tmp_path: Path, tokenizer: Any) -> None:
    path = jsonl(tmp_path / "d.jsonl", [{"q": "a", "a": "1"}, {"q": "a"}, {"q": "b"}])
    with pytest.raises(ConfigError, match=r"2 of 3 rows cannot be used: rows 1-2 lacks the column 'a'.*dataset\.map"):
        source(tokenizer, {"path": path, "map": {"prompt": "q", "reference": "a"}, "kind": "math"})


def test_splits_subsets_and_slices_of_a_folder(tmp_path: Path, tokenizer: Any) -> None:
    for split in ("train", "test"):
        for subset in ("main", "hard"):
            rows = [good(n, id=f"{subset}-{split}-{n}") for n in range(5)]
            jsonl(tmp_path / "repo" / subset / f"{split}.jsonl", rows)
    repo = tmp_path / "repo"

    def ids(**more: Any) -> list[str]:
        return [p.prompt_id for p in source(tokenizer, {"path": repo, **more}).prompts]

    assert ids(split="test", subset="main") == [f"main-test-{n}" for n in range(5)]
    assert ids(split="train[1:3]", subset="hard") == ["hard-train-1", "hard-train-2"]
    assert ids(split="train[3:]", subset="hard", limit=1) == ["hard-train-3"]
    assert len(ids()) == 20
    with pytest.raises(ConfigError, match=r"dataset .*no .* file for split 'dev'.*splits found: test, train"):
        ids(split="dev")
    with pytest.raises(ConfigError, match=r"train\[:1000\]"):
        ids(split="train[x]")


def test_a_layout_makes_published_rows_checkable(tmp_path: Path, tokenizer: Any) -> None:
    path = jsonl(tmp_path / "d.jsonl", [{"question": "1+1=", "answer": "so\n#### 1,002"}])
    [prompt] = source(tokenizer, {"path": path, "layout": "gsm8k"}).prompts
    assert json.loads(prompt.check.spec_json) == {"reference": "1002"}
    assert prompt.domain == "gsm8k"
    with pytest.raises(ConfigError, match="unknown dataset layout 'gsm8'; did you mean 'gsm8k'"):
        source(tokenizer, {"path": path, "layout": "gsm8"})


def test_every_problem_is_listed_by_row(tmp_path: Path, tokenizer: Any) -> None:
    rows: list[Any] = [good(n) for n in range(12)]
    del rows[2]["reference"], rows[3]["reference"], rows[9]["reference"], rows[5]["kind"], rows[7]["prompt"]
    path = jsonl(tmp_path / "d.jsonl", rows)
    with path.open("a") as lines:
        lines.write("{oops\n")
    with pytest.raises(ConfigError) as caught:
        source(tokenizer, {"path": path})
    text = str(caught.value)
    assert text.startswith(f"dataset {path}: 6 of ")
    assert "line 13 is not JSON" in text
    assert "rows 2-3, 9: kind 'math' needs the column 'reference'" in text
    assert "row 5 lacks the column 'kind'" in text
    assert "row 7 lacks the column 'prompt'" in text
    assert "\n" not in text


def test_the_list_has_an_end(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {**good(n), "prompt": n, "kind": f"k{n}"} if n % 2 else {**good(n), "kind": None, f"c{n}": 1} for n in range(60)
    ]
    with pytest.raises(ConfigError) as caught:
        source(tokenizer, {"path": jsonl(tmp_path / "d.jsonl", rows)})
    assert "rows 1, 3, 5, 7, 9, 11 and 24 more: the prompt must be a string" in str(caught.value)
    assert "problems of other sorts" in str(caught.value)
    assert len(str(caught.value)) < 3000


def test_bad_rows_may_be_left_out(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = jsonl(tmp_path / "d.jsonl", [good(0), {"prompt": "x"}, good(2)])
    prompts = source(tokenizer, {"path": path, "bad_rows": "skip"})
    assert [p.prompt_id for p in prompts.prompts] == ["r0", "r2"]
    assert "row 1 lacks the column 'kind'" in caplog.text
