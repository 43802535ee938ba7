"""One row -> one tokenised `Prompt` with its check."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np

from rgopd.common import wire
from rgopd.common.between import Between
from rgopd.common.conversation import KIND
from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.common.explain import did_you_mean
from rgopd.common.teacher_client import choose_teacher, score_stream
from rgopd.protos import rollout_pb2, verifier_pb2
from rgopd.trainer.prompts.bad_row import BadRow
from rgopd.trainer.prompts.config import DatasetConfig, DatasetPart
from rgopd.trainer.prompts.environments import environment_of, tools_of
from rgopd.trainer.prompts.files import Row

CHECK_COLUMNS = frozenset(
    {"reference", "tests", "test", "entry_point", "setup", "language", "compare", "tolerance", "checker", "partial"}
    | {"limits", "on_truncated", "extract", "ignore_case", "ignore_whitespace", "options", "constraints", "loose"}
    | {"require", "max_chars", "parts", "threshold", "grader", "args"}
)
"""Columns handed to the verifier as they are. A column `check` holding an object does the same for any key."""

ROLES = ("system", "user", "assistant", "tool", "developer", "function", "ipython", "environment", "observation")
"""Whose chat messages may be; templates know the first three, and some of the others."""

_NEEDS = {"math": ("reference",), "code": ("tests", "test", "checker")}


def column(row: Row, name: str, setting: str) -> Any:
    """A column that must be there; raises `BadRow` naming the setting that says what it is called."""
    if name in row and row[name] is None:
        raise BadRow(f" has null in the column {name!r} (beside {sorted(row.keys() - {name})})")
    if name not in row:
        raise BadRow(f" lacks the column {name!r} (it has {sorted(row)}); name yours with {setting}")
    return row[name]


def check_of(row: Row, part: DatasetPart) -> tuple[str, dict[str, Any]]:
    """The kind of check, and the verifier's fields. Columns that another kind of row needs are null in columnar files.

    Raises:
        BadRow: no kind, or not what the kind needs.
    """
    judged_by_environment = row.get(part.kind_column) is None and environment_of(row, part) is not None
    setting = "dataset.kind_column, or give all rows one with dataset.kind"
    kind = KIND if judged_by_environment else str(column(row, part.kind_column, setting))
    check = {k: v for k, v in row.items() if k in CHECK_COLUMNS and v is not None}
    extra = row.get("check")
    if isinstance(extra, str):
        try:
            extra = json.loads(extra)
        except json.JSONDecodeError as error:
            raise BadRow(f": the column 'check' is not JSON: {error}") from error
    if extra is not None and not isinstance(extra, dict):
        raise BadRow(": the column 'check' must hold an object")
    check.update(extra or {})
    needs = _NEEDS.get(kind, ())
    if needs and not any(name in check for name in needs):
        raise BadRow(f": kind {kind!r} needs the column {' or '.join(map(repr, needs))}")
    return kind, check


def known_rate(row: Row) -> float | None:
    """The share of right answers that the row itself tells (column `pass_rate`), if it does.

    Raises:
        BadRow: it is no share.
    """
    rate = row.get("pass_rate")
    if rate is None:
        return None
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise BadRow(f": pass_rate must be a number from 0 to 1, not {rate!r}")
    return float(rate)


def domain_of(row: Row, part: DatasetPart, kind: str) -> str:
    """What its dataset is called, else the row itself, else its kind of check."""
    return part.domain or str(row.get("domain") or kind)


def teacher_of(row: Row, part: DatasetPart, kind: str, teachers: Mapping[str, str]) -> str:
    """The row's own teacher, or its domain's.

    Raises:
        BadRow: a name that can have no stream: found here, not by a sampler hours later.
    """
    teacher = choose_teacher(str(row.get("teacher") or ""), domain_of(row, part, kind), teachers)
    try:
        score_stream(teacher)
    except InvalidInput as error:
        raise BadRow(f": {error}") from error
    return teacher


def messages_of(prompt: Any, system_prompt: str) -> list[dict[str, Any]]:
    """A string is one user turn; a list is chat messages.

    Raises:
        BadRow: it is neither.
    """
    if isinstance(prompt, str) and not prompt.strip():
        raise BadRow(": the prompt is empty")
    if isinstance(prompt, str):
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    elif (
        isinstance(prompt, list)
        and prompt
        and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in prompt)
    ):
        messages = list(prompt)
    else:
        raise BadRow(": the prompt must be a string or a list of {role, content} messages")
    for message in messages:
        if message["role"] not in ROLES:
            hint, known = did_you_mean(str(message["role"]), ROLES), ", ".join(ROLES)
            raise BadRow(f": the prompt has the role {message['role']!r}{hint or f'; known: {known}'}")
    try:
        "".join(m["content"] for m in messages if isinstance(m["content"], str)).encode()
    except UnicodeEncodeError as error:
        raise BadRow(": the prompt holds half of a surrogate pair, which is no text") from error
    if system_prompt and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


class PromptMaker:
    """Makes prompts with one tokenizer.

    Args:
        tokenizer: the student's; its chat template is used when it has one.
    """

    def __init__(self, config: DatasetConfig, tokenizer: Any) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self._roles: set[str] = set()

    def make(self, row: Row, name: str, part: DatasetPart) -> rollout_pb2.Prompt | None:
        """The prompt of a row; None where it is over `max_prompt_tokens`.

        Args:
            name: its id where the row has none.

        Raises:
            BadRow: the row cannot be used.
            ConfigError: it names an environment, and the chat template cannot go on after a turn.
        """
        kind, check = check_of(row, part)
        prompt = column(row, part.prompt_column, "dataset.prompt_column")
        messages = messages_of(prompt, self.config.system_prompt)
        environment = environment_of(row, part)
        tools = tools_of(row) if environment is not None else None
        if environment is not None and tools:
            environment.tools_json = json.dumps(tools, ensure_ascii=False)
        text = self._render(messages, tools)
        ids = self.tokenizer(text, add_special_tokens=not self.tokenizer.chat_template)["input_ids"]
        if not ids:
            raise BadRow(": the prompt is empty")
        if len(ids) > self.config.max_prompt_tokens:
            return None
        domain, teacher = domain_of(row, part, kind), teacher_of(row, part, kind, self.config.teachers)
        if environment is not None and environment.role not in self._roles:
            Between(self.tokenizer, environment.role)
            self._roles.add(environment.role)
        return rollout_pb2.Prompt(
            prompt_id=str(row.get("id", name)),
            prompt_ids=wire.to_tensor(np.array(ids, dtype=np.int32)),
            check=verifier_pb2.Check(kind=kind, spec_json=json.dumps(check)),
            teacher=teacher,
            domain=domain,
            messages_json=json.dumps(messages, ensure_ascii=False, default=str),
            environment=environment,
        )

    def _render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        """Under the chat template; without one, the bare text."""
        if not self.tokenizer.chat_template:
            return "\n".join(str(m["content"]) for m in messages)
        shown = {"tools": tools} if tools else {}
        try:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **shown)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"student: its chat template is broken (line {error.lineno}: {error})") from error
        except jinja2.TemplateError as error:
            raise BadRow(f": the chat template refuses the prompt: {error}") from error
        return str(text)
