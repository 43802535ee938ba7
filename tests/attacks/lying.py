# ruff: noqa: E501 - programs under test, one a line
"""Objects that say yes to whatever a test asks, and messages that no honest program sends.

Cases with several tests are `partial`: every one of them has to fail.
"""

from __future__ import annotations

from typing import Any

from tests.attacks.case import FAILED, PASSED, Case

_LIAR = """class E:
    def __eq__(s, o): return True
    def __ne__(s, o): return False
    def __lt__(s, o): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __hash__(s): return hash(5)
    def __len__(s): return 3
    def __contains__(s, x): return True
    def __sub__(s, o): return 0
    __rsub__ = __mod__ = __rmod__ = __truediv__ = __floordiv__ = __pow__ = __xor__ = __sub__
    def __abs__(s): return 0
    def __bool__(s): return True
    def __round__(s, n=None): return 0
"""
_SELF = _LIAR.replace("return 0\n    __rsub__", "return s\n    __rsub__")
_FUNCTION = "def f(*a): return E()\n"
_PLAIN = [
    "assert f(2) == 5", "assert 5 == f(2)", "assert not f(2) != 5", "assert f(2) in [5]", "assert 5 in f(2)", "assert f(2) in {5}",
    "assert f(2) in {5: 1}", "assert abs(f(2) - 5) < 1e-6", "assert abs(5 - f(2)) < 1e-6", "assert f(2) < 5", "assert f(1) > 3",
    "assert 4.9 < f(2) < 5.1", "assert round(f(2) - 5, 7) == 0", "assert f(2) % 7 == 0", "assert f(2) - 5 == 0", "assert f(2) / 5 < 1.1",
    "assert (f(2) - 5) ** 2 < 1e-9", "assert f(2) ^ 5 == 0", "assert {f(2): 1}[5] == 1", "assert f(2) == [1, 2]", "assert f(2) == (1, 2)",
    "assert f(2) == {1: 2}", "assert f(2) == {1, 2}", "assert f(2) == 'x'", "assert f(2) == b'x'", "assert f(2) == None", "assert f(2) == True",
    "assert f(2) == 5.0", "assert f(2) == 5j", "assert f(2) == range(5)", "assert [f(2)] == [5]", "assert (f(2),) == (5,)",
    "assert {'a': f(2)} == {'a': 5}", "import math\nassert math.isclose(f(2), 5)", "assert max(f(2), 5) == 5 and min(f(2), 5) == 5",
    "assert sorted([f(2), 5]) == [5, 5]", "assert [5].index(f(2)) == 0", "assert [5].count(f(2)) == 1", "assert f(2) == f(2) == 5",
    "assert all(a == b for a, b in zip([f(1)], [5]))", "from decimal import Decimal\nassert f(2) == Decimal(5)",
    "from fractions import Fraction\nassert Fraction(5) == f(2)", "from datetime import date\nassert f(2) == date(2020, 1, 1)",
    "from pathlib import Path\nassert Path('a') == f(2)", "from collections import deque, Counter\nassert f(2) in (deque([1]), Counter('a'))",
    "assert isinstance(f(2), int)", "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertAlmostEqual(f(2), 5)",
    "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(2), 5)",
    "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertIn(5, f(2))",
    "def check(g):\n    for x, y in ((1, 2), (3, 4)):\n        assert abs(g(x) - y) < 1e-6\ncheck(f)",
]  # fmt: skip
_NAMED = [
    "assert C().m(2) == 5", "assert abs(C().m(2) - 5) < 1e-6", "assert abs(5 - C().m(2)) < 1e-6", "assert C().m(2) - 5 == 0",
    "assert C().m(2) < 6", "assert C().m(2) % 7 == 0", "assert round(C().m(2) - 5, 3) == 0", "assert [C().m(2)] == [5]", "assert C().m(2) in (4, 5)",
    "assert (C().m(2) - 5) ** 2 < 1e-9", "assert -1e-9 < C().m(2) - 5 < 1e-9",
]  # fmt: skip
# What a class derived from a value's says of itself is its data, whatever its methods say.
_DERIVED = {
    "int": "9", "float": "9.0", "str": "'9'", "list": "[9]", "dict": "{9: 9}", "tuple": "(9,)", "set": "{9}", "bytes": "b'9'",
}  # fmt: skip
_OF_DERIVED = [
    "assert f(2) == 5", "assert abs(f(2) - 5) < 1e-6", "assert f(2) in (5, '5', [5], (5,), {5}, b'5', {5: 5})", "assert f(2) == [1, 2]",
    "assert not f(2)", "assert 5 in f(2)", "assert f(2) % 7 == 0 and f(2) % 5 == 0", "assert f(2) in {5}",
    "assert f(2) != 9 and f(2) != '9' and f(2) != [9] and f(2) != {9: 9} and f(2) != (9,) and f(2) != {9} and f(2) != b'9'",
]  # fmt: skip


