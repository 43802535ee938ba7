"""The package `rgopd`: a link to this folder, whose paths the documents use (docs/decisions/006-one-name.md).

In: nothing; importing `rgopd` imports no service.
Out: `rgopd.cli`, the four services, `rgopd.simulate`, and what they share: `rgopd.common`, `rgopd.protos`,
`rgopd.configs`; and `__version__`.
Not imported here: anything. The layers are in pyproject.toml, `make lint` holds them.
"""

from __future__ import annotations

from typing import Any

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    """`__version__`, read from the installed distribution when it is asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("rgopd")
    raise AttributeError(f"module 'rgopd' has no attribute {name!r}")
