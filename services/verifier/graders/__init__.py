"""One file a kind. Enters: an item's fields (`prepare`) and a response (`grade`). Leaves: a verdict.
A new kind is one file here and one line in `default_registry` below; `base` says what a grader is, `exact` is a whole
small one; `rgopd.verifier.reading` finds the parts of a response that several kinds look at.
May import `code`, `symbolic`, `sandbox`, never `engine` or the doors; what runs inline must be linear in the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rgopd.common.errors import InvalidInput
from rgopd.common.settings import nearest
from rgopd.verifier.graders.base import Grader
from rgopd.verifier.graders.choice import ChoiceGrader
from rgopd.verifier.graders.code import CodeGrader
from rgopd.verifier.graders.compose import AllOfGrader, WeightedGrader
from rgopd.verifier.graders.constraints import ConstraintsGrader
from rgopd.verifier.graders.environment import EnvironmentGrader
from rgopd.verifier.graders.exact import ExactGrader
from rgopd.verifier.graders.format import FormatGrader
from rgopd.verifier.graders.math import MathGrader
from rgopd.verifier.graders.python import PythonGrader


class Registry:
    """Graders by kind."""

    def __init__(self, graders: Sequence[Grader[Any]] = ()) -> None:
        self._graders = {grader.kind: grader for grader in graders}

    def add(self, grader: Grader[Any]) -> None:
        """Add a kind, or replace one."""
        self._graders[grader.kind] = grader

    @property
    def kinds(self) -> list[str]:
        """In alphabetical order."""
        return sorted(self._graders)

    def get(self, kind: str) -> Grader[Any]:
        """The grader of a kind; `InvalidInput` naming the nearest one otherwise."""
        grader = self._graders.get(kind)
        if grader is None:
            raise InvalidInput(f"unknown kind {kind!r}{nearest(kind, self._graders)}")
        return grader


def default_registry(
    languages: Sequence[str] = ("python",), python_graders: Mapping[str, str] | None = None
) -> Registry:
    """Every kind that ships."""
    registry = Registry([MathGrader(), CodeGrader(languages), ChoiceGrader(), ExactGrader()])
    for grader in (ConstraintsGrader(), FormatGrader(), PythonGrader(python_graders or {}), EnvironmentGrader()):
        registry.add(grader)
    for composition in (AllOfGrader, WeightedGrader):
        registry.add(composition(registry.get))
    return registry
