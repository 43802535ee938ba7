"""What torch.compile is to leave alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")


def outside_graphs(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run as it is also within a compiled function, which is cut there; with ``fullgraph=True`` torch refuses it and
    says why. Without this torch.compile would trace some of its pieces, once for every size."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling():  # so that torch._dynamo, a second to import, is there already
            # With fullgraph=True an error of torch's that quotes this; it must be a literal.
            torch._dynamo.graph_break(
                "rgopd's head walks its weight in Python, by sizes that depend on the data: compile the model's body, "
                "and call this outside of the full graph"
            )
            return _disabled(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call


def _disabled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    found: Callable[_P, _R] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return found
