"""Settings from YAML, `RGOPD_*` environment variables and `--set key=value`, in rising precedence.

A YAML file is either flat (one service's keys) or has one section a service, plus `common` for what they share:

    common: {redis_url: redis://localhost:6379/0, run_id: demo}
    teacher: {model: /models/teacher}

Several files may be given: each is laid over those before it, mapping by mapping (`read_files`).

One word in the place of a group of settings means what it says there (`parts.py`). A key that does not exist is an
error that names the nearest one. Environment variables that fit no key are ignored, since clusters put their own there
(RGOPD_TEACHER_PORT for a Kubernetes service called rgopd-teacher).
"""

from __future__ import annotations

import copy
import typing
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from rgopd.common.errors import ConfigError
from rgopd.common.explain import explain, nearest
from rgopd.common.parts import Part, as_meant, lay
from rgopd.common.yaml_lines import load_yaml, read_value

__all__ = ["Part", "explain", "nearest"]  # their users need one module

SECTIONS = ("common", "teacher", "verifier", "sampler", "train", "up", "watch")
_MARKS = frozenset(SECTIONS) - {"watch"}
"""Keys that make a file a sectioned one; the trainer has a group of settings called watch, too."""

S = TypeVar("S", bound="Settings")

ConfigFiles = Path | typing.Sequence[Path] | None
"""`--config`, given once, several times, or not at all."""


class _Environment(EnvSettingsSource):
    """RGOPD_* variables; a group's value may be a word or YAML, not JSON alone."""

    def decode_complex_value(self, field_name: str, field: FieldInfo | None, value: Any) -> Any:
        """As `--set` reads it."""
        try:
            return read_value(value)
        except ValueError:
            return value  # the field says what it takes


class _Given(InitSettingsSource):
    """Values under the names they were given by: `Steps` is no spelling of `steps`, which nothing else would see."""

    def __init__(self, settings_cls: type[BaseSettings], given: dict[str, Any]) -> None:
        super().__init__(settings_cls, {})
        self.init_kwargs = given


class Settings(BaseSettings):
    """Base of every process's settings. `from_sources` is the way in."""

    model_config = SettingsConfigDict(
        env_prefix="RGOPD_",
        env_nested_delimiter="__",
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    run_id: str = Field("default", pattern=r"^[A-Za-z0-9._-]{1,128}$", description="Names the run's streams and blobs.")
    redis_url: str = Field(
        "",
        description="Redis-protocol server; empty: HTTP only, no stream worker. Several with commas share a run's "
        "groups; TEACHER=URL holds a named teacher's jobs (docs/scaling.md).",
    )
    blob_url: str = Field(
        "",
        description="Where rollouts, verdicts and scores lie: empty: in the run's Redis; else redis://…, "
        "file:///folder or s3://bucket/prefix?endpoint=https://host (docs/scaling.md).",
    )
    log_level: typing.Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged (JSON lines on stderr)."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Values given by name above the environment; `from_mapping` has laid both over the file already."""
        values = dict(init_settings())
        if (laid := values.pop("_laid", None)) is not None:
            return (_Given(settings_cls, laid),)
        return (InitSettingsSource(settings_cls, values), _Environment(settings_cls))

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, data: Any) -> Any:
        return as_meant(cls, data)

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
        from_file: dict[str, Any] = {}
        for path in paths_of(config):
            from_file = lay(cls, from_file, section_of(read_yaml(path), section, cls, path))
        read_files(config)  # sections mixed with flat files are an error
        return cls.from_mapping(from_file, own_overrides(cls, section, overrides))

    @classmethod
    def from_mapping(cls: type[S], from_file: dict[str, Any], overrides: dict[str, Any] | None = None) -> S:
        """The same from values already read: file values below the environment, overrides above it."""
        laid = lay(cls, lay(cls, from_file, cls.environment()), overrides or {})
        try:
            values: dict[str, Any] = {"_laid": laid}
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(explain(cls, error)) from error

    @classmethod
    def environment(cls) -> dict[str, Any]:
        """What RGOPD_* variables say."""
        return dict(_Environment(cls)())


