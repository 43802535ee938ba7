"""Plain data: what honest values keep, and what hostile bytes cannot do."""

from __future__ import annotations

import json
import time
from collections import OrderedDict, deque, namedtuple
from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgopd.verifier.sandbox import plain

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.fractions(max_denominator=10**6)
    | st.decimals(allow_nan=False)
)
_KEYS = st.integers() | st.text() | st.booleans() | st.tuples(st.integers(), st.text())
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(_KEYS, inner, max_size=4)
        | st.sets(_KEYS, max_size=4)
        | st.frozensets(_KEYS, max_size=4)
    ),
    max_leaves=20,
)


def name_of(value: object) -> str:
    return type(value).__name__


def through_json(value: object) -> object:
    return plain.loads(json.dumps(plain.encode(value)).encode())


@given(_VALUES)
def test_values_survive_with_their_exact_types(value: object) -> None:
    back = through_json(value)
    assert back == value
    assert type(back) is type(value)


def test_subclasses_are_read_through_their_base() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __index__(self) -> int:
            return 99

        __hash__ = int.__hash__

    class Colour(IntEnum):
        RED = 3

    point = namedtuple("point", "x y")
    back = through_json([Liar(7), Colour.RED, point(1, 2), OrderedDict(a=1), deque([1, 2])])
    assert back == [7, 3, (1, 2), OrderedDict(a=1), deque([1, 2])]
    assert [type(x) for x in back] == [int, int, tuple, OrderedDict, deque]


@pytest.mark.parametrize(
    "value",
    [float("inf"), float("-inf"), -0.0, 7**5000, range(1, 9, 2), bytearray(b"\xff")],
    ids=lambda value: type(value).__name__,
)
def test_unusual_values(value: object) -> None:
    assert repr(through_json(value)) == repr(value) if not isinstance(value, int) else through_json(value) == value


def test_an_object_without_plain_form_is_refused() -> None:
    with pytest.raises(plain.NotPlain, match="object"):
        plain.encode([object()])


HOSTILE = [
    b"",
    b"\xff\xfe",
    b"{",
    b"9" * 5000,
    b"[" * 100_000,
    b'{"z": 1}',
    b'{"i": "0x1", "b": "00"}',
    b'{"s": [[1]]}',
    b'{"d": [[1]]}',
    b'{"d": 5}',
    b'{"F": ["0x1", "0x0"]}',
    b'{"F": ["0x' + b"f" * 50_000 + b'", "0x3"]}',
    b'{"D": "one"}',
    b'{"r": [0, 1e999, 1]}',
    b'{"c": [[], 1]}',
    b'{"t": {"t": 1}}',
    b'{"h": 1}',
    b'{"o": "Node", "x": {}}',
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_are_refused(line: bytes) -> None:
    with pytest.raises(plain.NotPlain):
        plain.loads(line)


def test_colliding_keys_are_refused_quickly() -> None:
    modulus = 2**61 - 1  # int hashes are taken modulo this
    pairs = [[{"i": hex(i * modulus)}, 0] for i in range(50_000)]
    line = json.dumps({"d": pairs}).encode()
    started = time.process_time()
    with pytest.raises(plain.NotPlain, match="same hash"):
        plain.loads(line)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "value",
    [10**10_000, "x" * 10_000, list(range(10_000)), {1: "y" * 10_000}, b"z" * 10_000],
    ids=lambda value: type(value).__name__,
)
def test_reasons_are_short(value: object) -> None:
    assert len(plain.short(value)) <= 201


def test_a_list_that_contains_itself_has_a_short_form() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert plain.short(loop)
