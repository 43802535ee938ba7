"""The settings of every section of a config, built and checked before anything starts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from rgopd.cli.alignment import name_lora_rank
from rgopd.cli.sections import up_config
from rgopd.cli.teachers import teacher_sections
from rgopd.common.errors import ConfigError
from rgopd.common.explain import did_you_mean
from rgopd.common.models import check_model
from rgopd.common.settings import Settings
from rgopd.teacher.engines.waiting import ELSEWHERE


def check_sections(sections: dict[str, Any]) -> dict[str, Any]:
    """Every section's settings, built here, so that a misspelt key is told before anything starts."""
    from rgopd.sampler.config import SamplerConfig
    from rgopd.teacher.config import TeacherConfig
    from rgopd.trainer.config import TrainConfig
    from rgopd.trainer.records.monitors import check_backends
    from rgopd.verifier.config import VerifierConfig
    from rgopd.watch.config import WatchConfig

    classes: dict[str, type[Settings]] = {
        "teacher": TeacherConfig,
        "verifier": VerifierConfig,
        "sampler": SamplerConfig,
        "train": TrainConfig,
        "watch": WatchConfig,
    }
    sections = copy.deepcopy(sections)
    name_lora_rank(sections)
    known = {key for cls in classes.values() for key in cls.model_fields}
    for key in sections.get("common", {}):
        if key not in known:
            raise ConfigError(f"section common: no service has a setting {key!r}{did_you_mean(str(key), known)}")
    checked: dict[str, Any] = {"up": up_config(sections)}
    for section, cls in classes.items():
        try:
            check_owner(section, sections.get(section, {}), classes)
            settings = checked[section] = cls.from_mapping(own_settings(sections, cls, section))
            if isinstance(settings, TrainConfig):
                check_backends(settings.monitor)
            if isinstance(settings, (TrainConfig, SamplerConfig)):
                check_model(settings.student, "student")
            if isinstance(settings, TeacherConfig) and settings.engine not in ELSEWHERE:
                check_model(settings.model, "model")
            _check_architecture(settings)
        except ConfigError as error:
            raise ConfigError(f"section {section}: {error}") from error
    checked["teachers"] = {}
    for name, given in teacher_sections(sections).items():
        try:
            further = TeacherConfig.from_mapping(own_settings({**sections, "teacher": given}, TeacherConfig, "teacher"))
            if further.engine not in ELSEWHERE:
                check_model(further.model, "model")
            _check_architecture(further)
        except ConfigError as error:
            raise ConfigError(f"up.teachers.{name}: {error}") from error
        checked["teachers"][name] = further
    return checked


def check_owner(section: str, given: dict[str, Any], classes: dict[str, type[Settings]]) -> None:
    """Refuse a key that stands in the section of another service."""
    for key in given:
        owners = [name for name, cls in classes.items() if key in cls.model_fields]
        if owners and section not in owners:
            raise ConfigError(f"unknown key {key!r}; it is a setting of {' and '.join(owners)}: write it there")


def _check_architecture(settings: Settings) -> None:
    """What each service checks of its model before it loads it, where the model lies on this machine."""
    from rgopd.sampler.architecture import check_student_architecture
    from rgopd.sampler.config import SamplerConfig
    from rgopd.teacher.config import TeacherConfig
    from rgopd.teacher.engines.loading import check_teacher_architecture
    from rgopd.trainer.config import TrainConfig
    from rgopd.trainer.student.anatomy import check_architecture_of

    if isinstance(settings, TeacherConfig) and Path(settings.model).is_dir() and settings.engine not in ELSEWHERE:
        check_teacher_architecture(settings)
    elif isinstance(settings, SamplerConfig) and Path(settings.student).is_dir():
        check_student_architecture(settings)
    elif isinstance(settings, TrainConfig) and Path(settings.student).is_dir():
        check_architecture_of(settings.student)


def own_settings(sections: dict[str, Any], cls: type[Settings], section: str) -> dict[str, Any]:
    """A service's settings out of `common` and its own section."""
    shared = {k: v for k, v in sections.get("common", {}).items() if k in cls.model_fields}
    return {**shared, **sections.get(section, {})}
