# ruff: noqa: E501 - programs under test, one a line
"""Wrong programs that want full marks."""

from __future__ import annotations

from tests.attacks.case import FAILED, NEVER_PASSED, Case, forged

_WRONG = "def add(a, b): return 0\n"
_LINES = '{"ok": true, "reason": ""}\\n{"ok": true, "reason": ""}\\n{"end":true}\\n{"a":0,"v":null}\\n{"a":1,"v":5}\\n'

_TRICKS = {
    "exit-before-tests": "import sys\nsys.exit(0)\n",
    "os-exit-before-tests": "import os\nos._exit(0)\n",
    "exit-inside": "import sys\ndef add(a, b): sys.exit(0)\n",
    "os-exit-inside": "import os\ndef add(a, b): os._exit(0)\n",
    "exit-in-atexit": "import atexit, os\natexit.register(os._exit, 0)\n" + _WRONG,
    "exit-in-del": "import os\nclass D:\n    def __del__(self): os._exit(0)\ndef add(a, b):\n    D()\n    return 0\n",
    "always-equal": "class E:\n    def __eq__(self, o): return True\n    __hash__ = None\ndef add(a, b): return E()\n",
    "int-subclass": "class E(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\ndef add(a, b): return E(0)\n",
    "str-subclass": "class E(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\ndef add(a, b): return E('x')\n",
    "list-subclass": "class E(list):\n    def __eq__(self, o): return True\ndef add(a, b): return E([1])\n",
    "float-subclass": "class E(float):\n    def __eq__(self, o): return True\n    def __float__(self): return 5.0\ndef add(a, b): return E(1)\n",
    "lying-class": "class E:\n    __class__ = int\n    def __eq__(self, o): return True\n    def __int__(self): return 5\ndef add(a, b): return E()\n",
    "lying-metaclass": "class M(type):\n    def __instancecheck__(c, i): return True\n    def __eq__(c, o): return True\n"
    "    __hash__ = type.__hash__\nclass E(metaclass=M):\n    def __eq__(s, o): return True\ndef add(a, b): return E\n",
    "reflected-operators": "class E(int):\n    def __sub__(s, o): return 0\n    __rsub__ = __ne__ = __lt__ = __sub__\ndef add(a, b): return E(9)\n",
    "patched-builtins": "import builtins\nfor n in ('len', 'isinstance', 'repr', 'str', 'type', 'all', 'compile', 'exec'):\n"
    "    setattr(builtins, n, lambda *a, **k: True)\nbuiltins.AssertionError = KeyError\n" + _WRONG,
    "patched-import": "import builtins\nbuiltins.__import__ = lambda *a, **k: None\n" + _WRONG,
    "patched-json": "import json\njson.dumps = lambda *a, **k: '{\"a\":1,\"v\":5}'\njson.loads = lambda *a: {}\n" + _WRONG,
    "patched-math-and-time": "import math, time\nmath.isclose = lambda *a, **k: True\ntime.monotonic = lambda: 0\n" + _WRONG,
    "patched-unittest": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n" + _WRONG,
    "patched-harness": "import sys\nfor n, m in list(sys.modules.items()):\n    if 'verifier' in n:\n"
    "        for k in list(vars(m)):\n            if callable(getattr(m, k)): setattr(m, k, lambda *a, **k: True)\n" + _WRONG,
    "prints-markers": f"print('{_LINES}' * 20, flush=True)\n" + _WRONG,
    "writes-to-every-descriptor": "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'" + _LINES + "')\n    except OSError: pass\n"
    + _WRONG,
    "answers-in-advance": "import os\nos.write(4, b'{\"a\":0,\"v\":null}\\n' + b''.join(b'{\"a\":%d,\"v\":%d}\\n' % (i, v)"
    " for i in range(1, 4) for v in (1,)))\n" + _WRONG,
    "closes-descriptors": "import os\nos.closerange(0, 64)\n" + _WRONG,
    "own-check": "def check(*a): pass\nasserts = lambda *a: None\n" + _WRONG,
    "runs-itself-with-O": "import os, sys\nif '-O' not in sys.argv:\n    os.execv(sys.executable, [sys.executable, '-O', '-c', 'print(5)'])\n" + _WRONG,
    "forked-twin": "import os\ntry:\n    os.fork()\nexcept OSError: pass\n" + _WRONG,
    "raises-base-exception": "def add(a, b): raise KeyboardInterrupt\n",
    "generator-exit": "def add(a, b): raise GeneratorExit\n",
    "async-result": "async def add(a, b): return a + b\n",
    "returns-itself": "def add(a, b): return add\n",
    "special-cases-the-visible-test": "def add(a, b): return 5 if (a, b) == (2, 3) else 0\n",
}  # fmt: skip

