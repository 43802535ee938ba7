"""One sectioned config for all processes of a machine: read, override, resolve, check, write."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from rgopd.common.errors import ConfigError
from rgopd.common.explain import did_you_mean
from rgopd.common.parts import Part, lay
from rgopd.common.settings import (
    SECTIONS,
    ConfigFiles,
    Settings,
    explain,
    is_sectioned,
    merge,
    nearest,
    parse_overrides,
    paths_of,
    read_files,
    read_yaml,
)

__all__ = ["merge"]


class SlurmConfig(Part):
    """Where `rgopd up --slurm` puts a run's processes."""

    components: dict[Literal["verifier", "teacher", "sampler", "train"], int] = Field(
        default_factory=dict,
        validate_default=True,
        description="The job's component of each (verifier 0, teacher 1, sampler 2, train 3); a job of one holds all.",
    )
    gpus: dict[Literal["teacher", "sampler", "train"], int] = Field(
        default_factory=dict, description="GPUs of each process; of train, on each of its nodes."
    )
    cpus: dict[Literal["verifier", "teacher", "sampler", "train"], int] = Field(
        default_factory=dict, description="CPUs of each process; unset: an equal share of its component."
    )
    address: str = Field("", description="How other nodes reach the batch node's Redis; empty: by its host name.")

    @field_validator("components")
    @classmethod
    def _all(cls, given: dict[Any, int]) -> dict[Any, int]:
        return {"verifier": 0, "teacher": 1, "sampler": 2, "train": 3} | given


