from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from rgopd.common import wire
from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.config import DatasetConfig
from rgopd.trainer.prompts.data import PromptSource

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "1+2*3=", "kind": "math", "reference": "7", "domain": "A"},
    {"id": "b", "prompt": "4+5=", "kind": "math", "reference": "9", "source": "ignored"},
    {"id": "c", "prompt": [{"role": "user", "content": "1+1="}], "kind": "math", "reference": "2"},
]


@pytest.fixture(scope="session")
def tokenizer(student_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(student_folder)


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def source(path: Path, tokenizer: Any, **options: Any) -> PromptSource:
    return PromptSource(DatasetConfig(path=path, **options), tokenizer)


def test_rows_become_prompts_under_the_chat_template(tmp_path: Path, tokenizer: Any) -> None:
    prompts = source(jsonl(tmp_path / "d.jsonl", ROWS), tokenizer).prompts
    ids = wire.from_tensor(prompts[0].prompt_ids, dtype="int32").tolist()
    chat = [{"role": "user", "content": "1+2*3="}]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert (prompts[0].prompt_id, prompts[0].domain, prompts[1].domain) == ("a", "A", "math")
    assert json.loads(prompts[1].check.spec_json) == {"reference": "9"}
    assert json.loads(prompts[0].messages_json) == chat  # for a teacher with another tokenizer


def test_parquet_and_folders_give_the_same(tmp_path: Path, tokenizer: Any) -> None:
    from_lines = source(jsonl(tmp_path / "d.jsonl", ROWS[:2]), tokenizer).prompts
    table = pa.Table.from_pylist([{**r, "tests": None} for r in ROWS[:2]])
    (tmp_path / "folder").mkdir()
    pq.write_table(table, tmp_path / "folder" / "part-0.parquet")
    assert source(tmp_path / "folder" / "part-0.parquet", tokenizer).prompts == from_lines
    assert source(tmp_path / "folder", tokenizer).prompts == from_lines


def test_a_datasets_arrow_stream_is_read(tmp_path: Path, tokenizer: Any) -> None:
    table = pa.Table.from_pylist(ROWS[:2])
    with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert len(source(tmp_path, tokenizer)) == 2


def test_each_epoch_visits_every_prompt_once_in_its_own_order(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{**ROWS[0], "id": str(i)} for i in range(20)]
    prompts = source(jsonl(tmp_path / "d.jsonl", rows), tokenizer)
    epochs = [[prompts.at(5, e * 20 + i).prompt_id for i in range(20)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(r["id"] for r in rows)
    assert epochs[0] != epochs[1]
    assert epochs[0] != [prompts.at(6, i).prompt_id for i in range(20)]


def test_long_prompts_are_left_out_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    rows = [ROWS[0], {**ROWS[0], "prompt": "1+" * 50 + "1="}]
    prompts = source(jsonl(tmp_path / "d.jsonl", rows), tokenizer, max_prompt_tokens=20)
    assert (len(prompts), prompts.too_long) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"kind": "math", "reference": "1"}], r"row 0 lacks the column 'prompt' .*dataset\.prompt_column"),
        ([{"prompt": "1+1=", "reference": "1"}], "lacks the column 'kind'"),
        ([{"prompt": "1+1=", "kind": "math"}], "kind 'math' needs the column 'reference'"),
        ([{"prompt": "x", "kind": "code"}], "kind 'code' needs the column 'tests' or 'test'"),
        ([{"prompt": 3, "kind": "math", "reference": "1"}], "must be a string or a list of"),
        ([{"prompt": "x", "kind": "math", "reference": "1", "teacher": "a:b"}], "row 0: teacher 'a:b': use up to 64"),
        ([[1]], "line 1 must be a JSON object"),
        ([], "has no usable rows"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, tokenizer: Any, rows: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source(jsonl(tmp_path / "d.jsonl", rows), tokenizer)


def test_teachers_by_domain(tmp_path: Path, tokenizer: Any) -> None:
    rows = [*ROWS, {**ROWS[0], "teacher": "own"}]
    found = source(jsonl(tmp_path / "d.jsonl", rows), tokenizer, teachers={"A": "big", "*": "rest"}).prompts
    assert [prompt.teacher for prompt in found] == ["big", "rest", "rest", "own"]


def test_a_dataset_may_name_the_domain_of_all_its_rows(tmp_path: Path, tokenizer: Any) -> None:
    found = source(jsonl(tmp_path / "d.jsonl", ROWS), tokenizer, domain="mine", teachers={"mine": "big"}).prompts
    assert {(prompt.domain, prompt.teacher) for prompt in found} == {("mine", "big")}


def test_bad_files_are_named(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "broken.jsonl").write_text('{"prompt": ')
    with pytest.raises(ConfigError, match=r"broken\.jsonl, line 1 is not JSON"):
        source(tmp_path / "broken.jsonl", tokenizer)
    with pytest.raises(ConfigError, match="does not exist"):
        source(tmp_path / "gone.jsonl", tokenizer)
    (tmp_path / "d.csv").write_text("a,b")
    with pytest.raises(ConfigError, match=r"use \.jsonl, \.parquet"):
        source(tmp_path / "d.csv", tokenizer)
