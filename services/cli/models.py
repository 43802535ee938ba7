"""Models that cannot be used at all: told once, so that `doctor` looks no further at what it cannot load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from rgopd.cli.shapes import check_shapes
from rgopd.cli.teachers import teacher_sections
from rgopd.common.errors import ConfigError
from rgopd.common.models import at_hand, check_model, check_tokenizer, loading
from rgopd.common.settings import Settings
from rgopd.common.weight_files import check_weights
from rgopd.teacher.engines.waiting import ELSEWHERE


def refused_model(sections: dict[str, Any]) -> str:
    """Why the student, or a teacher, is refused by its config.json, a hub id's too; empty: none is."""
    for check in _checks(sections):
        try:
            check()
        except ConfigError as error:
            return str(error)
    return ""


def read_tokenizer(model: str, setting: str) -> Any:
    """A model's tokenizer.

    Raises:
        ConfigError: it has none, or one that needs Python code of its own.
    """
    from transformers import AutoTokenizer

    check_model(model, setting)
    with loading(setting, model):
        tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    check_tokenizer(setting, model, tokenizer)
    return tokenizer


def every_teacher(sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Section `teacher` under the name "", then those of `up.teachers`; the first alone where `up` is misspelt."""
    try:
        further = teacher_sections(sections)
    except ConfigError:  # the check of the config tells
        further = {}
    return {"": sections.get("teacher", {}), **further}


def _checks(sections: dict[str, Any]) -> Iterator[Callable[[], Any]]:
    from rgopd.sampler.architecture import check_student_architecture
    from rgopd.sampler.config import SamplerConfig
    from rgopd.teacher.config import TeacherConfig
    from rgopd.teacher.engines.loading import check_teacher_architecture
    from rgopd.trainer.student.anatomy import check_architecture_of

    common = sections.get("common", {})
    student = str({**common, **sections.get("train", {})}.get("student") or "")
    if student:
        yield lambda: check_model(student, "student")
        yield partial(at_hand, "student", student)
        yield lambda: check_architecture_of(student)
        yield from _weight_checks("student", student)
        yield partial(read_tokenizer, student, "student")
        sampler = _settings(SamplerConfig, {"student": student, **common, **sections.get("sampler", {})})
        if sampler is not None:
            yield partial(check_student_architecture, sampler)
    for section in every_teacher(sections).values():
        teacher = _settings(TeacherConfig, {**common, **section})
        if teacher is not None and teacher.model and teacher.engine not in ELSEWHERE:
            yield partial(check_model, teacher.model, "model")
            yield partial(at_hand, "model", teacher.model)
            yield partial(check_teacher_architecture, teacher)
            yield from _weight_checks("model", teacher.model)


def _weight_checks(setting: str, name: str) -> Iterator[Callable[[], Any]]:
    yield partial(check_weights, setting, name)
    yield partial(check_shapes, setting, name)


S = TypeVar("S", bound=Settings)


def _settings(cls: type[S], values: dict[str, Any]) -> S | None:
    """None where they are misspelt: the check of the config tells."""
    try:
        return cls.from_mapping({key: value for key, value in values.items() if key in cls.model_fields})
    except ConfigError:
        return None