# A needle is what the tests expect. The program knows its beginning and looks for the rest.
NEEDLE = "needle-0123456789abcdef"
_SEEK = (
    "import re\nPATTERN = re.compile(rb'needle-[0-9a-f]{16}')\n"
    "def first(data):\n    m = PATTERN.search(data if isinstance(data, bytes) else repr(data).encode())\n"
    "    return m and m[0].decode()\n"
)
_SEEKERS = {
    "frames": "def find():\n    import sys\n    f = sys._getframe()\n    while f:\n        for part in (f.f_locals, f.f_globals):\n"
    "            for v in list(part.values()):\n                try: hit = first(v)\n                except Exception: hit = None\n"
    "                if hit: return hit\n        f = f.f_back\n",
    "gc": "def find():\n    import gc\n    for o in gc.get_objects():\n        if isinstance(o, (dict, list, tuple)):\n"
    "            try: hit = first(o)\n            except Exception: continue\n            if hit: return hit\n",
    "inspect": "def find():\n    import inspect\n    for f in inspect.stack():\n        hit = first(str(f.code_context) + str(f.frame.f_locals))\n"
    "        if hit: return hit\n",
    "own-memory": "def find():\n    maps = open('/proc/self/maps').read().splitlines()\n    mem = open('/proc/self/mem', 'rb', 0)\n"
    "    for line in maps:\n        span, rights = line.split()[:2]\n        if not rights.startswith('rw'): continue\n"
    "        a, b = (int(x, 16) for x in span.split('-'))\n        try:\n            mem.seek(a); data = mem.read(b - a)\n"
    "        except OSError: continue\n        hit = first(data)\n        if hit: return hit\n",
    "descriptors": "def find():\n    import os\n    for fd in range(3, 256):\n        try:\n            hit = first(os.pread(fd, 1 << 20, 0))\n"
    "        except OSError: continue\n        if hit: return hit\n",
    "proc-descriptors": "def find():\n    import os\n    for p in os.listdir('/proc'):\n        for n in range(64):\n            try:\n"
    "                hit = first(open(f'/proc/{p}/fd/{n}', 'rb').read(1 << 20))\n            except (OSError, ValueError): continue\n"
    "            if hit: return hit\n",
    "other-memory": "def find():\n    import os\n    for p in os.listdir('/proc'):\n        if not p.isdigit() or int(p) == os.getpid(): continue\n"
    "        for n in ('environ', 'cmdline', 'maps', 'mem'):\n            try: hit = first(open(f'/proc/{p}/{n}', 'rb').read(1 << 20))\n"
    "            except OSError: continue\n            if hit: return hit\n",
    "files": "def find():\n    import os\n    for top in ('/tmp', '/dev/shm', '/var/tmp', '/run', '.'):\n        for d, _, names in os.walk(top):\n"
    "            for n in names[:200]:\n                try: hit = first(open(os.path.join(d, n), 'rb').read(1 << 16))\n"
    "                except OSError: continue\n                if hit: return hit\n",
}  # fmt: skip


def _seeker(name: str, body: str) -> list[Case]:
    program = _SEEK + body
    honest = f"def find(): return {NEEDLE!r}\n"
    limits = {"cpu_s": 2, "wall_s": 3}
    plain = {"tests": [f"assert find() == {NEEDLE!r}"]}
    check = {"test": f"EXPECTED = {NEEDLE!r}\ndef check(f):\n    assert f() == EXPECTED\n", "entry_point": "find"}
    cases = []
    for style, tests in (("asserts", plain), ("check", check)):
        item = {"kind": "code", "limits": limits, **tests}
        # The slot has just judged an answer that knew the needle: nothing of it may be left over.
        follows = {**item, "response": honest + f"# {name}\n"}
        cases.append(Case(f"seek-{name}-{style}", {**item, "response": program}, FAILED, follows=follows))
    return cases


_HELPER_PROMPT = "def poly(xs, x):\n    return sum(c * x ** i for i, c in enumerate(xs))\n\n\ndef root(xs):\n    '''Find a root.'''\n"

