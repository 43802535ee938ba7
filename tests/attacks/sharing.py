# ruff: noqa: E501 - programs under test, one a line
"""What tests and programs share where tests touch files, pickles, seeds and the like: no way to the tests' own."""

from __future__ import annotations

from tests.attacks.case import FAILED, PASSED, Case

_OUTCOMES = '{"ok":true,"reason":""}\\n{"end":true}\\n'
_KEYED = '{"ok":true,"reason":"","key":""}\\n{"end":true,"key":""}\\n'
_WRITES = "with open('out.txt', 'w') as file: file.write(f())\nassert f() == 'right'"
_EVIL = "import os\nclass Evil:\n    def __reduce__(s): return os.write, (5, b'" + _OUTCOMES + "')\n"
_READS = "SECRET = 'needle'\nassert 'needle' in open(f()).read()"


def _one(name: str, program: str, test: str, expected: frozenset[str] = FAILED) -> Case:
    limits = {"cpu_s": 2, "wall_s": 5}
    return Case(f"shared-{name}", {"kind": "code", "response": program, "tests": [test], "limits": limits}, expected)


SHARING: list[Case] = [
    *(_one(f"link-to-verdicts-{n}", f"import os\nfor to in ('/proc/self/fd/5', '/dev/fd/5', '/proc/thread-self/fd/5'):\n    try:\n        os.symlink(to, 'out.txt')\n        break\n    except OSError: pass\ndef f(): return {text!r}", _WRITES) for n, text in enumerate((_OUTCOMES, _KEYED))),
    *(_one(f"path-of-the-tests-{n}", f"def f(): return {path!r}", _READS) for n, path in enumerate(("/proc/self/fd/3", "/dev/fd/3", "/proc/self/mem", "/proc/self/environ", "/proc/self/cmdline", 3, 4, 5))),
    _one("number-of-verdicts", "def path(): return 5\ndef f(): return " + repr(_OUTCOMES), "with open(path(), 'w', closefd=False) as file: file.write(f())\nassert f() == 'right'"),
    _one("number-of-channel", "def path(): return 4\ndef f(): return '{\"v\":\"right\"}\\n'", "with open(path(), 'w', closefd=False) as file: file.write(f())\nassert f() == 'right'"),
    _one("link-in-a-tar", "import tarfile, io\ndef make(path):\n    with tarfile.open(path, 'w') as t:\n        i = tarfile.TarInfo('out.txt'); i.type = tarfile.SYMTYPE; i.linkname = '/proc/self/fd/5'; t.addfile(i)\ndef f(): return " + repr(_OUTCOMES), "import tarfile\nmake('a.tar')\ntarfile.open('a.tar').extractall()\n" + _WRITES),
    _one("pipe-that-hangs", "import os\nos.mkfifo('out.txt')\ndef f(): return 1", "assert open('out.txt').read() == 'x'"),
    _one("hang-on-a-lock", "import fcntl\nfile = open('out.txt', 'w')\nfcntl.lockf(file, fcntl.LOCK_EX)\ndef f(): return 1", "import fcntl\nwith open('out.txt', 'w') as file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\nassert f() == 2"),
    _one("pickle-file", _EVIL + "import pickle\ndef save(path): pickle.dump(Evil(), open(path, 'wb'))\n", "import pickle\nsave('a.pkl')\nassert pickle.load(open('a.pkl', 'rb')) == 5"),
    _one("pickle-bytes", _EVIL + "import pickle\ndef f(): return pickle.dumps(Evil())\n", "import pickle\nassert pickle.loads(f()) == 5"),
    _one("pickle-class", _EVIL + "import pickle\ndef f(): return pickle.dumps(Evil())\n", "import pickle, io\nassert pickle.Unpickler(io.BytesIO(f())).load() == 5"),
    _one("pickle-in-python", _EVIL + "import pickle\ndef f(): return pickle.dumps(Evil())\n", "import pickle, io\nassert pickle._Unpickler(io.BytesIO(f())).load() == 5"),
    _one("pickle-imported-name", _EVIL + "import pickle\ndef f(): return pickle.dumps(Evil())\n", "from pickle import loads\nassert loads(f()) == 5"),
    _one("pickle-eval", "def f(): return b'cbuiltins\\neval\\n(V__import__(\"os\").write(5, b\"x\")\\ntR.'", "import pickle\nassert pickle.loads(f()) == 5"),
    _one("shelve", _EVIL + "import shelve\ndef save(path):\n    with shelve.open(path) as s: s['a'] = Evil()\n", "import shelve\nsave('a')\nwith shelve.open('a') as s: assert s['a'] == 5"),
    _one("seeds-stay", "import random\ndef f(x):\n    random.setstate((3, (0,) * 624 + (624,), None))\n    random.seed(1)\n    return x\n", "import random\nrandom.seed(7)\nf(1)\na = random.random()\nrandom.seed(7)\nb = random.random()\nassert a == b", PASSED),
    _one("said-in-vain", "import os\ndef f():\n    os.write(4, b'{\"v\":5,\"z\":{\"said\":[[\"os\",1]]}}\\n')\n    return 1", "import warnings\nassert f() in [5]"),
    _one("environment-of-numbers", "import os\ndef f():\n    os.write(4, b'{\"v\":5,\"z\":{\"environ\":5}}\\n')\n    return 1", "import os\nos.environ['A'] = 'b'\nassert f() in [5]"),
    _one("folder-of-numbers", "import os\ndef f():\n    os.write(4, b'{\"v\":6,\"z\":{\"cwd\":5}}\\n')\n    return 1", "import os\nassert os.getcwd()\nassert f() in [5]"),
    _one("patched-with-eval", "import math\ndef f():\n    try: return math.floor(\"__import__('os').write(5, b'x')\")\n    except TypeError as e: return str(e)", "from unittest.mock import patch\nwith patch('math.floor', eval): assert 'may not call' in f()", PASSED),
    _one("given-a-file", "import io\ndef f(file):\n    found = []\n    for name in ('__init__', '__class__', '__reduce_ex__', '__dict__'):\n        try: found.append(getattr(file, name)(5))\n        except Exception as e: found.append('may not' in str(e) or type(e).__name__)\n    return 'x'", "with open('a', 'w') as file: assert f(file) == 5"),
    _one("claims-a-base", "import os\ndef f():\n    os.write(4, b'{\"c\":[[1,{\"n\":\"X\",\"b\":[],\"s\":[],\"f\":[],\"meta\":[],\"lib\":[[\"unittest.mock\",\"_patch\"],[\"os\",\"PathLike\"]]}]],\"v\":{\"h\":2,\"k\":1}}\\n')\n    return 1", "from unittest.mock import patch\nwith f() as x: pass\nassert x == 5"),
    _one("lies-about-instances", "class M(type):\n    def __instancecheck__(c, x): return True\nclass N(metaclass=M): pass\ndef f(): return N()", "assert isinstance(f(), int)"),
    _one("patched-global-is-not-the-tests", "def f(): return 1\ndef g():\n    import __main__, solution\n    return hasattr(__main__, 'SECRET') or hasattr(solution, 'SECRET')", "SECRET = 5\nimport solution\nsolution.x = 1\nassert g() is False", PASSED),
    # what honest programs do with files, on every rung
    _one("honest-files", "import os\ndef save(p): open(p, 'w').write('x')\ndef load(p): return open(p).read()", "import os, tempfile\nsave('a')\nassert open('a').read() == 'x'\nwith tempfile.NamedTemporaryFile('w', delete=False) as t: t.write('y')\nassert load(t.name) == 'y'\nos.remove('a')\nos.remove(t.name)", PASSED),
]  # fmt: skip

_FILES = ("link-to", "path-of-the-tests-0", "path-of-the-tests-7", "number-of-verdicts", "pipe", "honest")
SHARED_FILES = [case for case in SHARING if any(word in case.name for word in _FILES)]
"""Those whose way depends on the rung."""
