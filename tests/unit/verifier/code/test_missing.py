"""A library that exists and is not in the sandbox is no fault of the answer."""

from __future__ import annotations

import pytest

from rgopd.verifier.code.missing import KNOWN, as_missing_library
from rgopd.verifier.verdict import Status, failed, passed

REASON = "test 1 of 1: raised ModuleNotFoundError: No module named '{}'"


@pytest.mark.parametrize(
    ("module", "program"),
    [
        ("torch", "import torch\n"),
        ("sklearn", "def f():\n    from sklearn.linear_model import Ridge\n"),
        ("torch.nn", "import math, torch.nn as nn\n"),
        ("tkinter", "import tkinter\n"),
        ("distutils", "import distutils\n"),
        ("_tkinter", "import _tkinter\n"),
    ],
)
def test_known_libraries_give_no_reward(module: str, program: str) -> None:
    verdict = as_missing_library(failed(REASON.format(module), extracted=program))
    assert verdict.status is Status.error
    assert module.partition(".")[0] in verdict.reason


@pytest.mark.parametrize(
    ("reason", "program"),
    [
        (REASON.format("no_such_thing"), "import no_such_thing\n"),
        (REASON.format("torch"), "raise ModuleNotFoundError(\"No module named 'torch'\")\n"),
        ("test 1 of 1: raised AttributeError: module 'numpy' has no attribute 'x'", "import numpy\n"),
        ("test 1 of 1: returned 1, expected 2", "import torch\n"),
    ],
)
def test_all_else_stays_failed(reason: str, program: str) -> None:
    assert as_missing_library(failed(reason, extracted=program)).status is Status.failed


@pytest.mark.parametrize(
    ("module", "status"),
    [
        ("numpy.nothing", Status.failed),
        ("numpy", Status.error),
        ("collections.nothing", Status.failed),
        ("torch.nn", Status.error),
    ],
)
def test_a_part_that_a_library_does_not_have_exists_nowhere(module: str, status: Status) -> None:
    said = as_missing_library(failed(REASON.format(module), extracted=f"import {module}\n"), frozenset({"numpy"}))
    assert said.status is status


def test_a_passed_answer_stays() -> None:
    assert as_missing_library(passed(extracted="import torch\n")).status is Status.passed


def test_the_list_has_what_it_should() -> None:
    assert {"torch", "sklearn", "cv2", "PIL", "bs4", "yaml", "requests", "numpy", "socket"} <= KNOWN
