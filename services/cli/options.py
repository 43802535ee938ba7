"""What the commands of several modules take, and how a service's settings are read. Imports no pydantic until asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from rgopd.common.settings import Settings

Config = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", help="YAML file: flat, or one section a service; repeatable, later ones win."),
]
Set = Annotated[list[str] | None, typer.Option("--set", "-s", help="key=value, dotted for nested keys; repeatable.")]

Watch = Annotated[bool, typer.Option("--watch/--no-watch", help="Serve the live page of the run beside it.")]

S = TypeVar("S", bound="Settings")


def load(cls: type[S], section: str, config: list[Path] | None, overrides: list[str] | None) -> S:
    """Settings from file, environment and --set."""
    return cls.from_sources(section, config, overrides or [])
