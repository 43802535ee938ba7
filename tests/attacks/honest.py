# ruff: noqa: E501 - programs under test, one a line
"""Right answers of every sort: a sandbox that fails these is no use. They run between the attacks."""

from __future__ import annotations

from tests.attacks.case import PASSED, Case

_LINES = "3\n1 2 3\n"
_SUM = {"tests": [{"stdin": _LINES, "stdout": "6\n"}]}
_READERS = {
    "input": "n = int(input())\nprint(sum(map(int, input().split())))",
    "stdin-read": "import sys\nd = sys.stdin.read().split()\nprint(sum(map(int, d[1:])))",
    "stdin-lines": "import sys\nls = [l for l in sys.stdin]\nprint(sum(map(int, ls[1].split())))",
    "readline": "import sys\ninput = sys.stdin.readline\ninput()\nprint(sum(map(int, input().split())))",
    "buffer-readline": "import sys\ninput = sys.stdin.buffer.readline\ninput()\nsys.stdout.write(str(sum(map(int, input().split()))) + '\\n')",
    "buffer-read": "import sys\nd = sys.stdin.buffer.read().split()\nsys.stdout.buffer.write(b'%d\\n' % sum(map(int, d[1:])))",
    "open-0": "d = open(0).read().split()\nprint(sum(map(int, d[1:])))",
    "dev-stdin": "d = open('/dev/stdin').read().split()\nprint(sum(map(int, d[1:])))",
    "os-read": "import os\nd = os.read(0, 10**6).split()\nos.write(1, b'%d\\n' % sum(map(int, d[1:])))",
    "fileinput": "import fileinput\nd = ''.join(fileinput.input()).split()\nprint(sum(map(int, d[1:])))",
    "io-bytesio": "import io, os, sys\ninput = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline\ninput()\nprint(sum(map(int, input().split())))",
    "mmap": "import mmap\nd = mmap.mmap(0, 0, access=mmap.ACCESS_READ).read().split()\nprint(sum(map(int, d[1:])))",
    "global-function": "def main():\n    global total\n    input()\n    total = sum(map(int, input().split()))\nmain()\nprint(total)",
    "future-import": "from __future__ import annotations\ninput()\nprint(sum(map(int, input().split())))",
    "main-guard": "def main():\n    input()\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
    "exit-after": "import sys\ninput()\nprint(sum(map(int, input().split())))\nsys.exit()",
    "exit-zero": "input()\nprint(sum(map(int, input().split())))\nexit(0)",
    "atexit-flush": "import atexit, io, sys\nout = io.StringIO()\natexit.register(lambda: sys.__stdout__.write(out.getvalue()))\ninput()\nprint(sum(map(int, input().split())), file=out)",
    "thread-with-stack": "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(64 << 20)\ndef main():\n    input()\n    print(sum(map(int, input().split())))\nt = threading.Thread(target=main)\nt.start()\nt.join()",
    "eof-error": "t = 0\nwhile True:\n    try: line = input()\n    except EOFError: break\n    t = sum(map(int, line.split()))\nprint(t)",
    "dataclass-and-typing": "from dataclasses import dataclass\nfrom typing import get_type_hints\n@dataclass\nclass P:\n    x: int\nget_type_hints(P)\ninput()\nprint(sum(P(int(x)).x for x in input().split()))",
    "asyncio": "import asyncio\nasync def main():\n    input()\n    print(sum(map(int, input().split())))\nasyncio.run(main())",
    "temporary-file": "import tempfile\nwith tempfile.TemporaryFile('w+') as f:\n    f.write(open(0).read()); f.seek(0)\n    print(sum(map(int, f.read().split()[1:])))",
    "stdout-kept-aside": "import io, sys\nold = sys.stdout\nsys.stdout = io.StringIO()\ninput()\nprint(sum(map(int, input().split())))\nold.write(sys.stdout.getvalue())",
    "fdopen-left-open": "import os\nout = os.fdopen(1, 'w')\ninput()\nout.write(f'{sum(map(int, input().split()))}\\n')",
    "open-1-left-open": "w = open(1, 'w')\ninput()\nprint(sum(map(int, input().split())), file=w)",
    "no-inherited-future": "def f(x: int): pass\nassert f.__annotations__['x'] is int\ninput()\nprint(sum(map(int, input().split())))",
    "sample-output-behind": "```python\ninput()\nprint(sum(map(int, input().split())))\n```\nOutput:\n```\n6\n```",
    "fenced": "Here you are:\n```python\ninput()\nprint(sum(map(int, input().split())))\n```\nIt sums.",
}  # fmt: skip