class ServiceSettings(Settings):
    """What every HTTP service has."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0: every one of this machine.")
    port: int = Field(0, ge=0, le=65535, description="0: any free port; the ready line names it.")
    token: str = Field("", description="Bearer token that requests must carry; empty: none.", repr=False)
    token_file: Path | None = Field(None, description="File holding the bearer token; wins over `token`.")
    allow_root: bool = Field(False, description="Serve other machines as root, though only the verifier needs it.")
    max_body_mb: int = Field(64, ge=1, le=4096, description="Largest request body.")
    load_quiet_s: float = Field(
        600.0, gt=0, description="A service that is not ready and shows no progress for this long ends with the reason."
    )
    drain_s: float = Field(30.0, ge=0, description="How long a stopping service finishes what it holds.")
    lease_ms: int = Field(30_000, ge=100, description="A message whose lease is not renewed this long is taken over.")
    max_attempts: int = Field(3, ge=1, description="A message that failed so often goes to the dead letters.")

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
    loaded = load_yaml(path)[0]
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"config file {path} must hold a mapping of settings, not a {type(loaded).__name__}")
    return loaded


def paths_of(config: ConfigFiles) -> list[Path]:
    """The files that `--config` names: paths, or names of shipped configs (`qwen2.5-1.5b-ultrainteract`), several of
    them with commas, since an environment variable of a container holds one text."""
    given = [config] if isinstance(config, Path) else list(config or [])
    parts = [[name] if name.exists() else map(Path, str(name).split(",")) for name in given]
    return [_shipped(Path(str(part).strip())) for some in parts for part in some]


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    folder = Path(str(files("rgopd.configs")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _shipped(path: Path) -> Path:
    """A file as it is; a bare name that is no file, the shipped config of that name.

    Raises:
        ConfigError: neither.
    """
    if path.exists() or path.parent != Path():
        return path
    shipped = shipped_configs()
    if path.name.removesuffix(".yaml") in shipped:
        return shipped[path.name.removesuffix(".yaml")]
    raise ConfigError(
        f"config file {path} cannot be read: there is none, and no shipped config has this name"
        f"{nearest(path.name, shipped)}"
    )


def read_files(config: ConfigFiles) -> dict[str, Any]:
    """The files laid over each other: nested mappings are merged, anything else in a later file replaces.

    Raises:
        ConfigError: an unreadable file, or files with sections mixed with flat ones.
    """
    paths = paths_of(config)
    merged: dict[str, Any] = {}
    for path in paths:
        loaded = read_yaml(path)
        if merged and loaded and is_sectioned(merged) != is_sectioned(loaded):
            raise ConfigError(
                f"config file {path}: some of {', '.join(map(str, paths))} have sections ({', '.join(SECTIONS)}) and "
                "some are flat; write them alike"
            )
        merged = merge(merged, loaded)
    return merged


def is_sectioned(loaded: dict[str, Any], cls: type[BaseModel] | None = None) -> bool:
    """Whether a file's keys are sections; `cls`: whose keys they else are."""
    known = cls.model_fields if cls is not None else {}
    return any(key in _MARKS for key in loaded) or (set(loaded) == {"watch"} and "watch" not in known)


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
            below = target.setdefault(parent, {})
            if not isinstance(below, dict):
                raise ConfigError(f"--set {override!r}: another --set gave {parent!r} one value, {below!r}, already")
            target = below
        try:
            target[leaf] = read_value(text) if text else ""
        except ValueError as error:
            raise ConfigError(f"--set {override!r}: {error}") from error
    return result


def own_overrides(cls: type[BaseModel], section: str, overrides: typing.Sequence[str]) -> dict[str, Any]:
    """`--set` of a command that runs one service; its own section's name may stand before the keys."""
    given: dict[str, Any] = {}
    for override in overrides:
        given = lay(cls, given, _without_section(parse_overrides([override]), cls, section))
    return given


def _without_section(given: dict[str, Any], cls: type[BaseModel], section: str) -> dict[str, Any]:
    for name in SECTIONS:
        if name in given and name not in cls.model_fields:
            inner = given.pop(name)
            if name not in (section, "common") or not isinstance(inner, dict):
                raise ConfigError(
                    f"--set {name}.…: this command takes the settings of {section} alone, e.g. --set KEY=VALUE"
                )
            given = merge(inner, given)
    return given


def section_of(loaded: dict[str, Any], section: str, cls: type[BaseModel], path: Path) -> dict[str, Any]:
    """One service's keys of a file: all of a flat one; of one with sections its own over those of `common`."""
    if not is_sectioned(loaded, cls):
        return loaded
    for key, value in loaded.items():
        if key not in SECTIONS:
            raise ConfigError(f"config file {path}: unknown section {key!r}{nearest(key, SECTIONS)}")
        if not isinstance(value, dict):
            raise ConfigError(f"config file {path}: section {key!r} must be a mapping")
    # `common` may hold what only some services know; a misspelt key there still has to fit one of this one's
    # keys or be named in another section's service, so only keys this service has are taken over.
    shared = {k: v for k, v in loaded.get("common", {}).items() if k in cls.model_fields}
    return lay(cls, shared, loaded.get(section, {}))
