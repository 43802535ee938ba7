"""The problem families of the demo task: prompts, answers, and the two ways of working each one out.

A family knows the *right* worked solution and one *slip*, a consistent wrong way (a misconception).
Only the checkpoint maker reads the worked solutions; a dataset row carries the reference alone, and at
run time the verifier judges final answers, whatever way they were reached.

Domain ``A``: the student holds the slip often, the teacher hardly ever (there the teacher is worth following).
Domain ``B``: the *teacher* holds the slip, the student is mostly right (there following the teacher unlearns).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Operands = tuple[Any, ...]
LETTERS = "abcmnpxy"
CODE_ARGUMENTS = ((7, 2), (3, 8), (10, 4), (5, 9))
"""Arguments of the code kind's tests: no quotient is whole for every pair, and both orders of size occur."""


@dataclass(frozen=True)
class Problem:
    """One problem with its worked solutions; ``trait`` (0..7) sets how often a slip is seen in it."""

    domain: str
    kind: str
    prompt: str
    right: str
    slip: str
    answer: dict[str, Any]
    trait: int


@dataclass(frozen=True)
class Family:
    """``operands`` enumerates all problems of the family; ``build`` turns one operand tuple into a problem."""

    domain: str
    operands: Callable[[], Iterator[Operands]]
    build: Callable[[str, Operands], Problem]

    def problems(self) -> list[Problem]:
        """All problems of the family, in a fixed order."""
        return [self.build(self.domain, operands) for operands in self.operands()]


def _math(domain: str, trait: int, prompt: str, right: tuple[str, ...], slip: tuple[str, ...]) -> Problem:
    """A math problem; each solution is a tuple of steps ``lhs=value`` whose last value is the answer."""

    def write(steps: tuple[str, ...]) -> str:
        shown = steps if "=" in steps[-1] else steps[:-1]
        final = "\\boxed{" + steps[-1].split("=")[-1] + "}"
        return ";".join((*shown, final))

    answer = {"reference": right[-1].split("=")[-1]}
    return Problem(domain, "math", prompt, write(right), write(slip), answer, trait % 8)


def _grid(*axes: range) -> Callable[[], Iterator[Operands]]:
    return lambda: itertools.product(*axes)


def _add_mul(domain: str, ops: Operands) -> Problem:
    a, b, c = ops
    right = (f"{b}*{c}={b * c}", f"{a}+{b * c}={a + b * c}")
    return _math(domain, c, f"{a}+{b}*{c}", right, (f"{a}+{b}={a + b}", f"{a + b}*{c}={(a + b) * c}"))


def _mul_add(domain: str, ops: Operands) -> Problem:
    a, b, c = ops
    right = (f"{a}*{b}={a * b}", f"{a * b}+{c}={a * b + c}")
    return _math(domain, a, f"{a}*{b}+{c}", right, (f"{b}+{c}={b + c}", f"{a}*{b + c}={a * (b + c)}"))


def _brackets(domain: str, ops: Operands) -> Problem:
    a, b, c = ops
    right = (f"{b}+{c}={b + c}", f"{a}*{b + c}={a * (b + c)}")
    return _math(domain, b, f"{a}*({b}+{c})", right, (f"{a}*{b}={a * b}", f"{a * b}+{c}={a * b + c}"))


def _borrow(domain: str, ops: Operands) -> Problem:
    a, b, c = ops
    product, right = a * b, a * b - c
    first = f"{a}*{b}={product}"
    return _math(domain, c, f"{a}*{b}-{c}", (first, f"{product}-{c}={right}"), (first, f"{product}-{c}={right + 10}"))


def _borrow_operands() -> Iterator[Operands]:
    for a, b, c in itertools.product(range(2, 10), range(2, 10), range(1, 10)):
        if a * b >= 10 and (a * b) % 10 < c:
            yield a, b, c


def _sign(domain: str, ops: Operands) -> Problem:
    a, b, c = ops
    right = (f"{b}-{c}={b - c}", f"{a}-{b - c}={a - b + c}")
    return _math(domain, b, f"{a}-({b}-{c})", right, (f"{a}-{b}={a - b}", f"{a - b}-{c}={a - b - c}"))


def _sign_operands() -> Iterator[Operands]:
    for a, b, c in itertools.product(range(11, 25), range(2, 10), range(1, 9)):
        if c < b and a >= b + c:
            yield a, b, c


