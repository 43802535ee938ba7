"""Every setting that takes words: in any usual spelling they mean themselves, misspelt they are named."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from rgopd.cli.sections import section_classes
from rgopd.common.explain import explain
from rgopd.common.parts import as_meant, literals, parts_in


def fields() -> Iterator[tuple[type[BaseModel], str]]:
    """Every (class, key) of the settings with words, each class once."""
    seen: set[type[BaseModel]] = set()
    waiting = list(section_classes().values())
    while waiting:
        cls = waiting.pop()
        if cls in seen:
            continue
        seen.add(cls)
        for key, field in cls.model_fields.items():
            waiting += parts_in(field.annotation)
            if any(isinstance(word, str) for word in literals(field.annotation)):
                yield cls, key


FIELDS = sorted(fields(), key=lambda f: (f[0].__name__, f[1]))


def taken(cls: type[BaseModel], key: str, value: Any) -> Any:
    """What the field makes of it, by the rules of its group."""
    meant = as_meant(cls, {key: value})[key]
    field = cls.model_fields[key]
    return TypeAdapter(typing.Annotated[field.annotation, field]).validate_python(meant)


def test_there_are_many() -> None:
    assert len(FIELDS) > 20


@pytest.mark.parametrize(("cls", "key"), FIELDS, ids=[f"{c.__name__}.{k}" for c, k in FIELDS])
def test_words_in_usual_spellings(cls: type[BaseModel], key: str) -> None:
    words = [word for word in literals(cls.model_fields[key].annotation) if isinstance(word, str) and word]
    for word in words:
        for spelt in {word, word.upper(), word.capitalize(), word.replace("_", "-"), word.replace("-", "_")}:
            assert taken(cls, key, spelt) == word
        if word == "off":
            assert taken(cls, key, False) in ("off", False, None)


@pytest.mark.parametrize(("cls", "key"), FIELDS, ids=[f"{c.__name__}.{k}" for c, k in FIELDS])
def test_misspelt_words_name_what_is_known(cls: type[BaseModel], key: str) -> None:
    annotation = cls.model_fields[key].annotation
    words = [word for word in literals(annotation) if isinstance(word, str) and word]
    for word in (w for w in words if len(w) > 3):
        wrong = word[:-1] + "zq"
        try:
            taken(cls, key, wrong)
            return  # any text may stand there
        except ValidationError:
            pass
        with pytest.raises((ValidationError, ValueError)) as error:
            cls.model_validate({key: wrong})
        assert isinstance(error.value, ValidationError)
        told = explain(cls, error.value)
        assert key in told
        assert all(known in told for known in words) or f"did you mean {word!r}" in told, told