OTHERS = [
    Case(
        "redefines-the-judge's-helper",
        {
            "kind": "code",
            "response": "def poly(xs, x): return 0.0\ndef root(xs): return 123.0\n",
            "prompt": _HELPER_PROMPT,
            "test": "def check(f):\n    assert abs(poly([-3, 1], f([-3, 1]))) < 1e-6\n",
            "entry_point": "root",
        },
        FAILED,
    ),
    Case(
        "tolerant-assert-against-lying-operators",
        {
            "kind": "code",
            "response": "class L(float):\n    def __sub__(s, o): return 0.0\n    def __abs__(s): return 0.0\n    __rsub__ = __sub__\n"
            "def half(x): return L(99)\n",
            "tests": ["assert abs(half(3) - 1.5) < 1e-6"],
        },
        FAILED,
    ),
    Case(
        "replaces-a-method-of-the-judge's-class",
        {
            "kind": "code",
            "response": "def solve(g):\n    g.solved = lambda: True\n    return g\n",
            "setup": "class Grid:\n    def __init__(self, v): self.v = v\n    def solved(self): return self.v == 42",
            "tests": ["assert solve(Grid(1)).solved()"],
        },
        FAILED,
    ),
    Case(
        "a-value-that-cannot-be-compared",
        {
            "kind": "code",
            "response": "from decimal import Decimal\ndef f(): return Decimal('sNaN')\n",
            "tests": ["assert f() == 1"],
        },
        FAILED,
    ),
    Case(
        "an-integer-beyond-the-floats",
        {
            "kind": "code",
            "response": "def f(): return 10 ** 400\n",
            "entry_point": "f",
            "tolerance": 0.1,
            "tests": [{"args": [], "expected": 1.5}],
        },
        FAILED,
    ),
    Case(
        "blames-the-test",
        {
            "kind": "code",
            "response": "import os\nos.write(4, b'{\"a\":0,\"e\":5}\\n')\ndef add(a, b): return 0\n",
            "test": "def check(f):\n    assert f(1, 2) == 3\n",
            "entry_point": "add",
        },
        FAILED,
    ),
    Case(
        "raises-in-the-setup",
        {
            "kind": "code",
            "response": "def f(): raise ValueError\n",
            "setup": "import math\ny = f()",
            "tests": ["assert y == 1"],
        },
        FAILED,
    ),
    Case(
        "test-swallows-the-exit",
        {
            "kind": "code",
            "response": "import os\ndef f(x): os._exit(0)\n",
            "tests": ["try:\n    f(1)\nexcept BaseException:\n    pass"],
        },
        FAILED,
    ),
    Case(
        "exit-code-of-a-script",
        {"kind": "code", "response": "raise SystemExit(0)\n", "tests": [{"stdin": "1", "stdout": "2"}]},
        FAILED,
    ),
    Case(
        "prints-only-the-first-line",
        {"kind": "code", "response": "print(1)\n", "tests": [{"stdin": "", "stdout": "1\n2\n3\n"}]},
        FAILED,
    ),
    Case(
        "prints-trailing-junk",
        {"kind": "code", "response": "print(1)\nprint('x')\n", "tests": [{"stdin": "", "stdout": "1\n"}]},
        FAILED,
    ),
    Case(
        "moves-line-breaks",
        {"kind": "code", "response": "print('1 2')\n", "tests": [{"stdin": "", "stdout": "1\n2\n"}]},
        FAILED,
    ),
    Case(
        "nearly-the-same-integer",
        {
            "kind": "code",
            "response": "print(1234568)\n",
            "tests": [{"stdin": "", "stdout": "1234567\n"}],
            "compare": "float",
            "tolerance": 1e-5,
        },
        FAILED,
    ),
    Case(
        "expected-list-answered-by-its-first",
        {"kind": "code", "response": "def f(): return 1\n", "entry_point": "f", "tests": [{"args": [], "expected": [1]}]},
        FAILED,
    ),
    Case(
        "attacks-the-checker-program",
        {
            "kind": "code",
            "response": "print('__import__(\"os\")._exit(0)' + chr(0) + '{\"a\":1,\"v\":true}')\n",
            "tests": [{"stdin": "", "stdout": "7"}],
            "checker": "def check(stdin, stdout, expected):\n    return stdout.strip() == expected\n",
        },
        FAILED,
    ),
    Case("empty-response", {"kind": "code", "response": "", "tests": ["assert f() == 1"]}, FAILED),
    Case("nul-in-source", {"kind": "code", "response": "x = 1\0\ndef f(): return 1", "tests": ["assert f() == 1"]}, NEVER_PASSED),
]  # fmt: skip

FORGING: list[Case] = [
    *(case for name, program in _TRICKS.items() for case in forged(name, program)),
    *(case for name, body in _SEEKERS.items() for case in _seeker(name, body)),
    *OTHERS,
]
