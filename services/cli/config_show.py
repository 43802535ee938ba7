"""`rgopd config show`: the settings in force, and where each value came from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rgopd.cli.sections import lay_sections, section_classes, sectioned
from rgopd.common.connection import redact
from rgopd.common.errors import ConfigError
from rgopd.common.parts import lay, part_at, parts_in
from rgopd.common.settings import SECTIONS, Settings, explain, is_sectioned, nearest, parse_overrides, section_of
from rgopd.common.yaml_lines import load_yaml

Key = tuple[str, ...]
MISSING = "(missing)"


class Sources:
    """One section's values and the origin of each, laid from the lowest source to the highest."""

    def __init__(self, cls: type[BaseModel]) -> None:
        self.cls = cls
        self.values: dict[str, Any] = {}
        self.origins: dict[Key, str] = {}

    def add(self, values: Mapping[str, Any], origin: Mapping[Key, str] | str) -> None:
        """Lay `values` over what is there."""
        self._note(self.cls, (), values, origin)
        self.values = lay(self.cls, self.values, values)

    def _note(self, cls: type[BaseModel] | None, above: Key, values: Mapping[str, Any], origin: Any) -> None:
        for key, value in values.items():
            where = (*above, key)
            part = part_at(cls, key) if cls is not None else None
            if isinstance(value, Mapping) and value:
                self._note(part, where, value, origin)
                continue
            if part is None or part.word_replaces:
                self.origins = {k: o for k, o in self.origins.items() if k[: len(where)] != where}
            given = part.from_word(value) if part is not None else value
            told = origin if isinstance(origin, str) else origin.get(where, "")
            leaves = [(*where, k) for k in given] if isinstance(given, Mapping) and part is not None else [where]
            for leaf in leaves if part is not None and not part.word_replaces and leaves else [where]:
                self.origins[leaf] = told

    def origin(self, leaf: Key) -> str:
        """Where a value came from: what named it, or a group above it."""
        for length in range(len(leaf), 0, -1):
            if (found := self.origins.get(leaf[:length])) is not None:
                return found
        return "default"


def show(
    config: Sequence[Path], overrides: Sequence[str], only: Sequence[str] = (), *, changed: bool = False
) -> Iterator[str]:
    """The lines of the answer: YAML with the origin of each value as a comment.

    Args:
        only: sections to show; none: all.
        changed: leave defaults out.

    Raises:
        ConfigError: what is given does not fit.
    """
    unknown = next((name for name in only if name not in SECTIONS), None)
    if unknown is not None:
        raise ConfigError(f"unknown section {unknown!r}{nearest(unknown, SECTIONS)}")
    classes = section_classes()
    given: dict[str, list[tuple[dict[str, Any], Any]]] = {section: [] for section in classes}
    for path in config:
        for section, layer in _file_layers(path, classes):
            given[section].append(layer)
    laid = [lay_sections({}, parse_overrides([given])) for given in sectioned(overrides)]
    for section, cls in classes.items():
        if only and section not in only:
            continue
        sources = Sources(cls)
        for values, origin in given[section]:
            sources.add(values, origin)
        if issubclass(cls, Settings):
            sources.add(cls.environment(), _environment_names(cls))
        for given_section in ("common", section):
            for change in laid:
                values = change.get(given_section, {})
                if given_section == "common":
                    values = {k: v for k, v in values.items() if k in cls.model_fields and section != "up"}
                sources.add(values, {key: f"--set {given_section}.{'.'.join(key)}" for key in _leaves(values)})
        yield from _section(section, sources, changed=changed)


def _file_layers(path: Path, classes: Mapping[str, type[BaseModel]]) -> Iterator[tuple[str, Any]]:
    loaded, lines = load_yaml(path)
    loaded = loaded or {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"config file {path} must hold a mapping of settings, not a {type(loaded).__name__}")
    if loaded and not is_sectioned(loaded):
        section = _flat(loaded, classes)
        yield section, (loaded, {key: f"{path}:{line}" for key, line in lines.items()})
        return
    for section, cls in classes.items():
        section_of(loaded, section, cls, path)  # its errors
        for name in ("common", section):
            values = loaded.get(name) or {}
            if name == "common":
                values = {k: v for k, v in values.items() if k in cls.model_fields and section != "up"}
            yield section, (values, {key[1:]: f"{path}:{n}" for key, n in lines.items() if key[0] == name})


def _flat(loaded: Mapping[str, Any], classes: Mapping[str, type[BaseModel]]) -> str:
    """Whose settings a file without sections holds: the service that knows most of its keys."""
    return max(classes, key=lambda section: sum(key in classes[section].model_fields for key in loaded))


def _environment_names(cls: type[BaseModel]) -> dict[Key, str]:
    """The variable that each key comes from."""
    names = {}
    for variable in os.environ:
        if variable.upper().startswith("RGOPD_"):
            names[tuple(variable[6:].lower().split("__"))] = f"env {variable}"
    return names


def _leaves(values: Mapping[str, Any], above: Key = ()) -> Iterator[Key]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)


def _section(section: str, sources: Sources, *, changed: bool) -> Iterator[str]:
    settings = _build(section, sources)
    lines = list(_lines(type(settings), settings.model_dump(mode="json"), sources, (), changed=changed))
    if lines:
        yield f"{section}:"
        yield from lines


def _build(section: str, sources: Sources) -> BaseModel:
    """The checked settings; what is needed and missing is marked."""
    values = sources.values
    for _ in range(10):
        try:
            cls = sources.cls
            init: dict[str, Any] = {"_laid": values} if issubclass(cls, Settings) else values
            return cls(**init)
        except ValidationError as error:
            problems = error.errors()
            if any(problem["type"] != "missing" for problem in problems):
                raise ConfigError(f"section {section}: {explain(sources.cls, error)}") from error
            for problem in problems:
                values = _filled(sources, values, tuple(map(str, problem["loc"])))
    raise ConfigError(f"section {section}: too much is missing")


def _filled(sources: Sources, values: dict[str, Any], loc: Key) -> dict[str, Any]:
    part = sources.cls
    for key in loc[:-1]:
        part = next(iter(parts_in(part.model_fields[key].annotation)), part)
    filler: Any = {} if part_at(part, loc[-1]) else MISSING
    for key in reversed(loc):
        filler = {key: filler}
    return lay(sources.cls, values, filler)


def _lines(
    cls: type[BaseModel] | None, values: Mapping[str, Any], sources: Sources, above: Key, *, changed: bool
) -> Iterator[str]:
    indent = "  " * (len(above) + 1)
    for key, value in values.items():
        where = (*above, key)
        part = part_at(cls, key) if cls is not None else None
        if isinstance(value, Mapping) and value and part is not None:
            inner = list(_lines(part, value, sources, where, changed=changed))
            if inner:
                yield f"{indent}{key}:"
                yield from inner
            continue
        origin = "MISSING: it has no default" if value == MISSING else sources.origin(where)
        if changed and origin == "default":
            continue
        written = _hidden(cls, key, value)
        yield f"{indent}{key}: {written}".ljust(56) + f"  # {origin}"


def _hidden(cls: type[BaseModel] | None, key: str, value: Any) -> str:
    """A value in one line of YAML; secrets are not shown."""
    field = cls.model_fields.get(key) if cls is not None else None
    if field is not None and not field.repr and value:
        return "'(hidden)'"
    if key in ("redis_url", "blob_url") and value:
        value = redact(str(value))
    text = yaml.safe_dump(value, width=10_000, allow_unicode=True, default_flow_style=True, sort_keys=False)
    return text.removesuffix("...\n").strip()
