"""Groups of settings, and what one value means where a group stands: `objective: rlad`, `--set lora=true`.

A group (`Part`) says by `word_key` which of its keys a bare value sets: `distillation=50` is `distillation.k=50`.
Laying sources over each other (file, environment, --set) knows this too, so that a mapping over a word changes what the
word stood for: `gate: released` in a file and `--set gate.delta=0.1` are the released gate with another margin.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

ALIASES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
    "full": "float32",
    "gpu": "cuda",
    "hf": "transformers",
    "renormalize": "renormalise",
    "no": "off",
    "false": "off",
    "none": "off",
    "null": "off",
    "trust_region": "trust-region",
}
"""Other spellings of words that settings know; each counts only where the setting knows its meaning."""


class Part(BaseModel):
    """A nested group of settings: unknown keys are errors, and attribute docstrings are descriptions."""

    model_config = ConfigDict(
        extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )

    word_key: ClassVar[str] = ""
    """The key that a bare value in the group's place sets; empty: the group takes no bare value."""
    word_replaces: ClassVar[bool] = False
    """Whether a bare value says all there is to say (objective, gate), or one key among others (k, path)."""

    @classmethod
    def from_word(cls, word: Any) -> Any:
        """The mapping that a bare value stands for, {} for `true`; what stands for none comes back as it is."""
        if word is True:
            return {}
        if word is None or word is False or not cls.word_key or isinstance(word, Mapping):
            return word
        return {cls.word_key: word}

    @classmethod
    def word_schemas(cls) -> list[dict[str, Any]]:
        """JSON Schemas of the values that `from_word` takes beside mappings."""
        if not cls.word_key:
            return []
        return [{"type": ["boolean", "null", "string", "number", "array"], "description": f"sets `{cls.word_key}`"}]

    @classmethod
    def what_is_known(cls) -> str:
        """What may stand here, for the error about what may not."""
        return f"its keys are {', '.join(cls.model_fields)}"

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, data: Any) -> Any:
        if isinstance(data, (Mapping, BaseModel)):
            return as_meant(cls, data)
        given = cls.from_word(data)
        if not isinstance(given, Mapping):
            raise ValueError(f"{data!r} is not a group of settings; {cls.what_is_known()}")
        return as_meant(cls, given)


def as_meant(model: type[BaseModel], data: Any) -> Any:
    """`data` with words in the spelling that the fields know, and "a,b" as a list where a list is asked for."""
    if not isinstance(data, Mapping):
        return data
    fields = model.model_fields
    for key, value in data.items():
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{key} holds a NUL character, which no path or name can")
    return {k: _value_as_meant(fields[k].annotation, value) if k in fields else value for k, value in data.items()}


def _value_as_meant(annotation: Any, value: Any) -> Any:
    if isinstance(value, (Mapping, list, tuple, BaseModel)):
        return value
    if isinstance(value, bool) and (numbers := set(_members(annotation))) <= {int, float, type(None)}:
        return str(value).lower() if value or type(None) not in numbers else None  # true is no 1
    words = [word for word in literals(annotation) if isinstance(word, str)]
    if words and (isinstance(value, str) or value is False or value is True):
        if value in words:
            return value
        if (found := _spelt(str(value).lower(), words)) is not None and not (
            isinstance(value, bool) and bool in _members(annotation)
        ):
            return found
    members = list(_members(annotation))
    if type(None) in members and (value is False or str(value).lower() in ("none", "off", "no")):
        return value if bool in members or str in members else None
    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and _wants_list(members):
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else [value]
    return value


def _spelt(word: str, words: list[str]) -> str | None:
    """The known word that another spelling means."""
    plain = {w.lower().replace("-", "_"): w for w in words}
    for candidate in (word, ALIASES.get(word, word), ALIASES.get(word.replace("-", "_"), word)):
        if (found := plain.get(candidate.replace("-", "_"))) is not None:
            return found
    return "auto" if word in ("true", "on", "yes") and "auto" in words else None


def _members(annotation: Any) -> Iterator[Any]:
    """The alternatives of an annotation: itself, or those of a union, without `Annotated`."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _members(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _members(argument)
    else:
        yield annotation


def literals(annotation: Any) -> list[Any]:
    """The words that a field takes by name."""
    found = (m for m in _members(annotation) if typing.get_origin(m) is typing.Literal)
    return [word for member in found for word in typing.get_args(member)]


def _wants_list(members: list[Any]) -> bool:
    return str not in members and any(typing.get_origin(m) in (list, tuple) for m in members)


def parts_in(annotation: Any) -> list[type[BaseModel]]:
    """The models among an annotation's alternatives."""
    return [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def parts_within(annotation: Any) -> list[type[BaseModel]]:
    """The models that a list or mapping holds."""
    return [m for member in _members(annotation) for held in typing.get_args(member) for m in parts_in(held)]


def part_at(model: type[BaseModel], key: str) -> type[Part] | None:
    """The group of settings that a key of `model` holds, if it holds one."""
    field = model.model_fields.get(key)
    found = parts_in(field.annotation) if field is not None else []
    return next((m for m in found if issubclass(m, Part)), None)


def lay(model: type[BaseModel] | None, base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, mapping by mapping, where a word counts as the mapping that it stands for.

    Args:
        model: whose keys these are; None: nothing is known, and words replace.
    """
    result = dict(base)
    for key, value in changes.items():
        part = part_at(model, key) if model is not None else None
        old = result.get(key)
        if isinstance(value, Mapping):
            known = isinstance(old, Mapping) or old is None or part is None
            below = old if known else part.from_word(old)  # type: ignore[union-attr]
            result[key] = lay(part, below if isinstance(below, Mapping) else {}, value)
        elif part is not None and isinstance(old, Mapping) and not part.word_replaces:
            given = part.from_word(value)
            result[key] = lay(part, old, given) if isinstance(given, Mapping) else value
        else:
            result[key] = value
    return result