def _carry(domain: str, ops: Operands) -> Problem:
    a, b = ops
    ones, tens = a % 10 + b % 10, 10 * (a // 10 + b // 10)
    steps = (f"{a % 10}+{b % 10}={ones}", f"{a - a % 10}+{b - b % 10}={tens}")
    right, slip = f"{tens}+{ones}={tens + ones}", f"{tens}+{ones}={tens + ones - 10}"
    return _math(domain, a % 10, f"{a}+{b}", (*steps, right), (*steps, slip))


def _carry_operands() -> Iterator[Operands]:
    for a, b in itertools.product(range(11, 50), range(11, 50)):
        if a % 10 + b % 10 >= 10:
            yield a, b


def _hasty(domain: str, ops: Operands) -> Problem:
    """The slip is to answer outright, which a model of this size often gets wrong: not a wrong belief."""
    totals = list(itertools.accumulate(ops))
    right = tuple(f"{before}+{x}={after}" for before, x, after in zip(totals, ops[1:], totals[1:], strict=False))
    return _math(domain, ops[0], "+".join(map(str, ops)), right, (str(totals[-1]),))


def _hasty_operands() -> Iterator[Operands]:
    rng = random.Random(0)
    return iter(sorted({tuple(rng.randint(1, 9) for _ in range(5)) for _ in range(1500)}))


def _square(domain: str, ops: Operands) -> Problem:
    """Slip: reads ``a^2`` as twice ``a``."""
    a, b, form = ops
    prompt = {"+": f"{a}^2+{b}", "-": f"{a}^2-{b}", "r": f"{b}+{a}^2"}[form]

    def finish(square: int) -> str:
        value = square - b if form == "-" else square + b
        shown = f"{b}+{square}" if form == "r" else f"{square}{form}{b}"
        return f"{shown}={value}"

    right, slip = (f"{a}*{a}={a * a}", finish(a * a)), (f"2*{a}={2 * a}", finish(2 * a))
    return _math(domain, b, prompt, right, slip)


def _square_operands() -> Iterator[Operands]:
    for a, b, form in itertools.product(range(3, 13), range(1, 10), "+-r"):
        if form != "-" or b <= 2 * a:
            yield a, b, form


def _left_to_right(domain: str, ops: Operands) -> Problem:
    """Slip: adds before it subtracts, as a misread mnemonic has it."""
    a, b, c = ops
    right = (f"{a}-{b}={a - b}", f"{a - b}+{c}={a - b + c}")
    return _math(domain, c, f"{a}-{b}+{c}", right, (f"{b}+{c}={b + c}", f"{a}-{b + c}={a - b - c}"))


def _code(
    phrase: str, right: str, slip: str, value: Callable[[int, int, int], int]
) -> Callable[[str, Operands], Problem]:
    """A code family over two parameters and a factor: templates in ``{x} {y} {k}``, and what is to be returned."""

    def build(domain: str, ops: Operands) -> Problem:
        x, y, k = ops
        fill = {"x": x, "y": y, "k": k}
        head = f"def f({x}, {y}):\n    return "
        tests = [{"args": [p, q], "expected": value(p, q, k)} for p, q in CODE_ARGUMENTS]
        answer = {"entry_point": "f", "tests": tests}
        prompt = f"f({x},{y}): " + phrase.format(**fill)
        return Problem(domain, "code", prompt, head + right.format(**fill), head + slip.format(**fill), answer, k % 8)

    return build


def _code_operands() -> Iterator[Operands]:
    for x, y, k in itertools.product(LETTERS, LETTERS, range(2, 10)):
        if x != y:
            yield x, y, k


_code_order = _code("take {k}{x} from {y}", "{y}-{k}*{x}", "{k}*{x}-{y}", lambda x, y, k: y - k * x)
_code_brackets = _code("{k} times the sum", "{k}*({x}+{y})", "{k}*{x}+{y}", lambda x, y, k: k * (x + y))
_code_floor = _code("{k}{x} over {y}, floored", "{k}*{x}//{y}", "{k}*{x}/{y}", lambda x, y, k: k * x // y)
_code_gap = _code("gap of {x} and {k}{y}", "abs({x}-{k}*{y})", "{x}-{k}*{y}", lambda x, y, k: abs(x - k * y))

_DIGIT, _FACTOR = range(1, 10), range(2, 10)
FAMILIES: tuple[Family, ...] = (
    Family("A/add_mul", _grid(_DIGIT, _FACTOR, _FACTOR), _add_mul),
    Family("A/mul_add", _grid(_FACTOR, _FACTOR, _DIGIT), _mul_add),
    Family("A/brackets", _grid(_FACTOR, _FACTOR, _FACTOR), _brackets),
    Family("A/borrow", _borrow_operands, _borrow),
    Family("A/sign", _sign_operands, _sign),
    Family("A/carry", _carry_operands, _carry),
    Family("A/hasty", _hasty_operands, _hasty),
    Family("A/code_order", _code_operands, _code_order),
    Family("A/code_brackets", _code_operands, _code_brackets),
    Family("B/square", _square_operands, _square),
    Family("B/left_to_right", _grid(range(19, 31), _FACTOR, _FACTOR), _left_to_right),
    Family("B/code_floor", _code_operands, _code_floor),
    Family("B/code_gap", _code_operands, _code_gap),
)