class UpConfig(Part):
    """Section `up`: what is started on this machine."""

    samplers: int = Field(1, ge=1, description="Sampler processes.")
    max_restarts: int = Field(
        3, ge=0, description="How often in a row a process that dies within a minute is started again."
    )
    ready_timeout_s: float = Field(
        300.0,
        gt=0,
        description="How long a service that is not ready may show no progress: nothing fetched, read or computed.",
    )
    stop_timeout_s: float = Field(
        120.0,
        gt=0,
        description="How long the trainer may take to end its step and save; its longest step comes on top, and the "
        "clock starts again while it writes.",
    )
    gpus: dict[Literal["teacher", "sampler", "train"], str | int] = Field(
        default_factory=dict,
        description="GPUs of a service's processes, as CUDA_VISIBLE_DEVICES names them; samplers share theirs out. "
        "Unset: trainer ranks from 0 on, the teacher next, samplers on what is left or beside the ranks.",
    )
    teachers: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Further teachers by name, each a process of its own with these settings laid over section "
        "teacher's; train.dataset.teachers says which domain's prompts go to whom.",
    )
    watch: bool = Field(True, description="Serve the run's live page beside it (`--no-watch`: not); section `watch`.")
    maxmemory_mb: int = Field(0, ge=0, description="Limit of the embedded Redis; 0: none.")
    slurm: SlurmConfig = Field(default_factory=SlurmConfig, description="`rgopd up --slurm` (docs/slurm.md).")

    @field_validator("teachers")
    @classmethod
    def _names(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in value:
            if not _TEACHER.fullmatch(name):
                raise ValueError(f"{name!r}: a teacher's name is 1 to 64 letters, digits and underscores")
        return value


_TEACHER = re.compile(r"[A-Za-z0-9_]{1,64}")


def section_classes() -> dict[str, type[BaseModel]]:
    """The settings of every section; `common` holds what any of them knows. Imports torch."""
    from rgopd.sampler.config import SamplerConfig
    from rgopd.teacher.config import TeacherConfig
    from rgopd.trainer.config import TrainConfig
    from rgopd.verifier.config import VerifierConfig
    from rgopd.watch.config import WatchConfig

    return {
        "teacher": TeacherConfig,
        "verifier": VerifierConfig,
        "sampler": SamplerConfig,
        "train": TrainConfig,
        "up": UpConfig,
        "watch": WatchConfig,
    }


def read_sections(config: ConfigFiles, overrides: list[str]) -> dict[str, dict[str, Any]]:
    """The sections of a file, or of several laid over each other, with `--set section.key=value` applied.

    Raises:
        ConfigError: an unknown section, or a file without sections.
    """
    if not config:
        raise ConfigError("name a config: --config my.yaml; `rgopd init` writes one")
    read_files(config)  # sections mixed with flat files are an error
    sections: dict[str, dict[str, Any]] = {}
    for path in paths_of(config):
        loaded = read_yaml(path)
        if loaded and not is_sectioned(loaded):
            for key in loaded:
                if hint := did_you_mean(str(key), SECTIONS):
                    raise ConfigError(f"config file {path}: unknown section {key!r}{hint}")
            raise ConfigError(
                f"config file {path} holds one service's settings; this command reads sections, e.g. "
                f"train: {{{next(iter(loaded))}: …}} ({', '.join(SECTIONS)})"
            )
        sections = lay_sections(sections, loaded)
    return override(sections, sectioned(overrides))


def lay_sections(sections: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`changes` over `sections`, each by what its service's settings mean (`rgopd.common.parts.lay`).

    Raises:
        ConfigError: an unknown section, or one that is no mapping.
    """
    for source in (sections, changes):
        for key, value in source.items():
            if key not in SECTIONS:
                raise ConfigError(f"unknown section {key!r}{nearest(key, SECTIONS)}{_whose(key)}")
            if not isinstance(value, dict):
                raise ConfigError(f"section {key!r} must be a mapping; write --set {key}.<setting>=<value>")
    classes = section_classes()
    result = {key: copy.deepcopy(value) for key, value in sections.items()}
    for key, value in changes.items():
        result[key] = lay(classes.get(key), result.get(key, {}), copy.deepcopy(value))
    return result


def override(sections: dict[str, Any], overrides: list[str]) -> dict[str, dict[str, Any]]:
    """`sections` with `--set section.key=value` laid over them; both are checked for unknown sections."""
    result = lay_sections(sections, {})
    for given in overrides:
        result = lay_sections(result, parse_overrides([given]))
    return result


def sectioned(overrides: Sequence[str]) -> list[str]:
    """`--set` with the section written out where the key tells it: steps=10 is train.steps=10.

    What several services must agree on (`student`, `shared_vocab_size`) goes to each; what all have, to `common`.
    """
    written: list[str] = []
    for given in overrides:
        key = given.partition("=")[0].strip().partition(".")[0]
        if not key or key in SECTIONS or "=" not in given:
            written.append(given)
        else:
            written += [f"{section}.{given.strip()}" for section in _places(key)] or [given]
    return written


def place(key: str) -> list[str]:
    """The sections that a key without one goes to; ConfigError where none has it, or more than one."""
    if not (found := _places(key)):
        raise ConfigError(f"unknown setting {key!r}{_whose(key) or nearest(key, _all_keys())}")
    return found


def _places(key: str) -> list[str]:
    if key in Settings.model_fields:
        return ["common"]
    owners = _owners(key)
    return owners if len(owners) == 1 or key in SHARED else []


def _all_keys() -> set[str]:
    return {name for cls in section_classes().values() for name in cls.model_fields}


SHARED = ("student", "shared_vocab_size", "colocated")
"""Keys of several services that mean the same thing in each."""


def _owners(key: str) -> list[str]:
    return [section for section, cls in section_classes().items() if key in cls.model_fields]


def _whose(key: str) -> str:
    owners = {f"{section}.{name}" for section, cls in section_classes().items() for name in cls.model_fields}
    meant = sorted(name for name in owners if name.partition(".")[2] == key)
    if meant:
        return "; write " + " or ".join(f"--set {name}=…" for name in meant)
    close = difflib.get_close_matches(key, {name.partition(".")[2] for name in owners}, n=1, cutoff=0.7)
    return "" if not close else "; or " + " or ".join(sorted(n for n in owners if n.partition(".")[2] == close[0]))


def up_config(sections: dict[str, Any]) -> UpConfig:
    """The checked section `up`."""
    try:
        return UpConfig(**sections.get("up", {}))
    except ValidationError as error:
        raise ConfigError(f"section up: {explain(UpConfig, error)}") from error


def write_sections(path: Path, sections: dict[str, Any]) -> None:
    """Write the file that every process is started with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)  # redis_url may hold a password
    path.chmod(0o600)
    path.write_text(yaml.safe_dump(sections, sort_keys=False))
