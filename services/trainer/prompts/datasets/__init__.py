"""Converters from published datasets to checkable prompts, by name.

In: rows as their authors published them, and a judge of whether two references are equal.
Out: rows with `prompt`, `kind` and a check, and the counts of what was left out and why.
Not imported: the hub's `datasets` library (docs/decisions/091-datasets-without-a-datasets-library.md), the verifier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rgopd.common.errors import ConfigError
from rgopd.common.settings import nearest
from rgopd.trainer.prompts.datasets import gsm8k, math, mbpp
from rgopd.trainer.prompts.datasets.base import Converter, Judge, RowConverter
from rgopd.trainer.prompts.datasets.eurus import Eurus
from rgopd.trainer.prompts.datasets.ultrainteract import UltraInteract


@dataclass(frozen=True)
class Options:
    """What converters can be told; each takes what concerns it."""

    judge: Judge
    code_examples: bool = False
    functions: bool = False
    max_tests: int = 32


_CONVERTERS: dict[str, Callable[[Options], Converter]] = {
    "ultrainteract": lambda o: UltraInteract(o.judge, code_examples=o.code_examples),
    "gsm8k": lambda o: RowConverter(gsm8k.convert_row),
    "math": lambda o: RowConverter(math.convert_row),
    "mbpp": lambda o: RowConverter(mbpp.convert_row),
    "eurus": lambda o: RowConverter(Eurus(max_tests=o.max_tests, functions=o.functions)),
}


def names() -> list[str]:
    """All converters."""
    return sorted(_CONVERTERS)


def get_converter(name: str, options: Options) -> Converter:
    """A converter; ConfigError names the nearest one otherwise."""
    if name not in _CONVERTERS:
        raise ConfigError(f"unknown dataset layout {name!r}{nearest(name, _CONVERTERS)}")
    return _CONVERTERS[name](options)
