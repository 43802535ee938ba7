"""Where an environment is: a Python file for the sandbox, or a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from rgopd.common.errors import ConfigError
from rgopd.common.parts import Part

FEEDBACK = "feedback"
"""The environment that every verifier has: it answers with the verdict of the task's own check."""


class EnvironmentConfig(Part):
    """One environment. A word is a file, or a URL where it begins with http."""

    word_key: ClassVar[str] = "path"

    path: Path | None = Field(None, description="A Python file with a class that has `reset` (docs/environments.md).")
    url: str = Field("", description="A server with POST /reset and POST /step, in place of a file.")
    token_env: str = Field("", description="Of a server: the environment variable that holds its bearer token.")
    timeout_s: float = Field(60.0, gt=0, description="Of a server: how long one answer may take.")
    retries: int = Field(3, ge=0, description="Of a server: how often it is asked again before the answer is `error`.")
    max_chars: int = Field(16_384, ge=1, description="Longest observation; longer ones are cut.")

    @model_validator(mode="after")
    def _one_place(self) -> EnvironmentConfig:
        if self.path is not None and str(self.path).startswith(("http:/", "https:/")):
            scheme, _, rest = str(self.path).partition(":/")  # a Path has eaten one of the slashes
            self.url, self.path = f"{scheme}://{rest.lstrip('/')}", None
        if (self.path is None) == (not self.url):
            raise ValueError("an environment has a path (a Python file) or a url (a server), one of them")
        if self.url and (problem := _no_url(self.url)):
            raise ValueError(f"url {self.url!r}: {problem}; give http://host:port/path or https://...")
        return self


def _no_url(url: str) -> str:
    """What is wrong with it; "" for nothing."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # read here, since it is checked only then
    except ValueError as problem:
        return str(problem)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "no address of a server"
    return "it has a query or a fragment, behind which no path can be put" if parts.query or parts.fragment else ""


def read_sources(environments: Mapping[str, EnvironmentConfig]) -> dict[str, str]:
    """Name -> source, of those that are files; and a look at what the others need.

    Raises:
        ConfigError: a file cannot be read or is no Python with `reset`, a token is not set, or a name is taken.
    """
    if FEEDBACK in environments:
        raise ConfigError(f"environments.{FEEDBACK}: this name is the built-in environment's; take another")
    sources = {}
    for name, config in environments.items():
        if config.token_env and not os.environ.get(config.token_env):
            raise ConfigError(f"environments.{name}: the environment variable {config.token_env} is not set")
        if config.path is None:
            continue
        try:
            source = config.path.read_text(encoding="utf-8")
            compile(source, str(config.path), "exec")
        except (OSError, ValueError, SyntaxError) as problem:
            raise ConfigError(f"environments.{name}: {config.path}: {problem}") from problem
        if "def reset(" not in source:
            raise ConfigError(f"environments.{name}: {config.path} must define a class with reset")
        sources[name] = source
    return sources
