"""`rgopd config schema`: the JSON Schema of a sectioned config file, for editors (YAML language server) and CI."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rgopd.cli.sections import section_classes
from rgopd.common.parts import Part, parts_in
from rgopd.trainer.config import GATES
from rgopd.trainer.gating.gate import GateConfig

LINE = "# yaml-language-server: $schema={}\n"
"""First line of a config; editors with the YAML language server complete and check with it."""


def shipped() -> Path:
    """The schema file that comes with the package."""
    return Path(str(files("rgopd.configs") / "schema.json"))


def schema() -> dict[str, Any]:
    """One schema for whole configs and overlays: nothing is required, since another file may give it."""
    definitions: dict[str, Any] = {}
    sections: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for section, cls in section_classes().items():
        made = cls.model_json_schema(ref_template="#/$defs/{model}")
        _take_words(cls, made)
        for name, definition in made.pop("$defs", {}).items():
            assert definitions.setdefault(name, definition) == definition, f"two definitions called {name}"
        made.pop("required", None)
        made.pop("title", None)
        sections[section] = made
        if section != "up":
            shared.update(made["properties"])
    common = {"type": "object", "properties": shared, "additionalProperties": False}
    common["description"] = "For every service that has the key."
    properties = {"common": common, **sections}
    for name, part in properties.items():
        part["additionalProperties"] = False
        properties[name] = {"anyOf": [part, {"type": "null"}], "description": part.get("description", "")}
    whole: dict[str, Any] = _without_titles(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "description": "A config of rgopd with sections; see docs/settings.md.",
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
            "$defs": definitions,
        }
    )
    return whole


def _take_words(cls: type[BaseModel], made: dict[str, Any]) -> None:
    """Let the groups of `cls` be given as one word, as `rgopd.common.parts` reads them."""
    definitions = made.get("$defs", {})
    for part in _groups(cls):
        definition = definitions.get(part.__name__)
        if definition is None or "anyOf" in definition:
            continue
        definition.pop("required", None)  # an overlay may leave out what another file gives
        if part is GateConfig:
            definition["properties"]["preset"] = {"enum": list(GATES), "description": "The rest is this preset's."}
        if words := part.word_schemas():
            described = {"description": definition.get("description", "")}
            definitions[part.__name__] = {"anyOf": [definition, *words], **described}


def _groups(cls: type[BaseModel]) -> Iterator[type[Part]]:
    for field in cls.model_fields.values():
        arguments = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is dict else ()
        for part in [*parts_in(field.annotation), *(p for a in arguments for p in parts_in(a))]:
            if issubclass(part, Part):
                yield part
                yield from _groups(part)


def as_json() -> str:
    """The file's text."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _without_titles(value: Any, *, names: bool = False) -> Any:
    """Editors show a key's own name; pydantic's titles say it again. `names`: the keys here are people's own."""
    if isinstance(value, dict):
        return {
            k: _without_titles(v, names=k in ("properties", "$defs"))
            for k, v in value.items()
            if names or k != "title" or not isinstance(v, str)
        }
    if isinstance(value, list):
        return [_without_titles(v) for v in value]
    return value


if __name__ == "__main__":
    shipped().write_text(as_json())
