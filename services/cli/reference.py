"""Every setting: key, type, default, unit, meaning, since. `rgopd config reference` and docs/settings.md."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rgopd.cli.sections import section_classes
from rgopd.common.errors import ConfigError
from rgopd.common.explain import did_you_mean
from rgopd.common.parts import Part, parts_in
from rgopd.common.settings import Settings

SECTION_TITLES = {
    "common": "What every service has; section `common` gives it to all of them",
    "teacher": "Section `teacher`: `rgopd teacher`",
    "verifier": "Section `verifier`: `rgopd verifier`",
    "sampler": "Section `sampler`: `rgopd sampler`",
    "train": "Section `train`: `rgopd train`",
    "up": "Section `up`: what `rgopd up` starts on this machine",
    "watch": "Section `watch`: `rgopd watch`, the live page",
    "objective": "Options of the objectives: `train.objective: {name: NAME, options: {…}}`",
}

INTRODUCTION = """\
Written by `make settings` from the settings classes; change those, not this page. `rgopd config reference WORD`
searches it, `rgopd config show -c FILE` tells where each value of a run comes from, and `rgopd config schema` is what
editors complete and check YAML with (`# yaml-language-server: $schema=FILE` as the first line).

Sources in rising order: YAML files, `RGOPD_*` environment variables (`RGOPD_OPTIM__LR` for `optim.lr`), `--set`. `rgopd
up`, `demo`, `doctor` and `plan` take the section first (`--set train.optim.lr=1e-5`), or leave it out where one section
alone has the key; a service by itself takes its own keys (`rgopd train --set optim.lr=1e-5`).

