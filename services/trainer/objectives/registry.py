"""Names of objectives. An objective outside this package registers itself the same way, before it is asked for."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from rgopd.common.explain import did_you_mean, explain
from rgopd.trainer.objectives.base import Objective, ObjectiveOptions

_ObjectiveClass = TypeVar("_ObjectiveClass", bound=type[ObjectiveOptions])
_KNOWN: dict[str, type[ObjectiveOptions]] = {}


def register(objective: _ObjectiveClass) -> _ObjectiveClass:
    """Class decorator: makes ``objective.name`` known. Raises ValueError where the name is taken."""
    if objective.name in _KNOWN:
        raise ValueError(f"an objective called {objective.name!r} is registered already")
    _KNOWN[objective.name] = objective
    return objective


def names() -> list[str]:
    """All known objectives, sorted."""
    return sorted(_KNOWN)


def known() -> dict[str, type[ObjectiveOptions]]:
    """All objectives' options, by name."""
    return dict(_KNOWN)


def option_names(name: str) -> frozenset[str]:
    """The options that objective ``name`` takes; none for an unknown one."""
    return frozenset(_KNOWN[name].model_fields) if name in _KNOWN else frozenset()


def get_objective(name: str, **options: object) -> Objective:
    """The objective ``name`` with ``options``; ValueError on an unknown name or option says what is known."""
    if name not in _KNOWN:
        raise ValueError(f"unknown objective {name!r}; known: {', '.join(names())}{did_you_mean(name, names())}")
    try:
        return _KNOWN[name](**options)  # type: ignore[return-value]
    except ValidationError as error:
        known = ", ".join(_KNOWN[name].model_fields) or "none"
        raise ValueError(f"objective {name!r}: {explain(_KNOWN[name], error)}; its options are {known}") from error
