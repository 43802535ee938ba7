"""Rows that name an environment: which, with what arguments, and whether the student's chat template can go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

from rgopd.common import fleeting
from rgopd.common.errors import ConfigError
from rgopd.protos import environment_pb2
from rgopd.trainer.prompts.bad_row import BadRow
from rgopd.trainer.prompts.config import DatasetConfig, DatasetPart
from rgopd.trainer.prompts.files import Row
from rgopd.trainer.prompts.problems import Problems
from rgopd.trainer.prompts.rows import dataset_rows

LOOK = 1000
"""Rows of a dataset that are looked at for an environment, where only its presence matters."""

_KEYS = {"name": "", "args": {}, "role": "", "judge": "final"}


def environment_of(row: Row, part: DatasetPart) -> environment_pb2.Environment | None:
    """The environment of a row; None where it is answered in one turn.

    Raises:
        BadRow: it is not said as it must be.
    """
    said = row.get("environment") or part.environment
    if not said:
        return None
    said = {"name": said} if isinstance(said, str) else said
    if not isinstance(said, dict) or not said.get("name") or said.keys() - _KEYS.keys():
        raise BadRow(": the column 'environment' must be a name, or an object of name, args, role and judge")
    args = _object(row.get("environment_args") or said.get("args") or {})
    role = str(said.get("role") or ("tool" if row.get("tools") else "user"))
    judge = str(said.get("judge") or "final")
    if role not in ("user", "tool"):
        raise BadRow(f": environment.role is {role!r}: use user or tool")
    if judge not in ("final", "conversation"):
        raise BadRow(f": environment.judge is {judge!r}: use final or conversation")
    return environment_pb2.Environment(name=str(said["name"]), args_json=json.dumps(args), role=role, judge=judge)


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise BadRow(f": the environment's args are not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRow(": the environment's args must be an object")
    return {key: each for key, each in value.items() if each is not None}  # columnar files fill up with null


def tools_of(row: Row) -> list[dict[str, Any]] | None:
    """The tools that a row shows to the student: a list of JSON schemas.

    Raises:
        BadRow: it is something else.
    """
    tools = row.get("tools")
    if not tools:
        return None
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise BadRow(f": the column 'tools' is not JSON: {error}") from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow(": the column 'tools' must be a list of JSON schemas")
    return tools


def environments_named(config: DatasetConfig) -> dict[str, str]:
    """Environment -> role of its observations, in the first rows of every dataset that lies on this machine."""
    return {name: first.role for name, first in first_of_each(config).items()}


def first_of_each(config: DatasetConfig) -> dict[str, environment_pb2.Environment]:
    """The same, with the arguments of the first row that names it."""
    found: dict[str, environment_pb2.Environment] = {}
    for part in config.parts:
        if part.environment:
            found.setdefault(part.environment, environment_pb2.Environment(name=part.environment, role="user"))
        if stamp := fleeting.changed_ns(part.path):
            found.update(_named(part.model_dump_json(include=set(DatasetPart.model_fields)), stamp))
    return found


@lru_cache(maxsize=64)
def _named(part_json: str, _stamp: int) -> dict[str, environment_pb2.Environment]:
    part = DatasetPart.model_validate_json(part_json)
    found: dict[str, environment_pb2.Environment] = {}
    for row in islice(_rows(part), LOOK):
        try:
            environment = environment_of(row, part)
        except BadRow:  # told with its number when the rows are read for good
            continue
        if environment is not None:
            found.setdefault(environment.name, environment)
    return found


def _rows(part: DatasetPart) -> Iterator[Row]:
    try:
        for _, row in dataset_rows(part, Problems(str(part.path))):
            yield row
    except ConfigError:  # likewise
        return
