"""Datasets of checkable prompts: rows of JSONL, Parquet or a `datasets` folder -> tokenised `Prompt` messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rgopd.common import wire
from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.common.teacher_client import choose_teacher, score_stream
from rgopd.protos import rollout_pb2, verifier_pb2
from rgopd.trainer.prompts.config import DatasetConfig

log = logging.getLogger(__name__)

CHECK_COLUMNS = frozenset(
    {"reference", "tests", "test", "entry_point", "setup", "language", "compare", "tolerance", "checker", "partial"}
    | {"limits", "on_truncated", "extract", "ignore_case", "ignore_whitespace", "options", "constraints", "loose"}
    | {"require", "max_chars", "parts", "threshold", "grader", "args"}
)
"""Columns handed to the verifier as they are. A column `check` holding an object does the same for any key."""

_NEEDS = {"math": ("reference",), "code": ("tests", "test", "checker")}


class PromptSource:
    """All prompts of a dataset, in an order that (seed, position) alone decides.

    Args:
        config: where and which columns.
        tokenizer: the student's; its chat template is used when it has one.
    """

    def __init__(self, config: DatasetConfig, tokenizer: Any) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.prompts: list[rollout_pb2.Prompt] = []
        self.too_long = 0
        for number, row in enumerate(read_rows(config.path)):
            if config.limit and number >= config.limit:
                break
            self._add(row, number)
        if self.too_long:
            log.warning("%d prompts are over max_prompt_tokens=%d", self.too_long, config.max_prompt_tokens)
        if not self.prompts:
            raise ConfigError(f"dataset {config.path} has no usable rows ({self.too_long} prompts were too long)")

    def __len__(self) -> int:
        return len(self.prompts)

    def at(self, seed: int, position: int) -> rollout_pb2.Prompt:
        """The prompt at a position of the endless, epoch-wise shuffled order."""
        epoch, offset = divmod(position, len(self.prompts))
        order = np.random.default_rng([seed, epoch]).permutation(len(self.prompts))
        return self.prompts[int(order[offset])]

    def _add(self, row: dict[str, Any], number: int) -> None:
        where = f"dataset {self.config.path}, row {number}"
        kind = str(_column(row, self.config.kind_column, "dataset.kind_column", where))
        check = _check(row, kind, where)
        text = self._render(_column(row, self.config.prompt_column, "dataset.prompt_column", where), where)
        ids = self.tokenizer(text, add_special_tokens=not self.tokenizer.chat_template)["input_ids"]
        if not ids:
            raise ConfigError(f"{where}: the prompt is empty")
        if len(ids) > self.config.max_prompt_tokens:
            self.too_long += 1
            return
        domain = str(row.get("domain") or kind)
        teacher = choose_teacher(str(row.get("teacher") or ""), domain, self.config.teachers)
        try:
            score_stream(teacher)  # a name that can have no stream is found here, not by a sampler hours later
        except InvalidInput as error:
            raise ConfigError(f"{where}: {error}") from error
        self.prompts.append(
            rollout_pb2.Prompt(
                prompt_id=str(row.get("id", number)),
                prompt_ids=wire.to_tensor(np.array(ids, dtype=np.int32)),
                check=verifier_pb2.Check(kind=kind, spec_json=json.dumps(check)),
                teacher=teacher,
                domain=domain,
            )
        )

    def _render(self, prompt: Any, where: str) -> str:
        """A string is one user turn; a list is chat messages. Without a chat template, the bare text."""
        if isinstance(prompt, str):
            messages = [{"role": "user", "content": prompt}]
        elif isinstance(prompt, list) and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in prompt):
            messages = list(prompt)
        else:
            raise ConfigError(f"{where}: the prompt must be a string or a list of {{role, content}} messages")
        if self.config.system_prompt and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.config.system_prompt})
        if not self.tokenizer.chat_template:
            return "\n".join(m["content"] for m in messages)
        return str(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .jsonl/.json-lines file, a .parquet file, or a folder of Parquet/Arrow files.

    Raises:
        ConfigError: nothing there, another format, or a line that is not a JSON object.
    """
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in (".parquet", ".arrow", ".jsonl"))
        if not files:
            raise ConfigError(f"dataset folder {path} holds no .parquet, .arrow or .jsonl file")
        for file in files:
            yield from read_rows(file)
        return
    if not path.is_file():
        raise ConfigError(f"dataset {path} does not exist")
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    elif path.suffix == ".arrow":
        import pyarrow as pa

        with pa.memory_map(str(path)) as source:
            for batch in pa.ipc.open_stream(source):
                yield from batch.to_pylist()
    elif path.suffix in (".jsonl", ".ndjson", ".json"):
        yield from _json_lines(path)
    else:
        raise ConfigError(f"dataset {path}: use .jsonl, .parquet, or a folder saved by the datasets library")


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"dataset {path}, line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ConfigError(f"dataset {path}, line {number} must be a JSON object, one row a line")
            yield row


def _column(row: dict[str, Any], name: str, setting: str, where: str) -> Any:
    if row.get(name) is None:
        raise ConfigError(f"{where} lacks the column {name!r} (it has {sorted(row)}); name yours with {setting}")
    return row[name]


def _check(row: dict[str, Any], kind: str, where: str) -> dict[str, Any]:
    """The verifier's fields of a row. Columns that another kind of row needs are null in columnar files."""
    check = {k: v for k, v in row.items() if k in CHECK_COLUMNS and v is not None}
    extra = row.get("check")
    if isinstance(extra, str):
        extra = json.loads(extra)
    check.update(extra or {})
    needs = _NEEDS.get(kind, ())
    if needs and not any(name in check for name in needs):
        raise ConfigError(f"{where}: kind {kind!r} needs the column {' or '.join(map(repr, needs))}")
    return check
