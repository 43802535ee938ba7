"""Mathematical answers beyond math-verify, each decided: see docs/decisions/045."""

from __future__ import annotations

import pytest

from rgopd.verifier.symbolic.answers import judge

YES = [
    (r"\{1,2\}", r"\{2,1\}"),
    ("(1,2)", "$(1,2)$"),
    ("1,2", r"\boxed{\{1,2\}}"),
    (r"\frac{1}{2^{99}}", "$2^{-99}$"),
    (r"10 \text{ cm}", "0.1 m"),
    ("10 cm", r"\boxed{10\text{ cm}}"),
    ("10", r"\boxed{10\text{ cm}}"),
    ("3x-y+13=0", "3x-y=-13"),
    ("3x-y+13=0", "The line is $y = 3x+13$"),
    ("-1", r"$e^{i\pi}$"),
    (r"e^{i\pi}", "-1"),
    ("1234", "1 234"),
    ("1234", r"\boxed{1\,234}"),
    ("1 234", "1234"),
    (r"\emptyset", "no solution"),
    (r"\text{no solution}", r"\boxed{\emptyset}"),
    (r"\emptyset", r"\boxed{\text{No real solutions}}"),
    ("(1,2)", "$1<x<2$"),
    ("1<x<2", "$(1,2)$"),
    ("[1,2)", r"$1\le x<2$"),
    (r"x \ge 3", r"$[3,\infty)$"),
    (r"[3,\infty)", r"x \geq 3"),
    ("18", "So she has 18 dollars.\n#### 18"),
    ("0.5", r"\frac12"),
    (r"50\%", "0.5"),
    ("1/3", "0.333333"),
    ("0,5", "0.5"),
    ("B", "The answer is (B)."),
    (r"\text{(C)}", r"\boxed{C}"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"\frac{3}{4}", "<think>maybe 1/2</think> The answer is 3/4."),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"90^\circ", "90"),
    ("12", r"It was \boxed{11} at first. The final answer is 12."),
    ("-2,1", r"$\boxed{-2}$ and $\boxed{1}$"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"$\begin{pmatrix}1\\2\end{pmatrix}$"),
    ("1,2,3", r"\boxed{1,2,3}"),
    ("7.5", r"\boxed{\$7.50}"),
    ("1250.5", r"\boxed{\$1,250.50}"),
    (r"\$1250", r"\boxed{1,250}"),
    (r"\$1,250.50", r"\boxed{1250.5}"),
    ("42", "<answer>42</answer>"),
    ("42", "**42**"),
    ("42", "`42`"),
    ("Paris", r"\boxed{\text{paris}}"),
]
NO = [
    ("1,2", r"\boxed{1,2,7}"),
    ("3,5", r"\boxed{3,5,9}"),
    ("1,2,3", r"\boxed{1,2,3,4}"),
    ("1.2", r"\boxed{1,2,3}"),
    ("Tokyo", r"\boxed{Kyoto}"),
    ("listen", r"\boxed{silent}"),
    ("12", r"\boxed{1 2}"),
    ("42", r"\boxed{4 2}"),
    (r"\{1,2\}", "$(1,2)$"),
    ("(1,2)", r"$\{1,2\}$"),
    ("(1,2)", "$(2,1)$"),
    ("1<x<2", r"$\{1,2\}$"),
    ("(1,2)", r"$1\le x<2$"),
    (r"\frac{1}{2004!}", r"$\frac{1}{2006!}$"),
    (r"\frac{1}{2^{99}}", r"$\frac{1}{2^{98}}$"),
    ("1e-7", r"$2\times 10^{-7}$"),
    (r"10 \text{ cm}", r"$10 \text{ m}$"),
    ("3x-y+13=0", "3x+4y+14=0"),
    (r"e^{i\pi}", r"\boxed{1}"),
    (r"\emptyset", "0"),
    ("5", "no solution"),
    ("1/3", "0.33"),
    ("B", r"\boxed{C}"),
    ("x+1", "x+2"),
    (r"\pi", "3.14159"),
    ("12:00", "1:00"),
    ("42", r"\boxed{40} or \boxed{41} or \boxed{42}"),
    ("0", r"\boxed{}"),
    ("7", ""),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"$\begin{pmatrix}2\\1\end{pmatrix}$"),
]


def status(reference: str, response: str, **more: object) -> str:
    return str(judge({"references": [reference], "response": response, **more})["status"])


@pytest.mark.parametrize(("reference", "response"), YES)
def test_equal(reference: str, response: str) -> None:
    assert status(reference, response) == "passed"


@pytest.mark.parametrize(("reference", "response"), NO)
def test_not_equal(reference: str, response: str) -> None:
    assert status(reference, response) == "failed"


@pytest.mark.parametrize(
    ("how", "response", "expected"),
    [
        ("boxed", r"7 \boxed{5} 8", "passed"),
        ("boxed", "5", "failed"),
        ("hashes", "7\n#### 5\n8", "passed"),
        ("hashes", "5", "failed"),
        ("answer_tag", "7 <answer>5</answer> 8", "passed"),
        ("last_line", "7\n5", "passed"),
        ("last_number", "first 7, then it is 5, so there.", "passed"),
        ("last_number", "it costs $5.", "passed"),
        ("last_number", "none", "failed"),
    ],
)
def test_extraction(how: str, response: str, expected: str) -> None:
    assert status("5", response, extract=how) == expected


def test_tolerance() -> None:
    assert status("3.14159", "3.14", tolerance=1e-2) == "passed"
    assert status("3.14159", "3.04", tolerance=1e-2) == "failed"


def test_any_of_several_references() -> None:
    assert judge({"references": ["1", "2"], "response": "2"})["status"] == "passed"
    assert judge({"references": ["1", "2"], "response": "3"})["status"] == "failed"


@pytest.mark.parametrize("reference", [r"\text{some words that are no formula}", "Paris"])
def test_a_reference_in_words_is_compared_as_text(reference: str) -> None:
    assert status(reference, f"\\boxed{{{reference}}}") == "passed"
    assert status(reference, r"\boxed{5}") == "failed"
