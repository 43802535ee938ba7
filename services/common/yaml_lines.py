"""YAML with line numbers: where each key stands, and what is wrong on which line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rgopd.common.errors import ConfigError, told

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
        raise ConfigError(f"config file {path} cannot be read: {_told(error)}") from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines: Lines = {}
        _walk(node, (), lines, path)
        return (None if node is None else loader.construct_document(node)), lines
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path} is not YAML: {yaml_problem(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"config file {path} nests too deeply, or an anchor holds itself: write it out") from error
    except ValueError as error:  # a date or number in form alone
        raise ConfigError(f"config file {path}: {str(error)[:200]}; put quotes around what is text") from error


def read_value(text: str) -> Any:
    """One YAML value, as `--set` and the environment give it; raises ValueError that says what is wrong with it."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the value is not YAML: {yaml_problem(error)}") from error
    except RecursionError as error:
        raise ValueError("the value nests too deeply") from error
    except ValueError as error:
        raise ValueError(f"{str(error)[:200]}; put quotes around what is text") from error


def _told(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, OSError):
        return told(error)
    line = error.object[: error.start].count(b"\n") + 1
    return f"line {line} is no UTF-8 text (byte {error.object[error.start]:#x}): save it as UTF-8"


_TEXT = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def _walk(node: Any, above: tuple[str, ...], lines: Lines, path: Path) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag not in _TEXT:
            shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise ConfigError(f"config file {path}, line {line}: a key must be text, not {shown}; put quotes around it")
        name = str(key.value)
        where = (*above, name)
        if where in lines and name != "<<":
            raise ConfigError(
                f"config file {path}: {'.'.join(where)} is given on line {lines[where]} and on line {line}; keep one"
            )
        lines[where] = line
        _walk(value, where, lines, path)


def yaml_problem(error: yaml.YAMLError) -> str:
    """The parser's complaint in one line."""
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return problem
    hint = "; indent with spaces" if "\\t" in problem else ""
    hint = hint or ("; put quotes around text that holds a colon" if "mapping values" in problem else "")
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{hint}"
