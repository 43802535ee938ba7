"""Settings from YAML, `RGOPD_*` environment variables and `--set key=value`, in rising precedence.

A YAML file is either flat (one service's keys) or has one section a service, plus `common` for what they share:

    common: {redis_url: redis://localhost:6379/0, run_id: demo}
    teacher: {model: /models/teacher}

Several files may be given: each is laid over those before it, mapping by mapping (`read_files`).

A key that does not exist is an error that names the nearest one. Environment variables that fit no key are
ignored, since clusters put their own there (RGOPD_TEACHER_PORT for a Kubernetes service called rgopd-teacher).
"""

from __future__ import annotations

import copy
import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from rgopd.common.errors import ConfigError

SECTIONS = ("common", "teacher", "verifier", "sampler", "train", "up", "watch")
_MARKS = frozenset(SECTIONS) - {"watch"}
"""Keys that make a file a sectioned one; the trainer has a group of settings called watch, too."""

S = TypeVar("S", bound="Settings")

ConfigFiles = Path | typing.Sequence[Path] | None
"""`--config`, given once, several times, or not at all."""


class Part(BaseModel):
    """A nested group of settings: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Settings(BaseSettings):
    """Base of every process's settings. `from_sources` is the way in."""

    model_config = SettingsConfigDict(
        env_prefix="RGOPD_", env_nested_delimiter="__", extra="forbid", validate_default=True, protected_namespaces=()
    )

    run_id: str = Field("default", pattern=r"^[A-Za-z0-9._-]{1,128}$", description="Names the run's streams and blobs.")
    redis_url: str = Field("", description="Redis-protocol server; empty: HTTP only, no stream worker.")
    log_level: typing.Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`--set` first, then the environment, then the file (`from_sources` hands both over as init values)."""
        values = dict(init_settings())
        from_file = values.pop("_file", {})
        return (
            InitSettingsSource(settings_cls, values),
            env_settings,
            InitSettingsSource(settings_cls, from_file),
        )

    @classmethod
    def from_sources(
        cls: type[S],
        section: str,
        config: ConfigFiles = None,
        overrides: typing.Sequence[str] = (),
    ) -> S:
        """Load and check.

        Args:
            section: this service's section of a sectioned file, e.g. "teacher".
            config: YAML file, or several of which the later win, or None.
            overrides: "dotted.key=value" strings; values are read as YAML scalars or flow collections.

        Raises:
            ConfigError: an unreadable file, an unknown key (with the nearest known one), or a bad value.
        """
        from_file = _section(read_files(config), section, cls, config) if config else {}
        return cls.from_mapping(from_file, parse_overrides(overrides))

    @classmethod
    def from_mapping(cls: type[S], from_file: dict[str, Any], overrides: dict[str, Any] | None = None) -> S:
        """The same from values already read: file values below the environment, overrides above it."""
        values: dict[str, Any] = {**(overrides or {}), "_file": from_file}
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(explain(cls, error)) from error


class ServiceSettings(Settings):
    """What every HTTP service has."""

    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535, description="0: any free port; the ready line names it.")
    token: str = Field("", description="Bearer token that requests must carry; empty: none.", repr=False)
    token_file: Path | None = Field(None, description="File holding the bearer token; wins over `token`.")
    allow_root: bool = Field(False, description="Serve other machines as root, though only the verifier needs it.")
    max_body_mb: int = Field(64, ge=1, le=4096)
    drain_s: float = Field(30.0, ge=0, description="How long a stopping service finishes what it holds.")
    lease_ms: int = Field(30_000, ge=100, description="A message whose lease is not renewed this long is taken over.")
    max_attempts: int = Field(3, ge=1)

    def bearer_token(self) -> str:
        """The configured token; raises `ConfigError` when its file cannot be read."""
        if self.token_file is None:
            return self.token
        try:
            token = self.token_file.read_text().strip()
        except OSError as error:
            raise ConfigError(f"token_file {self.token_file} cannot be read: {error}") from error
        if not token:  # an unfilled secret must not open the door
            raise ConfigError(f"token_file {self.token_file} is empty; put the token there, or unset it to need none")
        return token


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; raises `ConfigError` naming the file and line otherwise."""
    try:
        loaded = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path} is not YAML: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"config file {path} must hold a mapping of settings, not a {type(loaded).__name__}")
    return loaded


def read_files(config: ConfigFiles) -> dict[str, Any]:
    """The files laid over each other: nested mappings are merged, anything else in a later file replaces.

    Raises:
        ConfigError: an unreadable file, or files with sections mixed with flat ones.
    """
    paths = [config] if isinstance(config, Path) else list(config or [])
    merged: dict[str, Any] = {}
    for path in paths:
        loaded = read_yaml(path)
        if merged and loaded and any(k in _MARKS for k in merged) != any(k in _MARKS for k in loaded):
            raise ConfigError(
                f"config file {path}: some of {', '.join(map(str, paths))} have sections ({', '.join(SECTIONS)}) and "
                "some are flat; write them alike"
            )
        merged = merge(merged, loaded)
    return merged


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with nested `changes` laid over it; neither is changed."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def parse_overrides(overrides: typing.Sequence[str]) -> dict[str, Any]:
    """["gate.delta=0.1"] -> {"gate": {"delta": 0.1}}."""
    result: dict[str, Any] = {}
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator or not dotted.strip():
            raise ConfigError(f"--set {override!r}: write it as key=value, e.g. --set gate.delta=0.1")
        target = result
        *parents, leaf = dotted.strip().split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        try:
            target[leaf] = yaml.safe_load(text) if text else ""
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override!r}: the value is not YAML: {error}") from error
    return result


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """One line a problem; for an unknown key, the nearest known one."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _keys_at(model, problem["loc"][:-1])
            lines.append(f"unknown key {where!r}{nearest(str(problem['loc'][-1]), known)}")
        elif problem["type"] == "missing":
            lines.append(f"{where} is missing")
        else:
            lines.append(f"{where or 'settings'}: {problem['msg']} (got {problem['input']!r})")
    return "; ".join(lines)


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """'; did you mean X?' or the list of what is known."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys are {', '.join(options)}"


def _section(loaded: dict[str, Any], section: str, cls: type[BaseModel], config: ConfigFiles) -> dict[str, Any]:
    path = config if isinstance(config, Path) else ", ".join(map(str, config or []))
    known = _keys_at(cls, ())
    if not any(key in _MARKS for key in loaded) and not (set(loaded) == {"watch"} and "watch" not in known):
        return loaded
    for key, value in loaded.items():
        if key not in SECTIONS:
            raise ConfigError(f"config file {path}: unknown section {key!r}{nearest(key, SECTIONS)}")
        if not isinstance(value, dict):
            raise ConfigError(f"config file {path}: section {key!r} must be a mapping")
    # `common` may hold what only some services know; a misspelt key there still has to fit one of this one's
    # keys or be named in another section's service, so only keys this service has are taken over.
    shared = {k: v for k, v in loaded.get("common", {}).items() if k in known}
    return {**shared, **loaded.get(section, {})}


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    current: Any = model
    for part in loc:
        models = [m for m in _models_in(current) if part in m.model_fields]
        if not models:
            return set()
        current = models[0].model_fields[str(part)].annotation
    return {key for m in _models_in(current) for key in m.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [m for arg in typing.get_args(annotation) for m in _models_in(arg)]
    return []
