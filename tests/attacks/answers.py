# ruff: noqa: E501 - programs under test, one a line
"""Answers in text that want to run, to hang, or to be believed."""

from __future__ import annotations

from tests.attacks.case import FAILED, PASSED, Case, answer


def answers(canary: str) -> list[Case]:
    """Mathematical bombs, injections into what parses them, and texts that are slow to search."""
    inject = f"__import__('os').system('touch {canary}/written')"
    return [
        answer("math-tower", "$9^{9^{9^9}}$"),
        answer("math-tower-plain", "9**9**9**9"),
        answer("math-factorial", "$1000000000!$"),
        answer("math-binomial", "$\\binom{1000000000}{500000000}$"),
        answer("math-sum", "$\\sum_{k=1}^{1000000} k^k$"),
        answer("math-braces", "$" + "{" * 3000 + "1" + "}" * 3000 + "$"),
        answer("math-fractions", "$" + "\\frac{1}{" * 1500 + "2" + "}" * 1500 + "$"),
        answer("math-roots", "\\boxed{" + "\\sqrt{" * 500 + "2" + "}" * 500 + "}"),
        answer("math-set", "$\\{" + ",".join(map(str, range(2000))) + "\\}$"),
        answer("math-megabyte", "$" + "x^2+" * 250_000 + "1$"),
        answer("math-megabyte-of-boxes", "\\boxed{" * 150_000),
        answer("math-long-number", "9" * 1_000_000),
        answer("math-inject-expression", inject),
        answer("math-inject-boxed", f"\\boxed{{{inject}}}"),
        answer("math-inject-dollar", f"${inject}$"),
        answer("math-inject-import", "The answer is exec(\"import os; os._exit(0)\")"),
        answer("math-equal-to-all", "\\boxed{x}", "42"),
        answer("math-all-answers", "\\boxed{40} or \\boxed{41} or \\boxed{42} or \\boxed{43}", "42"),
        answer("math-infinity", "$\\infty$"),
        answer("math-not-a-number", "$0/0$"),
        answer("math-empty", ""),
        answer("math-nul", "\\boxed{4\x002}"),
        answer("math-honest", "\\boxed{42}", expected=PASSED),
        *(
            Case(f"code-slow-{name}", {"kind": "code", "response": text, "tests": ["assert f(1) == 1"]}, FAILED)
            for name, text in {
                "fences": "```python\n" * 100_000,
                "quotes": "```python\n" + '"""\n' * 250_000,
                "tags": "<code>" * 160_000,
                "corrections": "```python\ndef f(x): return 0\n```\n" * 30_000,
                "prose": "def f(x): return 0\nAnd so on.\n" * 30_000,
            }.items()
        ),
        Case("choice-slow-text", {"kind": "choice", "response": "answer is " * 100_000, "reference": "B"}, FAILED),
        Case("choice-slow-blanks", {"kind": "choice", "response": "answer" + " " * 1_000_000, "reference": "B"}, FAILED),
        Case("choice-slow-stars", {"kind": "choice", "response": "*" * 1_000_000 + "x", "reference": "B"}, FAILED),
        Case(
            "exact-slow-boxes",
            {"kind": "exact", "response": "\\boxed{" * 100_000, "reference": "42", "extract": "boxed"},
            FAILED,
        ),
        Case(
            "constraints-slow-text",
            {
                "kind": "constraints",
                "response": "a-" * 400_000 + "*" * 100_000 + "[" * 100_000,
                "constraints": [{"name": n, "at_least": 10**9} for n in ("words", "highlights", "placeholders", "bullets")],
            },
            FAILED,
        ),
        Case(
            "constraints-slow-sentences",
            {
                "kind": "constraints",
                "response": "." * 1_000_000 + "x",
                "constraints": [{"name": "sentences", "at_least": 10**9}],
            },
            FAILED,
        ),
        Case("choice-announced-stars", {"kind": "choice", "response": "answer" + "*" * 1_000_000, "reference": "B"}, FAILED),
        Case(
            "compare-slow-number",
            {
                "kind": "code",
                "response": "print('9' * 1_000_000 + 'x')",
                "compare": "float",
                "tests": [{"stdin": "", "stdout": "3.14"}],
            },
            FAILED,
        ),
        Case("code-fences", {"kind": "code", "response": "```" * 300_000, "tests": ["assert f() == 1"]}, FAILED),
        Case("code-open-fences", {"kind": "code", "response": "```python\n" * 20_000, "tests": ["assert f() == 1"]}, FAILED),
    ]  # fmt: skip