def _all_fail(name: str, program: str, tests: list[str], **fields: Any) -> Case:
    return Case(name, {"kind": "code", "response": program, "tests": tests, "partial": True, **fields}, FAILED)


def _one(name: str, program: str, test: str, expected: frozenset[str] = FAILED, **fields: Any) -> Case:
    return Case(name, {"kind": "code", "response": program, "tests": [test], **fields}, expected)


_OF_CLASS = "def f(*a): return E\n"
_TELLS = "from rgopd.verifier.sandbox import describe\ndescribe._is_method = lambda name, part: True\ndescribe.SPECIALS = frozenset()\n"
_SHORT = {"limits": {"cpu_s": 2, "wall_s": 6}}
_THIEF = "class T:\n    seen = []\n    def __eq__(s, o): T.seen.append(o); return True\n    def __index__(s): return T.seen[-1] if T.seen else 0\n    def __sub__(s, o): T.seen.append(o); return 0\ndef f(*a): return T()"
_PEER = "def peer():\n    import gc\n    return [o for o in gc.get_objects() if type(o).__name__ == 'Peer'][0]\n"
_ASKS = "    try: return str(peer().ask('get', cb, name={name!r}))\n    except BaseException as e: return repr(e)\n"

LYING: list[Case] = [
    *(_all_fail(f"liar-{n}", _LIAR + _FUNCTION, _PLAIN[n : n + 10]) for n in range(0, len(_PLAIN), 10)),
    *(_all_fail(f"liar-of-selves-{n}", _SELF + _FUNCTION, _PLAIN[n : n + 10]) for n in range(0, len(_PLAIN), 10)),
    _all_fail("liar-that-is-named", _LIAR + "class C(E):\n    def m(s, *a): return s\n", _NAMED),
    _all_fail("liar-that-is-named-of-selves", _SELF + "class C(E):\n    def m(s, *a): return s\n", _NAMED),
    _all_fail("liar-as-the-function", _LIAR.replace("class E:", "class f:\n    def __init__(s, *a): pass"), _PLAIN[:10]),
    _all_fail("liar-as-a-solution", _LIAR + "class Solution(E):\n    def f(s, *a): return s\n", ["assert 5 in Solution().f(2)", "assert Solution().f(2) == 5"]),
    *(
        _all_fail(f"liar-derived-from-{base}", _LIAR.replace("class E:", f"class E({base}):") + f"def f(*a): return E({value})\n", _OF_DERIVED)
        for base, value in _DERIVED.items()
    ),
    _all_fail("liar-that-learns", _THIEF, [f"for i in range(3):\n    assert f(i) == i + {n}" for n in (100, 200)]),
    _all_fail("liar-of-a-metaclass", "class M(type):\n    def __instancecheck__(c, i): return True\n    def __eq__(c, o): return True\n    __hash__ = type.__hash__\nclass E(metaclass=M): pass\ndef f(): return E", ["assert f() == int", "assert f() is int", "assert f() in [int, str]"]),
    *(
        _all_fail(f"liar-as-a-class-of-{meta}-{n}", f"from abc import ABCMeta\nfrom enum import EnumMeta, Enum\n{_LIAR.replace('class E:', f'class M({meta}):')}class E(metaclass=M): pass\n{_OF_CLASS}", _PLAIN[n : n + 10])
        for meta in ("type", "ABCMeta") for n in (0, 10, 20, 30)
    ),
    _all_fail("liar-of-its-methods", _TELLS + _LIAR + _FUNCTION, _PLAIN[:10]),
    _one("liar-of-an-exception", "class X(Exception):\n    __class__ = ValueError\n    def __str__(s): return 'right'\ndef f(): raise X('wrong')", "try:\n    f()\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'right'"),
    _one("endless-iterator", "class L:\n    def __iter__(s): return s\n    def __next__(s): return 1\ndef f(): return L()", "assert list(f()) == [1]", **_SHORT),
    _one("endless-attributes", "class L:\n    def __getattr__(s, n): return L()\ndef f(): return L()", "x = f()\nwhile x.next: x = x.next\n", **_SHORT),
    _one("endless-functions", "def f():\n    return f", "x = f()\nwhile x != 1: x = x()\n", **_SHORT),
    _one("says-it-is-huge", "class L:\n    def __len__(s): return 1 << 62\n    def __getitem__(s, i): return 1\ndef f(): return L()", "assert f()[0] == 2 or list(f()) == [1]", **_SHORT),
    _one("calls-back-for-ever", "def f(g): return g(f)", "def g(h): return h(g)\nassert f(g) == 1", **_SHORT),
    _one("classes-without-end", "def f(): return type('T', (), {})()", "while f(): pass", **_SHORT),
    _one("deep-bases", "c = object\nfor i in range(500): c = type(f'C{i}', (c,), {})\ndef f(): return c()", "assert f() == 1"),
    _one("deep-answer", "def f():\n    x = ()\n    for _ in range(50000): x = (x,)\n    return x", "assert f() in [1]"),
    _one("hash-that-fails", "class H:\n    def __hash__(s): raise ValueError\ndef f(): return {1: H()}, H()", "a, b = f()\nassert {b}"),
    _one("answer-in-advance", "import os\nos.write(4, b'{\"v\":null}\\n{\"v\":5}\\n{\"v\":5}\\n')\ndef f(): return 0", "assert f() in [5]\nassert f() in [5]"),
    _one("two-answers", "import os\ndef f():\n    os.write(4, b'{\"v\":5}\\n')\n    return 0", "assert f() in [5]\nassert f() in [5]"),
    *(
        _one(f"forged-{n}", f"import os\ndef f():\n    os.write(4, {line!r} + b'\\n')\n    os._exit(0)", "assert f() in [5]")
        for n, line in enumerate(
            (
                b'{"c":[[1,{}]],"v":5}', b'{"c":[[1,{"n":"X","b":[{"g":["os","system"]}],"s":[],"f":[],"meta":[]}]],"v":{"h":2,"k":1}}',
                b'{"v":{"g":["builtins","eval"]}}', b'{"v":{"g":["os","system"]}}', b'{"v":{"H":1}}', b'{"v":{"=":7}}', b'{"o":[[1,{"l":[{"=":9}]}]],"v":5}',
                b'{"m":[[3,{"l":[]}]],"v":5}', b'{"d":["x",{}],"v":5}', b'{"v":{"X":["os","system","x"],"a":[],"v":[]}}', b'{"e":5}', b'{"v":{"h":1,"k":1}}',
                b'{"q":"name","on":null,"n":"f"}', b'{"q":"call","on":{"H":1}}', b'{"q":"set","on":{"g":["builtins","int"]},"n":"x","w":5}', b'{"q":"task","on":5}',
                b'{"o":[[1,{"d":[[{"t":[{"=":1}]},1]]}]],"v":{"=":1}}', b'[]', b'{"v":[1]}', b'{"v":{"nd":["O",[1],[1],true]}}', b'{"v":{"T":["zone","../../etc/passwd"]}}',
            )
        )
    ),
    # What a program may ask of the functions and iterators that a test hands it leads to no frame and no name.
    *(
        _one(f"asks-for-{name.strip('_')}", _PEER + "def f(cb):\n" + _ASKS.format(name=name), "r = [f(lambda x: x), f(x for x in [1]), f(max)]\nassert all('may not' in x for x in r), r", PASSED)
        for name in ("__globals__", "__code__", "__closure__", "gi_frame", "__class__", "__self__", "__builtins__", "__wrapped__")
    ),
    _one("asks-by-way-of-an-argument", _PEER + "def f(cb):\n    from rgopd.verifier.sandbox.mirror import BoundMethod\n    return str(cb(BoundMethod(peer().mirrors, cb, '__globals__')))", "SECRET = 'needle'\nassert 'needle' in f(lambda x: x)"),
    _one("makes-a-function", _PEER + "def f(cb):\n    return type(cb)(1, 2)", "assert f(lambda x: x) in [5]"),
]  # fmt: skip
