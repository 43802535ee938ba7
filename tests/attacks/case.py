"""What an attack is: an item for the verifier, and which verdicts are acceptable."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import Any

NEVER_PASSED = frozenset({"failed", "error"})
FAILED = frozenset({"failed"})
PASSED = frozenset({"passed"})

# Wrong on purpose: nothing but a trick can make these pass.
ADD_CALLS = ["assert add(2, 3) == 5", "assert add(20, 30) == 50"]
ADD_CHECK = "def check(f):\n    for a, b in ((2, 3), (20, 30)):\n        assert f(a, b) == a + b, (a, b)\n"
MACHINE = platform.machine()


@dataclass(frozen=True)
class Case:
    """One item and the statuses that may come out. `text` must not appear anywhere in the verdict."""

    name: str
    fields: dict[str, Any]
    expected: frozenset[str]
    never_shown: tuple[str, ...] = ()
    reason: str = ""
    follows: dict[str, Any] = field(default_factory=dict)


def forged(name: str, program: str, *, limits: dict[str, Any] | None = None) -> list[Case]:
    """A wrong add() with a trick, against plain asserts, against a check function, and as a printing program."""
    common = {"kind": "code", "response": program, "limits": limits or {"cpu_s": 1, "wall_s": 4}}
    return [
        Case(f"{name}-asserts", {**common, "tests": ADD_CALLS}, FAILED),
        Case(f"{name}-check", {**common, "test": ADD_CHECK, "entry_point": "add"}, FAILED),
    ]


def escape(name: str, body: str, *, limits: dict[str, Any] | None = None, expected: frozenset[str] = FAILED) -> Case:
    """`body` is the inside of a function that returns a true value only if it got out."""
    lines = "\n".join("        " + line for line in body.strip("\n").splitlines())
    program = (
        "import os, sys, ctypes, socket, signal, time\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def attack():\n    try:\n"
        f"{lines}\n"
        "        got = bool(got)\n"
        "    except Exception as error:\n        return f'refused: {type(error).__name__} {error}'\n"
        "    return 'escaped' if got else 'refused'\n"
    )
    fields = {
        "kind": "code",
        "response": program,
        "tests": ["assert attack() == 'escaped'"],
        "limits": limits or {"cpu_s": 2, "wall_s": 5},
    }
    return Case(name, fields, expected)


def raw_syscall(name: str, x86_64: int, generic: int, arguments: str = "0, 0, 0, 0, 0, 0") -> Case:
    """The call by number, past every libc wrapper. Escaped when the kernel does it."""
    number = x86_64 if MACHINE == "x86_64" else generic
    return escape(f"syscall-{name}", f"got = libc.syscall({number}, {arguments}) >= 0")


def resource(name: str, program: str, *, limits: dict[str, Any], reason: str = "", tool: bool = False) -> Case:
    """A program that uses up something; it never prints what it should."""
    del tool
    tests = [{"stdin": "", "stdout": "done"}]
    return Case(name, {"kind": "code", "response": program, "tests": tests, "limits": limits}, FAILED, reason=reason)


def answer(name: str, response: str, reference: str = "42", expected: frozenset[str] = NEVER_PASSED) -> Case:
    """A mathematical answer."""
    return Case(name, {"kind": "math", "response": response, "reference": reference}, expected)
