"""Comparing printed output. Line breaks always count; integers are compared as integers, never as floats."""

from __future__ import annotations

import math
import re
from typing import Literal

Mode = Literal["exact", "whitespace", "float"]

_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+(?:\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan|infinity)", re.IGNORECASE)


def same_output(got: str, expected: str, mode: Mode, tolerance: float) -> bool:
    """Is `got` the expected output?

    exact: character for character. whitespace: trailing blanks of lines and trailing empty lines are ignored.
    float: besides, lines are compared word by word, and where the expected word is a decimal fraction the
    other may differ by `tolerance`, absolute or relative.
    """
    if mode == "exact":
        return got == expected
    got_lines, expected_lines = _lines(got), _lines(expected)
    if got_lines == expected_lines:
        return True
    if mode == "whitespace" or len(got_lines) != len(expected_lines):
        return False
    return all(_same_words(g.split(), e.split(), tolerance) for g, e in zip(got_lines, expected_lines, strict=True))


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_words(got: list[str], expected: list[str], tolerance: float) -> bool:
    return len(got) == len(expected) and all(_same_word(g, e, tolerance) for g, e in zip(got, expected, strict=True))


def _same_word(got: str, expected: str, tolerance: float) -> bool:
    if got == expected:
        return True
    if _INTEGER.fullmatch(expected):
        # As text: int() refuses more than 4,300 digits, and a float would call 2**53 and 2**53 + 1 equal.
        return _INTEGER.fullmatch(got) is not None and _integer(got) == _integer(expected)
    if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(got)):
        return False
    a, b = float(got), float(expected)
    if math.isnan(b):
        return math.isnan(a)
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


def _integer(text: str) -> str:
    sign = "-" if text.startswith("-") else ""
    digits = text.lstrip("+-").lstrip("0")
    return sign + digits if digits else "0"


def same_value(got: object, expected: object, tolerance: float | None) -> bool:
    """For function calls with JSON expectations: tuples count as lists (JSON has none), and with a tolerance
    floats may differ by it, absolute or relative. Both are exact builtin values."""
    if isinstance(expected, list) and isinstance(got, (list, tuple)):
        return len(got) == len(expected) and all(
            same_value(g, e, tolerance) for g, e in zip(got, expected, strict=True)
        )
    if isinstance(expected, dict) and isinstance(got, dict):
        return _same_dict(got, expected, tolerance)
    if tolerance is not None and isinstance(expected, float) and isinstance(got, (int, float)):
        return not isinstance(got, bool) and _is_close(got, expected, tolerance)
    if isinstance(expected, bool) or isinstance(got, bool):
        return got is expected
    return got == expected


def _is_close(got: float, expected: float, tolerance: float) -> bool:
    try:
        return math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer beyond the floats
        return False


def _same_dict(got: dict[object, object], expected: dict[object, object], tolerance: float | None) -> bool:
    # JSON keys are strings; a program naturally has integers there
    named = {str(k) if type(k) is int and abs(k) < 1 << 53 else k: v for k, v in got.items()}
    if len(named) != len(got) or named.keys() != expected.keys():
        return False
    return all(same_value(named[k], v, tolerance) for k, v in expected.items())