HONEST: list[Case] = [
    *(Case(f"honest-{name}", {"kind": "code", "response": program, **_SUM}, PASSED) for name, program in _READERS.items()),
    Case("honest-recursion", {"kind": "code", "response": "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)", "tests": ["assert f(20000) == 20000"]}, PASSED),
    Case("honest-big-integer", {"kind": "code", "response": "import math\ndef f(n): return math.factorial(n)", "tests": ["import math\nassert f(3000) == math.factorial(3000)"]}, PASSED),
    Case("honest-namedtuple", {"kind": "code", "response": "from collections import namedtuple\nP = namedtuple('P', 'a b')\ndef f(): return P(1, 2)", "tests": ["assert f() == (1, 2)"]}, PASSED),
    Case("honest-int-enum", {"kind": "code", "response": "from enum import IntEnum\nclass C(IntEnum):\n    A = 3\ndef f(): return C.A", "tests": ["assert f() == 3"]}, PASSED),
    Case("honest-in-place", {"kind": "code", "response": "def f(xs): xs.sort()", "tests": ["xs = [3, 1]\nf(xs)\nassert xs == [1, 3]"]}, PASSED),
    Case("honest-raises", {"kind": "code", "response": "def f(x): raise ValueError('no')", "tests": ["try:\n    f(1)\n    raise AssertionError\nexcept ValueError as e:\n    assert str(e) == 'no'"]}, PASSED),
    Case("honest-callback", {"kind": "code", "response": "def f(g, x): return g(g(x))", "tests": ["assert f(lambda v: v + 1, 1) == 3"]}, PASSED),
    Case("honest-generator", {"kind": "code", "response": "def f(n):\n    yield from range(n)", "tests": ["assert list(f(3)) == [0, 1, 2]"]}, PASSED),
    Case("honest-class", {"kind": "code", "response": "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\ndef f(ps): return sum(p.a * p.b for p in ps)", "tests": ["assert f([Pair(1, 2), Pair(3, 4)]) == 14"]}, PASSED),
    Case("honest-shared-class", {"kind": "code", "response": "def f(n): return Node(n.v + 1)", "setup": "class Node:\n    def __init__(self, v): self.v = v", "tests": ["assert f(Node(1)).v == 2"]}, PASSED),
    Case("honest-solution-class", {"kind": "code", "response": "class Solution:\n    def add(self, a, b): return a + b", "entry_point": "Solution.add", "tests": [{"args": [1, 2], "expected": 3}]}, PASSED),
    Case("honest-own-exception", {"kind": "code", "response": "class Negative(ValueError): pass\ndef f(x): raise Negative('no')", "tests": ["try:\n    f(1)\n    raise AssertionError\nexcept ValueError as e:\n    assert str(e) == 'no'"]}, PASSED),
    Case("honest-setup-exception", {"kind": "code", "response": "def f(x): raise Bad('no')", "setup": "class Bad(Exception): pass", "tests": ["try:\n    f(1)\n    raise AssertionError\nexcept Bad as e:\n    assert str(e) == 'no'"]}, PASSED),
    Case("honest-json-error", {"kind": "code", "response": "import json\ndef f(x): return json.loads(x)", "tests": ["try:\n    f('{')\n    raise AssertionError\nexcept ValueError:\n    pass"]}, PASSED),
    Case("honest-container", {"kind": "code", "response": "class Stack:\n    def __init__(self): self.x = [7]\n    def __len__(self): return len(self.x)\n    def __getitem__(self, i): return self.x[i]\n    def __str__(self): return 'S7'", "tests": ["s = Stack()\nassert len(s) == 1 and s[0] == 7 and str(s) == 'S7'"]}, PASSED),
    Case("honest-typing-not-imported", {"kind": "code", "response": "class Solution:\n    def add(self, xs: List[int]) -> Optional[int]: return sum(xs)", "entry_point": "Solution.add", "tests": [{"args": [[1, 2]], "expected": 3}]}, PASSED),
    Case("honest-tuple-for-list", {"kind": "code", "response": "def f(): return (1, [2, (3,)])", "entry_point": "f", "tests": [{"args": [], "expected": [1, [2, [3]]]}]}, PASSED),
    Case("honest-stdlib", {"kind": "code", "response": "import colorsys, decimal, difflib, graphlib, hashlib, sqlite3, uuid, xml.dom.minidom, zoneinfo\ndef f(): return 1", "tests": ["assert f() == 1"]}, PASSED),
    Case("honest-uses-much-memory", {"kind": "code", "response": "def f():\n    x = bytearray(200 << 20)\n    return len(x) >> 20", "tests": ["assert f() == 200"], "limits": {"memory_mb": 400}}, PASSED),
    Case("honest-sixteen-threads", {"kind": "code", "response": "from concurrent.futures import ThreadPoolExecutor\ndef f():\n    with ThreadPoolExecutor(16) as p: return sum(p.map(int, range(100)))", "tests": ["assert f() == 4950"]}, PASSED),
]  # fmt: skip
