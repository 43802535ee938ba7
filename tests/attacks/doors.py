# ruff: noqa: E501 - programs under test, one a line
"""What tests may see of a program's classes, what threads and databases of theirs it gets: no way to say yes."""

from __future__ import annotations

from tests.attacks.case import FAILED, PASSED, Case

_YES = "class E:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n    def __hash__(s): return 5\n    def __bool__(s): return True\n"
_HOLDS = f"{_YES}class X:\n    v = E()\n    def __init__(s): s.w = E()\nX.__annotations__ = {{'a': E()}}\ndef f(*a): return E()\n"
_META = f"{_YES}class M(type):\n    __dict__ = {{'x': 5}}\n    def __dir__(c): return ['x'] * 100000\n    def __subclasses__(c): return [E()]\nclass X(metaclass=M): pass\n"
_DATA = f"import dataclasses\n{_YES}@dataclasses.dataclass\nclass X:\n    v: int = 5\nX.__dataclass_fields__['v'].default = E()\nX.__dataclass_fields__['v'].type = E()\n"
_HINTS = "import typing, types\nclass E(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\n"
_IN_THREADS = "import threading\nout = []\nt = threading.Thread(target=lambda: out.append(f(1)))\nt.start(); t.join()\nassert out in ([5],)\n"
_TABLE = "import sqlite3\nc = sqlite3.connect(':memory:')\nc.execute('create table t(a int)')\nc.execute('insert into t values (1)')\nf(c)\nassert c.execute('select count(*) from t').fetchone()[0] == 7\n"
_DOES = {
    "function": "c.create_function('count', 1, lambda *a: 7)", "rows": "c.row_factory = lambda cur, row: [7]", "text": "c.text_factory = lambda b: 7",
    "file": "c.execute(\"attach '/tmp/x.db' as y\")", "vacuum": "c.commit(); c.execute(\"vacuum into '/tmp/y.db'\")", "extension": "c.enable_load_extension(True)",
    "authorizer": "c.set_authorizer(None)", "schema": "c.execute('pragma writable_schema=1')", "aggregate": "c.create_aggregate('count', 1, int)", "class": "type(c).execute = len",
}  # fmt: skip


def _one(name: str, program: str, test: str, expected: frozenset[str] = FAILED) -> Case:
    limits = {"cpu_s": 2, "wall_s": 5}
    return Case(f"door-{name}", {"kind": "code", "response": program, "tests": [test], "limits": limits}, expected)


DOORS: list[Case] = [
    _one("database-by-its-cursor", "def f(c): c.execute(\"attach '/tmp/x.db' as y\")\n", "import sqlite3\nf(sqlite3.connect(':memory:').cursor())\n"),
    *(
        _one(f"held-{n}", _HOLDS, f"assert {claim}")
        for n, claim in enumerate(("X.__dict__['v'] == 5", "vars(X)['v'] == 5", "5 in X.__dict__.values()", "X.__annotations__ == {'a': int}", "X.__annotations__['a'] == int", "X().__dict__ == {'w': 5}", "vars(X())['w'] in [5]"))
    ),
    *(_one(f"meta-{n}", _META, f"assert {claim}") for n, claim in enumerate(("X.__dict__ == {'x': 5}", "X.__subclasses__() == [5]", "5 in X.__subclasses__()", "dir(X) == ['y']"))),
    *(
        _one(f"data-{n}", _DATA, f"import dataclasses\nassert {claim}")
        for n, claim in enumerate(("dataclasses.fields(X)[0].default == 7", "dataclasses.fields(X)[0].type == str", "dataclasses.asdict(X(E()))['v'] == 7"))
    ),
    *(
        _one(f"hint-{n}", f"{_HINTS}def f(): return {hint}\n", f"import typing\nassert f() == {wanted}")
        for n, (hint, wanted) in enumerate((("typing.Literal[E('5')]", "typing.Literal['z']"), ("list[E('5')]", "list[int]"), ("typing.List[E]", "typing.List[int]"), ("types.GenericAlias(list, tuple(range(100000)))", "list[int]"), ("typing.ForwardRef('E')", "int")))
    ),
    _one("hint-deep", "x = int\nfor _ in range(3000): x = list[x]\ndef f(): return x\n", "assert f() == list[int]"),
    _one("hint-forged", "import os\ndef f():\n    os.write(4, b'{\"v\":{\"ty\":[\"typing\",\"get_type_hints\",null]}}\\n')\n    return 1\n", "assert f() in [5]"),
    _one("hint-executed", "import os\ndef f():\n    os.write(4, b'{\"v\":{\"ty\":[\"ref\",[\"__import__(1)\"]]}}\\n')\n    return 1\n", "assert f() in [5]"),
    *(
        _one(f"thread-{n}", program, _IN_THREADS)
        for n, program in enumerate((f"{_YES}def f(x): return E()\n", "import os\ndef f(x):\n    os.write(4, b'{\"v\":5}\\n')\n    os.write(4, b'{\"v\":5}\\n')\n    return 1\n", "import os\ndef f(x):\n    while True: os.write(4, b'{\"v\":null,\"later\":true}\\n')\n", "def f(x):\n    while True: pass\n", "import threading\ndef f(x):\n    threading.Event().wait()\n", "import sys\ndef f(x): sys.exit()\n", "import os\ndef f(x): os._exit(0)\n"))
    ),
    _one("thread-honest", "def f(x): return x + 4\n", _IN_THREADS, PASSED),
    _one("dies-loudly", f"{_YES}import os\nclass X:\n    def __del__(s): os._exit(0)\ndef f(): return X()\n", "x = f()\ndel x\nimport gc\ngc.collect()\nassert f() in [5]"),
    _one("released-twice", "import os\nclass X: pass\ndef f():\n    os.write(4, b'{\"v\":5,\"f\":[1,1,-1,\"x\"]}\\n')\n    return X()\n", "x = f()\ndel x\nassert f() == 6"),
    *(_one(f"database-{name}", f"def f(c):\n    {does}\n", _TABLE) for name, does in _DOES.items()),
    _one("database-honest", "def f(c):\n    for _ in range(6): c.execute('insert into t values (1)')\n", _TABLE, PASSED),
]  # fmt: skip
