"""The package `rgopd`: a link to this folder, whose paths the documents use (docs/decisions/006-one-name.md).

In: nothing; importing `rgopd` imports no service.
Out: `rgopd.cli`, the four services, `rgopd.simulate`, and what they share: `rgopd.common`, `rgopd.protos`,
`rgopd.configs`; and, each imported when it is asked for, `__version__` and the Python interface (docs/python.md).
Not imported here: anything. The layers are in pyproject.toml, `make lint` holds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rgopd.cli.distil import distill
    from rgopd.cli.run_handle import Run, RunFailed
    from rgopd.common.clients import Rollout, Score, ScoreClient, Verdict, VerifyClient

    __version__: str

__all__ = [
    "Rollout",
    "Run",
    "RunFailed",
    "Score",
    "ScoreClient",
    "Verdict",
    "VerifyClient",
    "__version__",
    "distill",
]

_PLACES = {
    "distill": "rgopd.cli.distil",
    "Run": "rgopd.cli.run_handle",
    "RunFailed": "rgopd.cli.run_handle",
    **dict.fromkeys(("Rollout", "Score", "ScoreClient", "Verdict", "VerifyClient"), "rgopd.common.clients"),
}


def __getattr__(name: str) -> Any:
    """A name of the interface, from where it lives; `import rgopd` alone stays cheap."""
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("rgopd")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'rgopd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
