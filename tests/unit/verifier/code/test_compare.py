"""Comparing output and values."""

from __future__ import annotations

import pytest

from rgopd.verifier.code.compare import same_output, same_value

OUTPUTS = [
    ("exact", "1\n", "1\n", True),
    ("exact", "1", "1\n", False),
    ("whitespace", "1  \n2\n\n\n", "1\n2", True),
    ("whitespace", "1\r\n2\r\n", "1\n2\n", True),
    ("whitespace", "1 2\n", "1\n2\n", False),
    ("whitespace", "1  2\n", "1 2\n", False),
    ("whitespace", " 1\n", "1\n", False),
    ("whitespace", "Yes\n", "YES\n", False),
    ("whitespace", "", "", True),
    ("whitespace", "1\n2\n", "1\n", False),
    ("whitespace", "1\n", "1\n2\n", False),
    ("float", "0.3333333\n", "0.33333333\n", True),
    ("float", "0.34\n", "0.33\n", False),
    ("float", "1  2.0000001\n", "1 2.0\n", True),
    ("float", "1234568\n", "1234567\n", False),
    ("float", "9007199254740993\n", "9007199254740992\n", False),
    ("float", "5.0\n", "5\n", False),  # an integer was asked for
    ("float", "5\n", "5.0\n", True),
    ("float", "+05\n", "5\n", True),
    ("float", "-0\n", "0\n", True),
    ("float", "nan\n", "nan\n", True),
    ("float", "inf\n", "1e308\n", False),
    ("float", "1.0 2.0\n", "1.0\n2.0\n", False),
    ("float", "abc\n", "1.5\n", False),
    ("float", "1" * 5000 + "\n", "1" * 5000 + "\n", True),
    ("float", "1" * 5000 + "\n", "1" * 4999 + "2\n", False),
]


@pytest.mark.parametrize(("mode", "got", "expected", "same"), OUTPUTS)
def test_output(mode: str, got: str, expected: str, same: bool) -> None:
    assert same_output(got, expected, mode, 1e-6) is same  # type: ignore[arg-type]


VALUES = [
    ((1, 2), [1, 2], None, True),
    ([1, (2, 3)], [1, [2, 3]], None, True),
    ([1], [1, 2], None, False),
    (1, [1], None, False),
    (True, 1, None, False),
    (1, True, None, False),
    (True, True, None, True),
    (1, 1.0, None, True),
    (0.1 + 0.2, 0.3, None, False),
    (0.1 + 0.2, 0.3, 1e-9, True),
    (3, 3.0000001, 1e-6, True),
    (True, 1.0, 1e-6, False),
    ({1: "a"}, {"1": "a"}, None, True),
    ({1: "a", "1": "b"}, {"1": "a"}, None, False),
    ({"a": (1,)}, {"a": [1]}, None, True),
    ({"a": 1}, {"b": 1}, None, False),
    ("5", 5, None, False),
    (None, None, None, True),
    (0, None, None, False),
]


@pytest.mark.parametrize(("got", "expected", "tolerance", "same"), VALUES)
def test_value(got: object, expected: object, tolerance: float | None, same: bool) -> None:
    assert same_value(got, expected, tolerance) is same