One word in the place of a group means what it says: `objective=rlad`, `gate=released`, `distillation=50` (its k),
`lora=true`, `lora=8` (its rank), `optim=1e-5` (its lr), `checkpoint=20` (its every), `dataset=rows.jsonl`,
`eval=heldout.jsonl`, `eval=off`, `monitor=tensorboard`, `fsdp=offload`; so do `dtype=bf16` and `device=gpu`."""

_UNITS = (
    (r"_ms$", "ms"),
    (r"_s$", "s"),
    (r"_mb$", "MiB"),
    (r"_bytes$", "bytes"),
    (r"(^|\.)(steps|warmup_steps|every|max_staleness)$", "steps"),
    (r"_tokens$|(^|\.)(max_context|chunk_size)$", "tokens"),
    (r"(_rows|(^|\.)limit)$", "rows"),
    (r"micro_batch_rollouts$|max_rollouts$|min_rollouts$", "rollouts"),
    (r"delta$", "nats"),
)


@dataclass(frozen=True)
class Row:
    """One setting."""

    section: str
    key: str
    """Dotted, below its section."""
    type: str
    default: str
    unit: str
    meaning: str
    since: str

    @property
    def name(self) -> str:
        """As `--set` of `rgopd up` writes it."""
        return self.key if self.section == "objective" else f"{self.section}.{self.key}"


def reference() -> list[Row]:
    """All settings, section by section, in the order of the classes."""
    since = _since()
    rows = list(_rows("common", Settings, since))
    for section, cls in section_classes().items():
        shared = Settings.model_fields if section != "up" else {}
        rows += [row for row in _rows(section, cls, since) if row.key not in shared]
    return rows + list(_objectives(since))


def search(words: Iterable[str]) -> list[Row]:
    """The settings whose names (or else meanings) hold each of the words.

    Raises:
        ConfigError: none does; names the nearest.
    """
    rows, wanted = reference(), [word.lower() for word in words]
    found = [row for row in rows if all(word in row.name.lower() for word in wanted)]
    found = found or [row for row in rows if all(word in f"{row.name} {row.meaning}".lower() for word in wanted)]
    if not found:
        text = " ".join(wanted)
        known = {row.name for row in rows} | {row.key.rpartition(".")[2] for row in rows}
        raise ConfigError(f"no setting speaks of {text!r}{did_you_mean(text, known)}")
    return found


def as_text(rows: Iterable[Row]) -> str:
    """For a terminal: a setting and its meaning, two lines each."""
    lines = []
    for row in rows:
        unit = f" {row.unit}" if row.unit else ""
        lines += [f"{row.name}  ({row.type}; default {row.default}{unit})", f"    {row.meaning}"]
    return "\n".join(lines)


def as_markdown(rows: Iterable[Row]) -> str:
    """docs/settings.md."""
    lines = [
        "# Settings",
        "",
        INTRODUCTION,
    ]
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            lines += ["", f"## {SECTION_TITLES[section]}", "", "| key | type | default | unit | meaning | since |"]
            lines += ["|---|---|---|---|---|---|"]
        cells = [f"`{row.key}`", row.type, f"`{row.default}`" if row.default else "", row.unit, row.meaning, row.since]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def write_page(page: Path, first_seen: Path) -> None:
    """The page, and the record of the version that each key came with."""
    record = json.loads(first_seen.read_text()) if first_seen.exists() else {}
    from rgopd import __version__

    names = sorted(row.name for row in reference())
    known = {name for keys in record.values() for name in keys}
    kept = {version: [name for name in keys if name in names] for version, keys in record.items()}
    new = [name for name in names if name not in known]
    if new:
        kept[__version__] = sorted([*kept.get(__version__, []), *new])
    first_seen.write_text(json.dumps(kept, indent=0) + "\n")
    page.write_text(as_markdown(reference()))


def _since() -> dict[str, str]:
    path = Path(str(files("rgopd.configs") / "since.json"))
    record = json.loads(path.read_text()) if path.exists() else {}
    return {name: version for version, names in record.items() for name in names}


def _rows(section: str, cls: type[BaseModel], since: dict[str, str], above: str = "") -> Iterator[Row]:
    for name, field in cls.model_fields.items():
        key = f"{above}{name}"
        yield _row(section, key, field, cls, since)
        for part in parts_in(field.annotation):
            if issubclass(part, Part):
                yield from _rows(section, part, since, f"{key}.")
        for part in _parts_by_name(field.annotation):
            yield from _rows(section, part, since, f"{key}.NAME.")


def _objectives(since: dict[str, str]) -> Iterator[Row]:
    from rgopd.trainer.objectives.registry import known

    for name, cls in sorted(known().items()):
        yield from _rows("objective", cls, since, f"{name}.")


def _row(section: str, key: str, field: FieldInfo, cls: type[BaseModel], since: dict[str, str]) -> Row:
    unit = next((unit for pattern, unit in _UNITS if re.search(pattern, key)), "")
    groups = [p for p in parts_in(field.annotation) if issubclass(p, Part)]
    meaning = field.description or (_first_sentence(groups[0].__doc__) if groups else "")
    name = key if section == "objective" else f"{section}.{key}"
    type_text = type_name(field.annotation)
    return Row(section, key, type_text, _default(field), unit, " ".join(meaning.split()), since.get(name, ""))


def _first_sentence(text: str | None) -> str:
    return re.split(r"(?<=\.)\s", " ".join((text or "").split()), maxsplit=1)[0]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
    if value is PydanticUndefined:
        return "(needed)"
    if isinstance(value, BaseModel):
        return "(its keys')"
    return "" if value == "" else json.dumps(value, default=str).replace('"', "")


def type_name(annotation: Any) -> str:
    """An annotation as people write it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(a) for a in arguments)
    if origin is typing.Literal:
        return " or ".join(str(a) for a in arguments)
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} numbers"
    if origin is dict:
        return f"mapping of {type_name(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "group"
    plain = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Path: "path"}
    return plain.get(annotation, "any")


def _parts_by_name(annotation: Any) -> list[type[Part]]:
    if typing.get_origin(annotation) is not dict:
        return []
    return [p for p in parts_in(typing.get_args(annotation)[1]) if issubclass(p, Part)]


if __name__ == "__main__":
    root = Path(__file__).parent.parent
    write_page(root.parent / "docs" / "settings.md", root / "configs" / "since.json")
