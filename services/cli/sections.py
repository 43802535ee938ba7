"""One sectioned config for all processes of a machine: read, override, resolve, check, write."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rgopd.common.errors import ConfigError
from rgopd.common.settings import SECTIONS, ConfigFiles, explain, merge, nearest, parse_overrides, read_files


class UpConfig(BaseModel):
    """Section `up`: what is started on this machine."""

    model_config = ConfigDict(extra="forbid")

    samplers: int = Field(1, ge=1)
    max_restarts: int = Field(
        3, ge=0, description="How often in a row a process that dies within a minute is started again."
    )
    ready_timeout_s: float = Field(300.0, gt=0)
    stop_timeout_s: float = Field(120.0, gt=0, description="How long the trainer may take to end its step and save.")
    gpus: dict[Literal["teacher", "sampler", "train"], str | int] = Field(
        default_factory=dict, description="CUDA_VISIBLE_DEVICES of a service's processes; unset: all of them."
    )
    watch: bool = Field(True, description="Serve the run's live page beside it (`--no-watch`: not); section `watch`.")
    maxmemory_mb: int = Field(0, ge=0, description="Limit of the embedded Redis; 0: none.")


def read_sections(config: ConfigFiles, overrides: list[str]) -> dict[str, dict[str, Any]]:
    """The sections of a file, or of several laid over each other, with `--set section.key=value` applied.

    Raises:
        ConfigError: an unknown section, or a file without sections.
    """
    if not config:
        raise ConfigError("name a config: --config services/configs/demo.yaml, or one like it")
    return override(read_files(config), overrides)


def override(sections: dict[str, Any], overrides: list[str]) -> dict[str, dict[str, Any]]:
    """`sections` with `--set section.key=value` laid over them; both are checked for unknown sections."""
    changes = parse_overrides(overrides)
    for source in (sections, changes):
        for key, value in source.items():
            if key not in SECTIONS:
                raise ConfigError(f"unknown section {key!r}{nearest(key, SECTIONS)}")
            if not isinstance(value, dict):
                raise ConfigError(f"section {key!r} must be a mapping; write --set {key}.<setting>=<value>")
    return merge(sections, changes)


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
