"""YAML with line numbers: where each key stands, and what is wrong on which line."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from rgopd.common.errors import ConfigError

Lines = dict[tuple[str, ...], int]
"""Line (from 1) of each key, by the keys that lead to it."""


def load_yaml(path: Path) -> tuple[Any, Lines]:
    """A file's value and its lines.

    Raises:
        ConfigError: it cannot be read, is not YAML, or gives a key twice (YAML's last would win in silence).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from error
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines: Lines = {}
        _walk(node, (), lines, path)
        return (None if node is None else loader.construct_document(node)), lines
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path} is not YAML: {yaml_problem(error)}") from error
    finally:
        loader.dispose()


def _walk(node: Any, above: tuple[str, ...], lines: Lines, path: Path) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = key.value if isinstance(key.value, Hashable) else str(key.value)
        where = (*above, str(name))
        line = key.start_mark.line + 1
        if where in lines and name != "<<":
            raise ConfigError(
                f"config file {path}: {'.'.join(where)} is given on line {lines[where]} and on line {line}; keep one"
            )
        lines[where] = line
        _walk(value, where, lines, path)


def yaml_problem(error: yaml.YAMLError) -> str:
    """The parser's complaint in one line."""
    problem = str(getattr(error, "problem", None) or error).replace("\n", " ")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return problem
    hint = "; indent with spaces" if "\\t" in problem else ""
    hint = hint or ("; put quotes around text that holds a colon" if "mapping values" in problem else "")
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{hint}"
